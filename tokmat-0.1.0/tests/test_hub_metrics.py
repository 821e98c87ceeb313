# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The metric modules for `evaluate`."""

from pathlib import Path

import pytest

from trainer.evaluation import metrics

CARDS = Path(__file__).parents[1] / "hub_cards"

TEXTS = ["the cat sat on the mat the cat sat", "a bird sang and a bird sang", "one two three four five"]


@pytest.fixture(scope="module")
def degeneration():
    import evaluate

    return evaluate.load(str(CARDS / "degeneration"))


def test_the_degeneration_module(degeneration):
    found = degeneration.compute(predictions=TEXTS, unit="words")
    words = [text.split() for text in TEXTS]
    assert found["rep_2"] == pytest.approx(metrics.rep_n(words, 2)) and found["loop"] == pytest.approx(2 / 3)
    assert found["conventions"] == "words, means over samples, continuation alone, full length"
    ids = [[1, 2, 1, 2, 1], [3, 4, 5, 6, 7]]
    pooled = degeneration.compute(predictions=ids, unit="tokens", pooled=True, length=4)
    assert pooled["rep_2"] == pytest.approx(1 / 6) and "pooled counts" in pooled["conventions"]
    whole = degeneration.compute(predictions=["sat"], prompts=["the cat sat the cat"], include_prompt=True)
    assert whole["rep_2"] == pytest.approx(metrics.rep_n(["the cat sat the cat sat".split()], 2))
    assert degeneration.compute(predictions=TEXTS, compat="simctg")["rep_2"] == 13.33
    assert set(degeneration.compute(predictions=TEXTS, compat="holtzman")) == {
        "distinct_1", "distinct_2", "distinct_3", "repetition", "zipf"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "letters"}, "`unit` is 'letters', but it must be one of words, tokens"),
        ({"compat": "mine"}, "`compat` is 'mine'"),
        ({"unit": "tokens"}, "the predictions are texts"),
        ({"include_prompt": True}, "`prompts` does not hold one prompt per prediction"),
    ],
)
def test_the_degeneration_module_refuses(degeneration, arguments, message):
    with pytest.raises(ValueError, match=message):
        degeneration.compute(predictions=TEXTS, **arguments)


def test_the_self_bleu_module():
    import evaluate

    module = evaluate.load(str(CARDS / "self_bleu"))
    found = module.compute(predictions=TEXTS + TEXTS, n=3)
    assert found["self_bleu"] == pytest.approx(1.0) and found["conventions"].startswith("words, 3-grams")
