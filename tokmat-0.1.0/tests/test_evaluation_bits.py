# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Judges of any tokenizer: bits per byte, features, and `tokmat evaluate --judge`."""

import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer
from typer.testing import CliRunner

from trainer.cli import app
from trainer.data import load_documents, train_tokenizer
from trainer.evaluation.bits import TextJudge, bits_per_byte
from trainer.evaluation.prompts import held_out_prompts
from trainer.models import make_baseline


def test_bits_per_byte_are_the_judges_own(tokenizer):
    torch.manual_seed(0)
    judge = make_baseline(None, "tiny", tokenizer).eval()
    beginnings, texts = ["Once upon a time", "The", ""], [" there was a small fox.", " owl — 3 cats", "Once"]
    found = bits_per_byte(judge, tokenizer, beginnings, texts)
    for beginning, text, bits in zip(beginnings, texts, found):
        ids = [tokenizer.bos_token_id, *tokenizer(beginning + text, add_special_tokens=False)["input_ids"]]
        known = 1 + len(tokenizer(beginning, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logits = judge(torch.tensor([ids])).logits[0, known - 1 : -1]
        nats = F.cross_entropy(logits, torch.tensor(ids[known:]), reduction="sum")
        assert bits == pytest.approx(float(nats) / math.log(2) / len(text.encode()), rel=1e-4)
    assert bits_per_byte(judge, tokenizer, beginnings, texts, batch_size=1) == pytest.approx(found, rel=1e-4)
    # A word's end in one pass is what it is alone, as long as it ends a token.
    parts = bits_per_byte(judge, tokenizer, beginnings[:1], texts[:1], [[len(" there was"), len(texts[0])]])
    assert parts[0, 1] == pytest.approx(found[0], rel=1e-4)
    assert parts[0, 0] == pytest.approx(bits_per_byte(judge, tokenizer, beginnings[:1], [" there was"])[0], rel=1e-4)


@pytest.fixture(scope="module")
def stranger(story_file, tmp_path_factory):
    """The folder of a judge with another tokenizer."""
    folder = tmp_path_factory.mktemp("judges") / "stranger"
    tokenizer = train_tokenizer(load_documents(str(story_file))["text"], vocab_size=280)
    torch.manual_seed(5)
    make_baseline(None, "tiny", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_stranger_reads_texts(stranger, tokenizer, story_file):
    prompts = held_out_prompts(load_documents(str(story_file)), tokenizer, 5, 6, 12)
    own = AutoTokenizer.from_pretrained(stranger)
    judge = TextJudge(make_baseline(None, "tiny", own).eval(), own, tokenizer)
    before = [tokenizer.decode(row[1:]) for row in prompts.ids]  # the token that begins a document is no text
    after = [tokenizer.decode(row) for row in prompts.human]
    expected = bits_per_byte(judge.model, own, before, after)
    np.testing.assert_allclose(judge.bits(prompts.ids, prompts.human), expected, rtol=1e-5)
    found = judge.features(prompts.ids, prompts.human, batch_size=3)
    for row, text in zip(found, map("".join, zip(before, after))):
        with torch.no_grad():
            states = judge.model(**own(text, return_tensors="pt"), output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(row, states[0, -1], rtol=1e-4, atol=1e-5)


def evaluate(models, story_file, judge, *more):
    arguments = ["evaluate", str(models[0]), "--data", str(story_file), "--judge", str(judge), "--prompts", "6"]
    arguments += ["--prompt-tokens", "6", "--new-tokens", "10", "--seeds", "1", "--look-ahead", "0"]
    return CliRunner().invoke(app, [*arguments, "--mauve-continuations", "0", *more])


def test_evaluate_asks_a_stranger_for_bits_per_byte(models, story_file, stranger, tmp_path):
    result = evaluate(models, story_file, stranger, "--output", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved["judge"] == "stranger" and "judge bits/byte" in (tmp_path / "out" / "results.md").read_text()
    for row in saved["decoders"]:
        mean, low, high = row["judge_bits"]
        assert low <= mean <= high and "judge_perplexity" not in row
    assert "bits per byte under the judge" in (tmp_path / "out" / "index.html").read_text()


def test_a_judge_of_other_tokens_needs_a_fast_tokenizer(models, story_file, stranger, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.evaluation.decoders.write", None)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((stranger / name).read_bytes())
    result = evaluate(models, story_file, bare)
    assert result.exit_code == 2 and re.search("has other tokens than the models, and no tokenizer", result.output)
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.is_fast", False)
    result = evaluate(models, story_file, stranger)
    assert result.exit_code == 2 and "so it must be a fast one" in result.output
