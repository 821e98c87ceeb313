# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The economics of drafts, and what a repeated n-gram proposes: plain numbers."""

import pytest

from modeling_tokmat.draft_budget_tokmat import AGREED, ALONE, BESIDE, Chances, DraftBudget, PromptLookup
from modeling_tokmat.drafts_tokmat import LOOKUP, TAIL, Arm, Draft, DraftTree


def after(
    budget: DraftBudget, steps: int, come_true: int, arm: Arm | None = None, drafts: int | None = None
) -> DraftBudget:
    """A budget after steps in which the first `come_true` of its drafts were right: the tail's, or those of an arm."""
    for _ in range(steps):
        tokens = list(range(slots_of(budget) if drafts is None else drafts))
        tree = DraftTree.chain(tokens) if arm is None else DraftTree().with_chain(tokens, [1.0] * len(tokens), arm)
        budget.learn([tree], [[place + 1 for place in tokens[:come_true]]])
    return budget


def slots_of(budget: DraftBudget) -> int:
    """How many slots it asks for where there is no draft."""
    return budget.choose(DraftTree(), [], room=9).slots[0]


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
    assert slots_of(after(good, 60, come_true=4)) == 4
    after(bad, 5, come_true=0)
    assert slots_of(bad) == 0 and bad.rest >= DraftBudget.FIRST_REST - 1


def test_rests_grow_and_tries_come_back():
    budget, lengths = DraftBudget(3), []
    for _ in range(200):
        lengths.append(slots_of(budget))
        budget.learn([DraftTree.chain(range(lengths[-1]))], [[]])
    rests = [len(run) for run in "".join("." if length else "r" for length in lengths).split(".") if run]
    assert rests[0] >= DraftBudget.FIRST_REST and rests[1] > rests[0]
    assert max(rests) <= DraftBudget.LONGEST_REST
    assert sum(length > 0 for length in lengths) >= 2 * DraftBudget.TRIES


def test_a_tail_that_was_trained_to_look_ahead_begins_with_more():
    foreseeing, not_yet = DraftBudget(4, foreseeing=True), DraftBudget(4)
    foreseeing.position_cost = not_yet.position_cost = 0.03  # at 0.02 a second slot is worth 0 but for rounding
    assert slots_of(foreseeing) > slots_of(not_yet) == 1


def test_where_positions_cost_too_much_nothing_is_drafted():
    rows = int(1 / DraftBudget.POSITION_COST)
    budget = DraftBudget(4, rows=rows)
    assert budget.longest == 0 and slots_of(budget) == 0
    assert len(budget.choose(DraftTree(), [3, 4], 9)) == 0
    assert DraftBudget(4, rows=rows, accelerated=True).longest == 4


def test_where_a_large_model_waits_for_its_weights_only_what_repeats_is_drafted():
    """In float32 on a CPU, one row at a time, a pass over two positions takes nearly the time of two passes."""
    budget = DraftBudget(4, wide=True, foreseeing=True, adapted=True, large=True)
    assert budget.longest == 0 and slots_of(budget) == 0
    small, found = DraftBudget(4, wide=True, foreseeing=True, adapted=True), list(range(10))
    assert len(budget.choose(DraftTree(), found, room=9, repeated=2)) > 0
    assert (
        len(budget.choose(DraftTree(), found, room=9, repeated=1)) == 0 < len(small.choose(DraftTree(), found, 9, 1))
    )
    elsewhere = {"in half precision": {}, "on a GPU": {"accelerated": True, "wide": True}, "a batch": {"rows": 2}}
    for name, where in elsewhere.items():
        assert DraftBudget(4, foreseeing=True, adapted=True, large=True, **where).longest == 4, name


def test_a_pass_never_feeds_more_than_its_cache_was_made_for():
    assert DraftBudget.most_positions(8, 0) == DraftBudget.most_positions(8, 10) == 24 + 25 * 4
    assert DraftBudget.most_positions(1, 10) == 10 and DraftBudget.most_positions(1, 0) == 0
    assert DraftBudget.most(2) == 1 and DraftBudget.most(64) == DraftBudget.LONGEST


def test_drafts_are_taken_by_their_chance_as_long_as_one_more_pays():
    budget = DraftBudget(2, foreseeing=True)
    likely = tree_of((5, 0, 0.6), (6, 0, 0.3), (7, 1, 0.5), (8, 1, 0.02), (9, 2, 0.01))
    chosen = budget.choose(likely, [], room=9)
    assert chosen.tokens == [5, 7, 6] and chosen.parents == (0, 1, 0)  # the likeliest way in one piece
    assert budget.choose(likely, [], room=1).tokens == [5, 6]
    budget.position_cost = 0.4
    assert budget.choose(likely, [], room=9).tokens == [5, 7]
    budget.position_cost = 0.0
    assert len(budget.choose(likely, [], room=9)) == 5
    many = tree_of(*[(token, 0, 0.03) for token in range(50)])
    assert len(budget.choose(many, [], room=9)) == DraftBudget.MOST


def test_slots_stand_where_the_text_may_go_on_from():
    """Most behind what is likely to be the last draft that comes true, none behind what is not."""
    budget = DraftBudget(4, foreseeing=True)
    budget.tries = 0
    chosen = budget.choose(tree_of((5, 0, 0.95), (6, 1, 0.9), (7, 2, 0.5)), [], room=9)
    assert chosen.tokens == [5, 6, 7]
    none, first, second, third = chosen.slots  # the text goes on behind them with 0.05, 0.05, 0.4 and 0.5
    assert none == first < second <= third == 4
    kept = chosen.kept({0: 1, 1: 2, 2: 3})
    assert kept.tokens == [5, 6] and kept.slots == (1, 2, 3)


@pytest.mark.parametrize("free", (False, True), ids=("accelerated", "positions that cost nothing"))
def test_where_width_is_free_the_likeliest_drafts_are_fed_with_all_slots(free, monkeypatch):
    """Also where the tail is worth less behind the first token of a repetition than behind none."""
    if free:
        monkeypatch.setattr(DraftBudget, "POSITION_COST", 0.0)
    budget = DraftBudget(4, foreseeing=True, accelerated=not free)
    budget.tries = 0
    for _ in range(100):  # beside a repetition the tail never finds anything
        budget.beside.learn([4], [1])
    chosen = budget.choose(tree_of((4, 0, 0.3), (5, 0, 0.2)), [7, 8, 9, 10], room=3)
    assert sorted(chosen.tokens) == [4, 5, 7, 8, 9]  # a fourth token in a row has no room
    assert chosen.slots == (4,) * 6


def test_a_slot_is_fed_as_long_as_what_it_finds_is_worth_two_positions():
    """Its own, and that of the draft which it finds: at chances 0.5, 0.25, ... and a price of 0.1 a slot more is
    worth 0.5 - 0.2, 0.25 - 0.2, 0.125 - 0.2."""
    budget = DraftBudget(4)
    budget.position_cost = 0.1
    assert budget.branch(1.0, 1.0, [0.5, 0.25, 0.125, 0.06]) == (2, pytest.approx(0.35))
    assert budget.branch(0.2, 1.0, [0.5, 0.25, 0.125, 0.06]) == (0, 0.0)
    assert budget.branch(1.0, 3.0, [0.5, 0.25, 0.125, 0.06]) == (0, 0.0)  # where text comes faster, time is dearer


def test_behind_a_repetition_slots_must_find_what_it_does_not():
    budget = DraftBudget(4, foreseeing=True)
    budget.tries = 0
    before = budget.choose(DraftTree(), [5, 6, 7], room=9)
    assert before.slots[0] > 0
    repeating = DraftTree().with_chain([5, 6, 7], [0.9, 0.8, 0.7], (2, ALONE))
    for _ in range(100):  # the tail says nothing beyond it
        budget.learn([repeating], [[1, 2, 3]])
        budget.beside.learn([4], [1])
    after = budget.choose(DraftTree(), [5, 6, 7], room=9)
    assert after.tokens == [5, 6, 7] and not any(after.slots)
    assert slots_of(budget) > 0  # where nothing repeats


def test_what_the_head_says_is_believed_as_far_as_it_comes_true():
    budget = DraftBudget(4, foreseeing=True)
    assert budget.believed(0.8) == 0.8
    for _ in range(300):
        budget.learn([tree_of((5, 0, budget.believed(0.8)))], [[1] if _ % 2 else []])
    assert budget.believed(0.8) == pytest.approx(0.5, abs=0.03)
    for _ in range(300):
        budget.learn([tree_of((5, 0, budget.believed(0.8)))], [[1]])
    assert budget.believed(0.8) == pytest.approx(1.0, abs=0.03) and budget.believed(0.9) == 1.0


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
    assert agreed.arm == (2, AGREED) and agreed.looked_up() == [1, agreed.child(1, 9)]
    assert agreed.drafts[agreed.child(1, 9) - 1].source == LOOKUP and agreed.drafts[0].source == TAIL
    beside = budget.choose(tail, [7, 8], room=9)
    assert beside.arm == (2, BESIDE) and {beside.child(0, 5), beside.child(0, 7)} == {1, beside.looked_up()[0]}
    after(budget, 50, come_true=0, arm=(2, BESIDE), drafts=2)
    assert budget.choose(tail, [7, 8], room=9).child(0, 7) is None


def test_a_lookup_goes_on_as_long_as_its_places_pay():
    budget = DraftBudget(4)
    after(budget, 400, come_true=2, arm=(2, AGREED), drafts=5)
    assert budget.choose(tree_of((5, 0, 0.9)), [5, 6, 7, 8, 9], room=9).tokens == [5, 6]


def test_each_source_is_credited_with_its_own_drafts():
    budget = DraftBudget(4)
    tree = tree_of((5, 0, 0.6), (6, 1, 0.4)).with_chain([5, 9, 8], [0.5, 0.4, 0.3], (2, AGREED))
    assert tree.tokens == [5, 6, 9, 8] and tree.parents == (0, 1, 1, 3) and tree.depths == [1, 2, 2, 3]
    for _ in range(200):
        budget.learn([tree], [[1, 3]])
    assert budget.lookup((2, AGREED)).chance(1) > 0.9 and budget.lookup((2, AGREED)).chance(2) < 0.1
    assert budget.beside.chance(0) < 0.1  # the tail found nothing that was not found without it
    for _ in range(200):
        budget.learn([tree], [[1, 2]])
    assert budget.beside.chance(0) > 0.9 and budget.lookup((2, AGREED)).chance(1) < 0.1
    assert budget.tail.chance(0) == DraftBudget.FIRST_CHANCE  # where nothing repeats it was not asked


def test_a_repeated_n_gram_proposes_what_followed_it():
    lookup, written = PromptLookup(3), []
    for token in [1, 2, 3, 4, 5, 6, 9, 2, 3]:
        written.append(token)
        found = lookup.propose(written)
    assert found == ([4, 5, 6], 2)  # behind 2 3
    assert lookup.propose([*written, 8]) == ([], 0)
    assert PromptLookup(3).propose([]) == ([], 0) == PromptLookup(3).propose([7])


def test_the_longest_and_latest_repetition_is_taken():
    latest = [1, 2, 7, 1, 2, 8, 1, 2]
    assert PromptLookup(1).propose(latest) == ([8], 2)
    longer = [9, 1, 2, 7, 5, 1, 2, 8, 9, 1, 2]
    assert PromptLookup(1).propose(longer) == ([7], 3)  # three tokens are the same there, two at the later place


def test_a_loop_is_proposed_to_go_on():
    assert PromptLookup(5).propose([9, 1, 2, 3, 1, 2, 3]) == ([1, 2, 3, 1, 2], 3)
    assert PromptLookup(3).propose([4, 4]) == ([4, 4, 4], 1)


def test_longer_repetitions_are_believed_more_and_what_the_tail_says_of_them_counts():
    budget = DraftBudget(4)
    chances = [budget.lookup((length, ALONE)).chance(0) for length in (1, 2, 3)]
    assert chances == sorted(chances) == [DraftBudget.LOOKUP_CHANCES[length] for length in (1, 2, 3)]
    for length, chance in enumerate(chances, start=1):
        assert budget.lookup((length, BESIDE)).chance(0) < chance < budget.lookup((length, AGREED)).chance(0) < 1
    assert budget.lookup((1, ALONE)).chance(5) == DraftBudget.LOOKUP_LATER  # once it came true so far
    after(budget, 60, come_true=0, arm=(1, ALONE), drafts=2)  # each learns for itself
    assert budget.lookup((1, ALONE)).chance(0) < 0.05 and budget.lookup((3, ALONE)).chance(0) == chances[2]
    assert not budget.choose(DraftTree(), [5, 6], 9, repeated=1).tokens
    assert budget.choose(DraftTree(), [5, 6], 9, repeated=3).tokens == [5, 6]
    assert budget.choose(DraftTree(), [5, 6], 9, repeated=3).arm == (3, ALONE)


def test_slots_are_not_tried_where_a_repetition_drafts():
    budget = DraftBudget(4)
    budget.slots_cost = 9.0
    assert budget.tries and slots_of(budget) > 0
    assert not any(budget.choose(DraftTree(), [5, 6], 9, repeated=3).slots)


@pytest.mark.parametrize("length", [1, 5])
def test_a_lookup_that_reads_step_by_step_finds_what_one_that_reads_at_once_does(length):
    text = [1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 2, 3, 1] * 3
    grown = PromptLookup(length)
    for end in range(1, len(text) + 1):
        found = grown.propose(text[:end])
        assert found == PromptLookup(length).propose(text[:end])


def test_a_tail_that_makes_text_slower_rests():
    """Its drafts come true now and then, but what they cost is more."""
    budget = DraftBudget(4, wide=True, adapted=True)
    for step in range(50):
        tree = budget.choose(tree_of((5, 0, 0.3)), [], room=9)
        budget.learn([tree], [[1] if len(tree) and step % 4 == 0 else []])
    assert budget.rest > 0 and slots_of(budget) == 0
