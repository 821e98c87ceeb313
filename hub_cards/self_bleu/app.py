# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("self_bleu.py"))
