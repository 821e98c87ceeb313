# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What comes with the arguments of the TokMatTrainer."""

import subprocess
import sys
from pathlib import Path

# Functions registered with atexit run last in, first out: this one after those of the trainer.
SCRIPT = """
import atexit, sys
import torch.distributed as dist
atexit.register(lambda: print("left open:", dist.is_initialized()))
sys.path.insert(0, sys.argv[1])
from trainer import TokMatTrainingArguments
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=0, world_size=1)
assert dist.is_initialized()
"""


def test_no_process_group_outlives_the_interpreter(tmp_path):
    command = [sys.executable, "-c", SCRIPT, Path(__file__).parents[1], tmp_path / "store"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "left open: False"
