# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""MAUVE, and what it needs."""

import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from trainer.cli import app
from trainer.evaluation import mauve


def test_mauve_tells_sets_apart_by_the_judges_features(models, capfd):
    judge = AutoModelForCausalLM.from_pretrained(models[2]).eval()
    draw = torch.Generator().manual_seed(0)

    def written(low, high):
        return torch.randint(low, high, (120, 8), generator=draw)

    # Six tokens each, and clusters for ten continuations: a cluster holds continuations that end alike.
    prompts, human, again, other = (
        torch.randint(2, 250, (120, 4), generator=draw),
        *map(written, (2, 2, 200), (8, 8, 206)),
    )
    human, again, other = (mauve.features(judge, prompts, ids) for ids in (human, again, other))
    ids = torch.randint(2, 250, (5, 9), generator=draw)
    with torch.no_grad():
        states = judge(ids, output_hidden_states=True).hidden_states[-1]
    np.testing.assert_allclose(mauve.features(judge, ids[:, :4], ids[:, 4:], 2), states[:, -1], rtol=1e-4, atol=1e-5)

    same, alike, apart = (mauve.mauve_scores(human, features) for features in (human, again, other))
    assert min(same) > 0.999 and min(alike) > 0.6 and max(apart) < 0.2
    assert len(same) == 3 and apart == mauve.mauve_scores(human, other)  # the same again
    mean, least, greatest = mauve.summary(alike)
    assert least <= mean <= greatest
    assert min(mauve.between_halves(human)) > 0.5
    assert "clustering" not in capfd.readouterr().err  # faiss finds clusters of ten too small, and says so each time


def test_without_mauve_text_nothing_is_generated(models, story_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    monkeypatch.setattr("trainer.evaluation.decoders.write", None)
    arguments = ["evaluate", str(models[0]), "--data", str(story_file), "--judge", str(models[2])]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert 'pip install "tokmat[eval]"' in result.output and "--mauve-continuations 0" in result.output


@pytest.mark.parametrize("score", [0.9841041546553477, 0.9841041546553478, 0.1])
def test_a_mean_lies_within_its_scores(score):
    assert mauve.summary([score] * 3) == (score, score, score)
    mean, least, greatest = mauve.summary([score, score, score + 2**-53])
    assert least <= mean <= greatest
