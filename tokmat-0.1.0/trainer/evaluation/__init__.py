# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What judges a model: degeneration and quality of its text, and how far its tail sees ahead."""
