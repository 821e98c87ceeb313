# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The command line as a user meets it, for the tests of verbs."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from trainer import cli

TINY = (
    "--backbone tiny --max-steps 4 --block-size 32 --vocab-size 300 --per-device-train-batch-size 4 --seed 3".split()
)
PROMPT = "Once upon a time"


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def start(*arguments, **kwargs):
    """The command as a process of its own."""
    command = [sys.executable, "-c", "from trainer.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    return subprocess.Popen(command, env=environment, **kwargs)


def assert_one_line_error(result, *expected):
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("tokmat ")]
    assert len(lines) == 1 and "usage" not in result.output and "Traceback" not in result.output
    assert result.stderr.rstrip().endswith(lines[0])
    for text in expected:
        assert text in lines[0]


def same_weights(one, other):
    one, other = (load_file(Path(folder) / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
