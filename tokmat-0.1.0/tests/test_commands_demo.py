# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat demo`: the models in the box write side by side; fine-tuned, the one is saved and reloaded elsewhere."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
from command_line import invoke

from trainer import checkpoints, recipes
from trainer.commands import demo
from trainer.conversion import from_autoregressive

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def small_box(models, tmp_path, monkeypatch):
    """Tiny models of one tokenizer under the names of those in the box."""
    baseline = checkpoints.load_model(models[2])
    tail = recipes.SOURCE_TAIL | {"tail_adapter_rank": 2, "parallel_tails": 3}
    tokmat = from_autoregressive(baseline, **tail)
    tokmat.save_pretrained(tmp_path / "tokmat")
    checkpoints.load_tokenizer(models[2]).save_pretrained(tmp_path / "tokmat")
    box = {checkpoints.STORIES: str(tmp_path / "tokmat"), checkpoints.AR_STORIES: models[2]}
    monkeypatch.setattr(checkpoints, "SHIPPED", box)
    monkeypatch.setattr(recipes, "DEMO", recipes.DEMO | {"block_size": 32})
    monkeypatch.setattr(recipes, "STORY_NEW_TOKENS", 12)


def test_the_two_models_write_side_by_side_and_nothing_is_asked_off_a_terminal(small_box, tmp_path):
    result = invoke("demo")
    assert result.exit_code == 0, result.output
    assert all(result.output.count(prompt) >= 2 for prompt in recipes.STORY_PROMPTS)  # each model's
    assert result.output.count("% of it in repeated phrases)") == 2 * len(recipes.STORY_PROMPTS)
    assert result.output.count("tail: ") == 2 * len(recipes.STORY_PROMPTS)  # steps 1 and 10 of the log
    per_pass, ours, theirs = map(
        float, re.search(r"pass: TokMat ([\d.]+), greedy 1; .*: TokMat (\d+), greedy (\d+)", result.output).groups()
    )
    assert per_pass >= 1 and ours > 0 and theirs > 0
    assert "tokmat demo --train" in result.output and "[y/N]" not in result.output
    assert not (tmp_path / "demo-model").exists()


def test_demo_fine_tunes_reloads_and_writes_again(small_box, story_file, capfd):
    arguments = ["--train", "--output-dir", "demo", "--steps", 2, "--data", story_file]
    first = invoke("demo", *arguments)
    shown = capfd.readouterr().out  # of the fresh process
    assert first.exit_code == 0, first.output
    assert "Training 2 steps: about" in first.output
    assert "Code: transformers_modules." in shown
    assert all(prompt in shown for prompt in recipes.DEMO_PROMPTS)

    again = invoke("demo", *arguments)
    assert again.exit_code == 0 and "already holds a trained model" in again.output
    assert capfd.readouterr().out.strip() == shown.strip()


def test_demo_goes_on_where_it_was_interrupted(small_box, trained, story_file, monkeypatch):
    seen = []
    monkeypatch.setattr(demo, "stories", lambda: None)
    monkeypatch.setattr(demo, "fit", lambda plan: seen.append(plan) or 130)
    shutil.copytree(trained[0] / "checkpoint-4", "demo/checkpoint-4")
    assert invoke("demo", "--train", "--output-dir", "demo", "--steps", 9).exit_code == 130
    (plan,) = seen
    assert plan.training["resume_from_checkpoint"] == "last"
    assert plan.go_on == "tokmat demo --train --output-dir demo" and plan.model.model == "stories"


def test_repeated_phrases_are_marked(tokenizer):
    ids = torch.tensor(tokenizer("the fox asked. the fox asked. the owl")["input_ids"])
    plain = demo.marked(tokenizer, ids, colours=False).plain
    assert "[[" in plain and plain.replace("[[", "").replace("]]", "") == "the fox asked. the fox asked. the owl"
    assert plain.startswith("the fox asked") and plain.endswith("owl")
    coloured = demo.marked(tokenizer, ids, colours=True)
    assert any("red" in str(span.style) for span in coloured.spans) and "[[" not in coloured.plain


def test_a_folder_of_the_name_goes_before_the_model_in_the_box(small_box, tmp_path):
    assert checkpoints.in_the_box("stories") == str(tmp_path / "tokmat")
    (tmp_path / "stories").mkdir()
    assert checkpoints.in_the_box("stories") == "stories" and checkpoints.in_the_box("other") == "other"


def test_show_uses_no_modelling_code_of_ours():
    script = "import sys, trainer.show; sys.exit('modeling_tokmat' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
