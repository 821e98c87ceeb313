# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Rows of the model's own text unlearn their repetition; the other rows are trained as ever."""

import pytest
import torch
import torch.nn.functional as F
from command_line import invoke

from modeling_tokmat.losses_tokmat import ContextNegatives, unlikelihood
from trainer.checkpoints import load_model

IDS = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6, 7, 5], [8, 9, 10, 8, 9, 11, 8, 9, 12, 13]])
OWN = torch.tensor([True, False])
FIELDS = {"negatives": "all", "regression_weight": 0.0, "clean_probability": 1.0, "context_ngram": 2}


def test_own_rows_unlearn_and_other_rows_learn(make_model):
    model = make_model(double=True, unlikelihood=0.5, **FIELDS).train()
    output = model(IDS, labels=IDS, tail_only=OWN)
    predicted = model.eval()(IDS).predicted_embeds
    likely = model.implied_logits(predicted)[1, :-1].log_softmax(-1).gather(-1, IDS[1, 1:, None]).sum()
    vocabulary = model.vocabulary()
    repeats = ContextNegatives(IDS, torch.zeros_like(IDS), 0, 0.0, ngram=2)
    unlikely = unlikelihood(vocabulary.queries(predicted), vocabulary.keys(torch.float64), vocabulary.scale, repeats)
    expected = (0.5 * unlikely[0, :-1].sum() - likely) / (0.5 * 9 + 9)
    torch.testing.assert_close(output.loss, expected, check_dtype=False)
    assert unlikely[0, :-1].sum() > 1e-6


def test_steps_make_the_phrase_unlikely_that_the_model_repeats(make_model):
    model = make_model(unlikelihood=1.0, **FIELDS)
    before = F.softmax(model(IDS).logits, -1)[0, 4, 7]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()
    for _ in range(10):
        model(IDS[:1], labels=IDS[:1], tail_only=OWN[:1]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert F.softmax(model.eval()(IDS).logits, -1)[0, 4, 7] < 0.5 * before


def test_it_needs_the_exact_loss(make_model):
    with pytest.raises(ValueError, match="negatives"):
        make_model(unlikelihood=1.0, negatives="uniform")


@pytest.mark.usefixtures("own_folder")
def test_the_command_line_trains_on_own_text(story_file, trained, tmp_path):
    own = ["--prompts", story_file, "--texts", 4, "--max-new-tokens", 20, "--add-bos", "--stop-loops", "false"]
    written = invoke("own-text", trained[0], *own, "--may-end", "false", "--output", "own.jsonl")
    assert written.exit_code == 0, written.output
    flags = ["--tail-data", "own.jsonl", "--unlikelihood", 1, "--context-ngram", 2, "--clean-probability", 1]
    flags += ["--model", trained[0], "--block-size", 32, "--max-steps", 2, "--validation-fraction", 0]
    result = invoke("train", "--data", story_file, *flags, "--output-dir", "unlearnt")
    assert result.exit_code == 0, result.output
    config = load_model("unlearnt").config
    assert (config.unlikelihood, config.context_ngram) == (1.0, 2)
