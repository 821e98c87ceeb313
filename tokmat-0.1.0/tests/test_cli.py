# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The `tokmat` command: its verbs, and how errors are told."""

import subprocess
import sys

import pytest
from command_line import invoke

pytestmark = pytest.mark.usefixtures("own_folder")


def test_help_lists_the_commands():
    output = invoke("--help").output
    assert all(name in output for name in ("train", "generate", "demo"))


def test_top_level_help_does_not_import_torch():
    script = "import sys; from trainer.cli import app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_help_of_train_and_generate():
    for command, flags in (("train", ["--data", "--learning-rate", "--context-negatives"]), ("generate", ["--watch"])):
        result = invoke(command, "--help")
        assert result.exit_code == 0 and all(flag in result.output for flag in flags)


def test_debug_shows_the_traceback(monkeypatch):
    assert isinstance(invoke("train", "--data", "nowhere.txt", "--debug").exception, FileNotFoundError)
    monkeypatch.setenv("TOKMAT_DEBUG", "1")
    assert isinstance(invoke("generate", "nowhere", "hello").exception, FileNotFoundError)
