# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The economics of drafts, and what a repeated n-gram proposes: plain numbers."""

import pytest

from modeling_tokmat.draft_budget_tokmat import Chances, DraftBudget, PromptLookup


def after(
    budget: DraftBudget, steps: int, come_true: int, arm: str = "tail", drafts: int | None = None
) -> DraftBudget:
    """A budget after steps in which the first `come_true` of its drafts were right."""
    for _ in range(steps):
        given = budget.length() if drafts is None else drafts
        budget.learn([arm], [given], [1 + min(come_true, given)])
    return budget


def test_a_chance_is_learnt_and_believed_of_the_next_place_until_seen():
    chances = Chances(3, first=0.5)
    assert [chances.chance(place) for place in range(3)] == [0.5] * 3
    for _ in range(200):
        chances.learn([2], [2])  # the first is right, the second never
    assert chances.chance(0) > 0.99 and chances.chance(1) < 0.01
    assert chances.chance(2) == chances.chance(1)  # never reached
    before = chances.chance(0)
    chances.learn([0], [1])  # nothing was drafted
    assert chances.chance(0) == before


def test_more_drafts_where_they_come_true_and_none_where_they_do_not():
    good, bad = DraftBudget(4), DraftBudget(4)
    assert after(good, 60, come_true=4).length() == 4
    after(bad, 5, come_true=0)
    assert bad.length() == 0 and bad.rest >= DraftBudget.FIRST_REST - 1


def test_rests_grow_and_tries_come_back():
    budget, lengths = DraftBudget(3), []
    for _ in range(200):
        lengths.append(budget.length())
        budget.learn(["tail"], [lengths[-1]], [1])
    rests = [len(run) for run in "".join("." if length else "r" for length in lengths).split(".") if run]
    assert rests[0] >= DraftBudget.FIRST_REST and rests[1] > rests[0]
    assert max(rests) <= DraftBudget.LONGEST_REST
    assert sum(length > 0 for length in lengths) >= 2 * DraftBudget.TRIES


def test_a_tail_that_was_trained_to_look_ahead_begins_with_more():
    assert DraftBudget(4, foreseeing=True).length() > DraftBudget(4).length() == 1


def test_where_positions_cost_too_much_nothing_is_drafted():
    rows = int(1 / DraftBudget.POSITION_COST)
    budget = DraftBudget(4, rows=rows)
    assert budget.longest == 0 and budget.length() == 0
    assert budget.choose([], [3, 4]) == ("tail", [])
    assert DraftBudget(4, rows=rows, accelerated=True).longest == 4


def test_positions_are_what_a_pass_feeds():
    assert [DraftBudget.positions(n) for n in range(4)] == [0, 3, 8, 15]
    assert DraftBudget.most_positions(8, 0) == DraftBudget.positions(4)
    assert DraftBudget.most_positions(8, 10) == 10 + 11 * 4
    assert DraftBudget.most(2) == 1 and DraftBudget.most(64) == DraftBudget.LONGEST


def test_a_lookup_is_taken_where_the_tail_agrees_or_where_it_was_right_more_often():
    budget = DraftBudget(4, foreseeing=True)
    assert budget.choose([5, 6], [5, 9, 9, 9])[0] == "agreed"
    assert budget.choose([5, 6], [7, 8]) == ("tail", [5, 6])  # the tail's chance is the better one
    after(budget, 50, come_true=0, arm="tail", drafts=2)
    arm, drafts = budget.choose([5, 6], [7, 8])
    assert arm == "lookup" and drafts == [7, 8]
    after(budget, 50, come_true=0, arm="lookup", drafts=2)
    assert budget.choose([5, 6], [7, 8])[0] == "tail"
    assert budget.choose([5, 6], []) == ("tail", [5, 6])


def test_a_lookup_goes_on_as_long_as_its_places_pay():
    budget = DraftBudget(4)
    after(budget, 400, come_true=2, arm="agreed", drafts=5)
    arm, drafts = budget.choose([5], [5, 6, 7, 8, 9])
    assert arm == "agreed" and drafts == [5, 6]


def test_a_repeated_n_gram_proposes_what_followed_it():
    lookup, written = PromptLookup(3), []
    for token in [1, 2, 3, 4, 5, 6, 9, 2, 3]:
        written.append(token)
        found = lookup.propose(written)
    assert found == [4, 5, 6]  # behind 2 3
    assert lookup.propose([*written, 8]) == []
    assert PromptLookup(3).propose([]) == [] == PromptLookup(3).propose([7])


def test_the_longest_and_latest_repetition_is_taken():
    latest = [1, 2, 7, 1, 2, 8, 1, 2]
    assert PromptLookup(1).propose(latest) == [8]
    longer = [9, 1, 2, 7, 5, 1, 2, 8, 9, 1, 2]
    assert PromptLookup(1).propose(longer) == [7]  # three tokens are the same there, two at the later place


@pytest.mark.parametrize("length", [1, 5])
def test_a_lookup_that_reads_step_by_step_finds_what_one_that_reads_at_once_does(length):
    text = [1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 2, 3, 1] * 3
    grown = PromptLookup(length)
    for end in range(1, len(text) + 1):
        found = grown.propose(text[:end])
        assert found == PromptLookup(length).propose(text[:end])


@pytest.mark.parametrize(
    ("position_cost", "chances", "best"),
    [
        (0.0, [0.9, 0.9, 0.9], 3),
        (0.01, [0.9, 0.9, 0.9], 3),
        (0.1, [0.9, 0.9, 0.9], 2),  # 1.9 / 1.4, 2.71 / 1.9 and 3.44 / 2.6
        (0.01, [0.9, 0.01, 0.01], 1),
        (0.01, [0.05, 0.9, 0.9], 0),
        (1.0, [1.0, 1.0, 1.0], 0),
    ],
)
def test_the_best_length_has_most_tokens_per_time(position_cost, chances, best):
    budget = DraftBudget(3)
    budget.tries, budget.position_cost = 0, position_cost
    budget.tail.chances, budget.tail.seen = chances, [100] * 3
    assert budget.best_length() == best
