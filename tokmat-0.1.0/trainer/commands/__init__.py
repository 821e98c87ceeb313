# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `tokmat` does: a module per verb, its function `run` returning the exit code."""
