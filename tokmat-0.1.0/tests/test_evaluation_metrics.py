# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Metrics of degeneration, also as others computed them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation import metrics

SEQUENCES = st.lists(st.lists(st.integers(0, 5), max_size=30), min_size=1, max_size=6)


def test_metrics_on_texts_that_are_easily_counted():
    words = "the cat sat on the mat the cat sat".split()
    assert metrics.rep_n([words], 1) == pytest.approx(1 - 5 / 9)
    assert metrics.rep_n([words], 2) == pytest.approx(1 - 6 / 8)
    assert metrics.rep_n([words], 3) == pytest.approx(1 - 6 / 7)
    assert metrics.dist_n([words], 2) == pytest.approx(6 / 8)
    assert metrics.dist_n([words], 2, per_token=True) == pytest.approx(6 / 9)
    assert metrics.dist_n([words, words], 2, pooled=True) == pytest.approx(6 / 16)
    # Su et al. count repetition within each text before they pool: a long text weighs more than a short one.
    assert metrics.rep_n([words, ["a", "b"]], 2, pooled=True) == pytest.approx(1 - 7 / 9)
    assert metrics.rep_n([words, ["a", "b"]], 2) == pytest.approx((2 / 8 + 0) / 2)
    assert metrics.loop_share([words, ["a", "b"]]) == 0.5
    assert metrics.unique_tokens([words, ["a"]]) == 6
    assert metrics.diversity([words]) == pytest.approx(6 / 8 * 6 / 7 * 6 / 6)


def test_an_ending_loop():
    assert metrics.ends_in_a_loop(list("xabcabc"))
    assert not metrics.ends_in_a_loop(list("xababab"))  # two tokens only, three times
    assert metrics.ends_in_a_loop(list("x" + "ab" * 51))
    assert metrics.ends_in_a_loop(["x"] + ["a"] * 51) and not metrics.ends_in_a_loop(["x"] + ["a"] * 50)
    assert not metrics.ends_in_a_loop(list("abcabcx"))
    assert metrics.ending_loop_share([list("xabcabc"), list("xyz")]) == 0.5


def test_zipf_of_an_exact_power_law():
    counts = [1000, 500, 333, 250, 200]
    tokens = [rank for rank, count in enumerate(counts) for _ in range(count)]
    assert metrics.zipf_coefficient([tokens]) == pytest.approx(1.0, abs=0.01)
    assert math.isnan(metrics.zipf_coefficient([[1, 1]]))


@given(SEQUENCES, st.integers(1, 4))
def test_repetition_and_distinctness_are_two_sides(sequences, n):
    long_enough = [tokens for tokens in sequences if len(tokens) >= n]
    assert 0 <= metrics.rep_n(sequences, n) < 1 and 0 <= metrics.rep_n(sequences, n, pooled=True) < 1
    if long_enough:
        assert metrics.dist_n(long_enough, n) == pytest.approx(1 - metrics.rep_n(long_enough, n))
    shuffled = sequences[::-1]
    assert metrics.rep_n(shuffled, n) == pytest.approx(metrics.rep_n(sequences, n))
    renamed = [[f"w{token}" for token in tokens] for tokens in sequences]
    assert metrics.loop_share(renamed) == metrics.loop_share(sequences)
    assert metrics.dist_n(renamed, n, pooled=True) == metrics.dist_n(sequences, n, pooled=True)


@given(st.integers(4, 40), st.integers(1, 3))
def test_all_the_same_and_all_different(length, n):
    assert metrics.rep_n([["a"] * length], n) == pytest.approx(1 - 1 / (length - n + 1))
    assert metrics.rep_n([list(range(length))], n) == 0 and metrics.loop_share([list(range(length))]) == 0
    assert metrics.ends_in_a_loop([7] * 2 + list(range(10, 10 + length)) * 2)


TEXTS = ["the cat sat on the mat the cat sat", "a bird sang and a bird sang", "one two three four five"]


def test_the_variants_of_other_papers_on_fixed_strings():
    words = [text.split() for text in TEXTS]
    # Welleck et al.: mean over continuations of 1 - distinct / all.
    assert metrics.welleck_seq_rep_n(words, 2) == pytest.approx((2 / 8 + 2 / 6 + 0) / 3)
    # Li et al.: distinct n-grams of all texts over all tokens: 9, 7 and 5 tokens.
    assert metrics.li_distinct_n(words, 1) == pytest.approx((5 + 4 + 5) / 21)
    assert metrics.li_distinct_n(words, 2) == pytest.approx((6 + 4 + 4) / 21)
    # Su et al.: the last n-gram is left out, counts are pooled, percentages rounded. Bigrams but the last: 7, 5 and 3,
    # of which distinct: 6 (the cat twice), 4 (a bird twice), 3.
    assert metrics.simctg_rep_n(TEXTS, 2) == round(100 * (1 - 13 / 15), 2) == 13.33
    assert metrics.simctg_rep_n(TEXTS, 3) == 0.0 and metrics.simctg_diversity(TEXTS) == pytest.approx(1 - 0.1333)
    # Holtzman et al.: n-grams that occur exactly once. Bigrams: 18, of which "the cat", "cat sat", "a bird" and "bird
    # sang" occur twice.
    assert metrics.holtzman_distinct_n(words, 2) == pytest.approx(10 / 18)


def test_self_bleu():
    same = [["a", "b", "c", "d", "e"]] * 3
    assert metrics.self_bleu(same) == pytest.approx(1.0)
    different = [[f"{row}{place}" for place in range(8)] for row in range(3)]
    assert metrics.self_bleu(different) < 0.05
    assert metrics.self_bleu(same + different) < metrics.self_bleu(same)
    with pytest.raises(ValueError, match="at least 2 sequences, not 1"):
        metrics.self_bleu(same[:1])
