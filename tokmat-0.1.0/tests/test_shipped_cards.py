# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The cards that were written by hand: their front matter, their parts, and the code in them, which runs."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from huggingface_hub import RepoCard
from test_remote_code import run_isolated

from modeling_tokmat import MaturationSettings, TokMatForContinuousLM
from trainer.card_samples import TAIL, snippet

ROOT = Path(__file__).parents[1]
PLUGIN, METRICS = "hub_cards/maturation_generate", ("hub_cards/degeneration", "hub_cards/self_bleu")
MODELS = ("checkpoints/tokmat-stories", "checkpoints/smollm2-135m-instruct-tail")


def text(folder: str) -> str:
    return (ROOT / folder / "README.md").read_text(encoding="utf-8")


def python_of(folder: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", text(folder), re.DOTALL)
    return block


@pytest.mark.parametrize("folder", [PLUGIN, *METRICS, *MODELS])
def test_a_card_tells_its_limits_and_whose_work_it_is(folder):
    sections = re.findall(r"^## (.*)$", text(folder), re.MULTILINE)
    assert {"Limits", "Citation"} <= set(sections)
    data = RepoCard.load(ROOT / folder / "README.md").data
    assert data["license"] == "apache-2.0" and "token-maturation" in data["tags"]
    kinds = {PLUGIN: "custom_generate", MODELS[0]: "custom_code", MODELS[1]: "tail-adapter"}
    assert kinds.get(folder, "evaluate") in data["tags"]
    if folder not in METRICS:
        assert data["library_name"] == "transformers" and "arxiv:2601.04854" in data["tags"]
        assert "model-index" not in data  # of what was measured the card has tables that a command wrote


def test_the_plugin_s_card_names_every_setting_and_its_example_runs(make_model, tokenizer, tmp_path):
    named = re.findall(r"`(\w+)`", text(PLUGIN).split("## Additional Arguments")[1].split("##")[0])
    assert {item.name for item in fields(MaturationSettings)} == set(named) - {"MaturationSettings"}
    model: TokMatForContinuousLM = make_model(vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    code = python_of(PLUGIN).replace("path/to/tokmat-model", str(tmp_path / "model"))
    code = code.replace("path/to/maturation_generate", str(ROOT / PLUGIN))
    assert "path/to" not in code
    assert run_isolated(tmp_path, code, tmp_path / "model").startswith("Once upon a time")


@pytest.mark.parametrize("folder", METRICS)
def test_the_example_of_a_metric_runs_and_its_arguments_are_all_there(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    scope: dict = {}
    exec(python_of(folder), scope)
    module = scope["module"]
    tree = ast.parse((ROOT / folder / f"{Path(folder).name}.py").read_text(encoding="utf-8"))
    (compute,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_compute")
    arguments = {argument.arg for argument in compute.args.args} - {"self", "predictions"}
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text(folder), re.MULTILINE))))
    assert named == arguments and module.citation.strip() and module.description.strip()


def test_the_tail_s_card_loads_as_every_card_of_a_tail_does():
    """That snippet is run where such a card is made (tests/test_cards.py); this tail's source is on the Hub."""
    assert python_of(MODELS[1]) == snippet(TAIL, "smol", "", "Gravity is")
