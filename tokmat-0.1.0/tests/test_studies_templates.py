# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Skeletons of texts, and what masking makes alike."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.studies import templates

WORDS = st.lists(st.sampled_from(["a", "cat", "sat", "."]), max_size=12)


def test_words_and_skeletons():
    words = templates.split_words('The cat\'s hat, "Tom" said.')
    assert words == ["the", "cat's", "hat", ",", '"', "tom", '"', "said", "."]
    kept = templates.frequent_words(["the cat. the dog.", "the . end"], 2)
    assert kept == {"the", "."}
    assert templates.skeleton(words, kept) == ["the", "_", "_", "_", "_", "_", "_", "_", "."]


@given(WORDS, WORDS)
def test_masking_does_not_lower_the_agreement_of_equal_texts_nor_leave_the_unit_interval(first, second):
    for kept in (set(), {"a", "."}, {"a", "cat", "sat", "."}):
        masked = templates.skeleton(first, kept), templates.skeleton(second, kept)
        assert 0 <= templates.agreement([masked]) <= 1
        assert templates.agreement([(masked[0], masked[0])]) == 1
    assert templates.agreement([(first, second)]) == templates.agreement([masked])  # all kept


def test_agreement_of_no_pair_is_nan():
    assert math.isnan(templates.agreement([]))


@given(st.floats(0, 0.99), st.floats(0.01, 0.9), st.floats(0, 0.9))
def test_the_gain_of_texts_that_share_a_part_does_not_depend_on_the_part(part, words, more):
    unrelated = np.array([words, words + (1 - words) * more])
    shared = part + (1 - part) * unrelated
    assert templates.gain(shared[None]) == pytest.approx(templates.gain(unrelated[None]), abs=1e-6)
    assert templates.gain(unrelated[None]) == pytest.approx(more, abs=1e-6)


def test_a_template_gains_over_its_control_and_identical_texts_say_nothing():
    kept = {"once", "there", "was", "a", "who", "had", "."}
    siblings = [[f"Once there was a {name} who had a {thing}." for name, thing in pair]
                for pair in ((("fox", "hat"), ("owl", "pan")), (("hen", "bed"), ("dog", "cup")))]  # fmt: skip
    control = [["Once a fox had there was.", "Fish swim far."], ["A hen was who.", "There had bells rung."]]
    found, unrelated = templates.agreements(siblings, kept), templates.agreements(control, kept)
    assert found[:, 1] == pytest.approx(1) and templates.gain(found) == pytest.approx(1)
    assert templates.gain_interval(found, unrelated)[1] > 0
    same = templates.agreements([["one text"] * 3] * 2, kept)
    assert all(map(math.isnan, templates.gain_interval(same)))
    assert templates.identical_share([["x", "x", "y"]]) == pytest.approx(1 / 3)


def test_texts_of_different_prompts_pair_with_the_next_group():
    found = templates.agreements([["a b"], ["a c"], ["d e"]], set(), others=True)
    assert found[:, 0] == pytest.approx([0.5, 0, 0]) and found[:, 1] == pytest.approx(1)
