# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat demo`: trains, reloads in a process without our modelling code, shows the tail."""

import shutil
import subprocess
import sys

import pytest
from command_line import invoke

from trainer import recipes

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def small_demo(monkeypatch):
    monkeypatch.setattr(recipes, "DEMO", {"backbone": "tiny", "vocab_size": 300, "block_size": 32})


def test_demo_trains_reloads_and_shows_the_tail(small_demo, story_file, capfd):
    arguments = ["--output-dir", "demo", "--steps", 3, "--data", story_file]
    first = invoke("demo", *arguments)
    shown = capfd.readouterr().out  # of the fresh process
    assert first.exit_code == 0, first.output
    assert "Training 3 steps: about" in first.output and "Held-out perplexity: " in first.output
    assert "Code: transformers_modules." in shown and shown.count("tail: ") > 2
    assert all(prompt in shown for prompt in recipes.DEMO_PROMPTS)

    again = invoke("demo", *arguments)
    assert again.exit_code == 0 and "already holds a trained model" in again.output
    assert capfd.readouterr().out.strip() == shown.strip()


def test_demo_goes_on_where_it_was_interrupted(small_demo, trained, story_file, monkeypatch):
    seen = []
    monkeypatch.setattr("trainer.commands.demo.fit", lambda plan: seen.append(plan) or 130)
    shutil.copytree(trained[0] / "checkpoint-4", "demo/checkpoint-4")
    assert invoke("demo", "--output-dir", "demo", "--steps", 9).exit_code == 130
    (plan,) = seen
    assert plan.training["resume_from_checkpoint"] == "last" and plan.go_on == "tokmat demo --output-dir demo"


def test_show_uses_no_modelling_code_of_ours():
    script = "import sys, trainer.show; sys.exit('modeling_tokmat' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
