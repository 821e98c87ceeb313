# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A page on which one watches text mature: `runs` makes what it shows, `app` is the page (gradio, `tokmat[demo]`)."""
