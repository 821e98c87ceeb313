# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The economics of drafts, and what a repeated n-gram proposes: plain numbers."""

import pytest

from modeling_tokmat.draft_budget_tokmat import AGREED, Chances, DraftBudget, PromptLookup
from modeling_tokmat.drafts_tokmat import LOOKUP, TAIL, Draft, DraftTree


def after(budget: DraftBudget, steps: int, come_true: int, arm: str = TAIL, drafts: int | None = None) -> DraftBudget:
    """A budget after steps in which the first `come_true` of its drafts were right."""
    for _ in range(steps):
        tokens = list(range(budget.length() if drafts is None else drafts))
        tree = DraftTree.chain(tokens) if arm == TAIL else DraftTree().with_chain(tokens, [1.0] * len(tokens), arm)
        budget.learn([tree], [[place + 1 for place in tokens[:come_true]]])
    return budget


def tree_of(*drafts: tuple[int, int, float]) -> DraftTree:
    """(token, parent, chance) of each."""
    return DraftTree(Draft(*draft) for draft in drafts)


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
        budget.learn([DraftTree.chain(range(lengths[-1]))], [[]])
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
    assert len(budget.choose(DraftTree(), [3, 4], 9)) == 0
    assert DraftBudget(4, rows=rows, accelerated=True).longest == 4


def test_positions_are_what_a_pass_feeds():
    assert [DraftBudget.positions(n) for n in range(4)] == [0, 3, 8, 15]
    assert DraftBudget.most_positions(8, 0) == DraftBudget.most_positions(8, 10) == 24 + 25 * 4
    assert DraftBudget.most_positions(1, 10) == 10 and DraftBudget.most_positions(1, 0) == 0
    assert DraftBudget.most(2) == 1 and DraftBudget.most(64) == DraftBudget.LONGEST


def test_drafts_are_taken_by_their_chance_as_long_as_one_more_pays():
    budget = DraftBudget(2, foreseeing=True)
    likely = tree_of((5, 0, 0.6), (6, 0, 0.3), (7, 1, 0.5), (8, 1, 0.02), (9, 2, 0.01))
    chosen = budget.choose(likely, [], room=9)
    assert chosen.tokens == [5, 7, 6] and chosen.parents == (0, 1, 0)  # the likeliest way in one piece
    assert budget.choose(likely, [], room=1).tokens == [5, 6]
    budget.position_cost = 0.2
    assert budget.choose(likely, [], room=9).tokens == [5, 7]
    budget.position_cost = 0.0
    assert len(budget.choose(likely, [], room=9)) == 5
    many = tree_of(*[(token, 0, 0.03) for token in range(50)])
    assert len(budget.choose(many, [], room=9)) == DraftBudget.MOST


def test_batches_on_an_accelerator_are_given_fewer_drafts_each():
    most = [DraftBudget(4, rows=rows, accelerated=True).at_once for rows in (1, 4, 8, 16, 64)]
    assert most == [24, 24, 12, 6, 4]
    likely = tree_of(*[(token, 0, 0.9) for token in range(50)])
    assert len(DraftBudget(4, rows=8, accelerated=True).choose(likely, [], room=9)) == 12


def test_what_is_tried_is_given_whatever_its_chance():
    budget = DraftBudget(2)
    assert budget.tries and budget.choose(tree_of((5, 0, 0.0), (6, 1, 0.0)), [], room=9).tokens == [5]
    budget.tries = 0
    assert len(budget.choose(tree_of((5, 0, 0.0)), [], room=9)) == 0


def test_a_lookup_stands_beside_the_tail_or_behind_what_both_say():
    budget = DraftBudget(4, foreseeing=True)
    tail = tree_of((5, 0, 0.6), (6, 1, 0.4))
    agreed = budget.choose(tail, [5, 9], room=9)
    assert agreed.arm == AGREED and agreed.looked_up() == [1, agreed.child(1, 9)]
    assert agreed.drafts[agreed.child(1, 9) - 1].source == LOOKUP and agreed.drafts[0].source == TAIL
    beside = budget.choose(tail, [7, 8], room=9)
    assert beside.arm == LOOKUP and {beside.child(0, 5), beside.child(0, 7)} == {1, beside.looked_up()[0]}
    after(budget, 50, come_true=0, arm=LOOKUP, drafts=2)
    assert budget.choose(tail, [7, 8], room=9).child(0, 7) is None


def test_a_lookup_goes_on_as_long_as_its_places_pay():
    budget = DraftBudget(4)
    after(budget, 400, come_true=2, arm=AGREED, drafts=5)
    assert budget.choose(tree_of((5, 0, 0.9)), [5, 6, 7, 8, 9], room=9).tokens == [5, 6]


def test_each_source_is_credited_with_its_own_drafts():
    budget = DraftBudget(4)
    tree = tree_of((5, 0, 0.6), (6, 1, 0.4)).with_chain([5, 9, 8], [0.5, 0.4, 0.3], AGREED)
    assert tree.tokens == [5, 6, 9, 8] and tree.parents == (0, 1, 1, 3) and tree.depths == [1, 2, 2, 3]
    for _ in range(200):
        budget.learn([tree], [[1, 3]])
    assert budget.tail.chance(0) > 0.9 and budget.tail.chance(1) < 0.1
    assert budget.agreed.chance(1) > 0.9 and budget.agreed.chance(2) < 0.1


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
