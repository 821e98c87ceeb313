# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""SmolLM2-135M-Instruct as the registry has it (`make smollm2`): converted exactly, with the tail in the box, and with
the adapter that writes without loops."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import pipeline

from modeling_tokmat.draft_budget_tokmat import DraftBudget
from trainer.checkpoints import load_model, load_tokenizer
from trainer.conversion import from_autoregressive
from trainer.evaluation.metrics import rep_n

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "models" / "smollm2-135m-instruct"
PROMPTS = ("Gravity is", "The capital of France", "def read_lines(path):", "Once upon a time there was a fox who")

pytestmark = pytest.mark.slow


def tokmat(*arguments) -> str:
    command = [sys.executable, "-c", "from trainer.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def source():
    if not (SOURCE / "config.json").is_file():
        fetched = subprocess.run(["make", "smollm2"], cwd=ROOT, capture_output=True, text=True, timeout=1800)
        if fetched.returncode != 0:
            pytest.skip(f"SmolLM2 is not to be had here: {fetched.stderr[-300:]}")
    return load_model(str(SOURCE)).eval()


@pytest.fixture(scope="module")
def tokenizer(source):
    return load_tokenizer(str(SOURCE))


@torch.no_grad()
def written(model, tokenizer, prompt: str, **settings):
    inputs = tokenizer(prompt, return_tensors="pt")
    return model.generate(**inputs, max_new_tokens=48, do_sample=False, return_dict_in_generate=True, **settings)


def test_conversion_is_exact(source, tokenizer, tmp_path):
    printed = tokmat("convert", SOURCE, tmp_path / "exact")
    assert "100.00%" in printed  # same likeliest token
    model = load_model(str(tmp_path / "exact")).eval()
    ids = tokenizer(" ".join(PROMPTS) + (ROOT / "README.md").read_text()[:1500], return_tensors="pt").input_ids
    with torch.no_grad():
        expected, found = source(ids).logits, model(ids).logits
    assert (expected - found).abs().max() < 1e-3
    assert torch.equal(expected.argmax(-1), found.argmax(-1))
    for prompt in PROMPTS:
        greedy = written(source, tokenizer, prompt).sequences
        assert torch.equal(written(model, tokenizer, prompt, tail_length=1, alpha_max=1.0).sequences, greedy)


def test_conversion_in_bfloat16_is_exact_to_the_bit(source, tokenizer):
    half = load_model(str(SOURCE), dtype=torch.bfloat16).eval()
    model = from_autoregressive(half).eval()
    ids = tokenizer((ROOT / "README.md").read_text()[:3000], return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, half(ids).logits)


def test_conversion_takes_less_than_three_times_the_weights(source):
    command = [sys.executable, ROOT / "benchmarks" / "convert.py", SOURCE, "--repeats", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["convert"]["memory_ratio"] < 3


def test_the_tail_in_the_box_commits_the_text_of_the_source_in_fewer_passes(source, tokenizer, tmp_path, monkeypatch):
    """Drafting always: as priced, it would not in float32 on a CPU."""
    for name in [name for name in vars(DraftBudget) if name.endswith("_COST")]:
        monkeypatch.setattr(DraftBudget, name, 0.0)
    tokmat("attach", SOURCE, ROOT / "checkpoints" / "smollm2-135m-instruct-tail", tmp_path / "smol")
    model = load_model(str(tmp_path / "smol")).eval()
    tokens = forwards = 0
    for prompt in PROMPTS:
        output = written(model, tokenizer, prompt)
        greedy = written(source, tokenizer, prompt).sequences
        assert torch.equal(output.sequences, greedy)
        new = greedy.shape[1] - tokenizer(prompt, return_tensors="pt").input_ids.shape[1]
        tokens, forwards = tokens + new, forwards + new / output.tokens_per_forward
    assert tokens / forwards > 2.0
    chat = pipeline("text-generation", model=model, tokenizer=tokenizer)
    answer = chat([{"role": "user", "content": "Name a colour."}], max_new_tokens=12)[0]["generated_text"]
    assert answer[-1]["role"] == "assistant" and answer[-1]["content"].strip()


def test_the_adapter_in_the_box_takes_most_of_the_loops_away(source, tokenizer):
    folder = ROOT / "checkpoints" / "smollm2-135m-instruct-argmax"
    adapted = PeftModel.from_pretrained(load_model(str(SOURCE)), folder).eval()
    repeated = {"source": 0.0, "adapted": 0.0}
    for name, model in (("source", source), ("adapted", adapted)):
        for prompt in PROMPTS:
            inputs = tokenizer(prompt, return_tensors="pt")
            with torch.no_grad():
                ids = model.generate(**inputs, max_new_tokens=200, min_new_tokens=200, do_sample=False)[0].tolist()
            repeated[name] += rep_n([ids[inputs["input_ids"].shape[1] :]], 2) / len(PROMPTS)
    assert repeated["adapted"] < repeated["source"] / 2
