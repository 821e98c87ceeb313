# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The economics of drafts, in plain numbers."""

import ast
import inspect

import pytest

from modeling_tokmat import draft_budget_tokmat
from modeling_tokmat.draft_budget_tokmat import DraftBudget


def run(budget, true, steps):
    """Steps in which the first `true` of the drafts come true; how many drafts each looked for."""
    lengths, drafts = [], 0
    for _ in range(steps):
        lengths.append(budget.length())
        budget.learn(drafts, [1 + min(drafts, true)])
        drafts = lengths[-1]
    return lengths


def test_it_is_plain_python():
    tree = ast.parse(inspect.getsource(draft_budget_tokmat))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_what_a_draft_costs_in_positions():
    # One committed vector aside: n drafts, and n slots behind each of the n + 1 numbers of them that may come true.
    assert [DraftBudget.positions(n) for n in range(4)] == [0, 3, 8, 15]
    assert [DraftBudget.most(k) for k in (1, 2, 3, 4, 64)] == [0, 1, 2, 3, 3]


def test_drafts_that_come_true_grow_to_the_longest():
    lengths = run(DraftBudget(3), 3, 80)
    assert lengths[0] == 1 and lengths[-1] == 3
    assert all(b >= a for a, b in zip(lengths, lengths[1:]))


def test_chances_are_learnt_as_shares_of_what_is_remembered():
    budget = DraftBudget(3)
    budget.learn(1, [2, 1, 2])  # three rows: two first drafts came true
    seen = DraftBudget.FIRST_SEEN + 3
    assert budget.chances[0] == pytest.approx(0.2 + (2 / 3 - 0.2) * 3 / seen)
    assert budget.chance(1) == budget.chance(0)  # not seen yet
    budget.learn(2, [1, 2, 3])  # the second draft was reached twice and came true once
    assert budget.seen[:2] == [seen + 3, DraftBudget.FIRST_SEEN + 2]
    first = budget.chances[0]
    for _ in range(200):
        budget.learn(2, [2])
    assert budget.seen[0] == DraftBudget.MEMORY
    assert budget.chances[0] > 0.99 > first and budget.chances[1] < 0.01


def test_rests_after_failures_double_and_end_with_tries():
    lengths = run(DraftBudget(3), 0, 600)
    rests = [len(part) for part in "".join(map(str, lengths)).replace("1", " ").split()]
    assert set(lengths) == {0, 1}
    assert rests[:4] == [16, 32, 64, 128] and set(rests[4:-1]) == {128}
    tries = [len(part) for part in "".join(map(str, lengths)).replace("0", " ").split()]
    assert all(DraftBudget.TRIES <= count <= DraftBudget.TRIES + 1 for count in tries[:4])


def test_success_makes_the_next_rest_short_again():
    budget = DraftBudget(3)
    run(budget, 0, 60)
    assert budget.next_rest > DraftBudget.FIRST_REST
    budget.rest = 0
    run(budget, 3, 60)
    assert budget.next_rest == DraftBudget.FIRST_REST


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
    budget.chances, budget.seen = chances, [100] * 3

    def tokens_per_time(length):
        tokens, chance = 1.0, 1.0
        for place in range(length):
            chance *= chances[place]
            tokens += chance
        return tokens / (1 + (length > 0) * DraftBudget.DRAFT_COST + position_cost * DraftBudget.positions(length))

    assert max(range(4), key=tokens_per_time) == best == budget.best_length()


def test_where_even_perfect_drafts_do_not_pay_none_are_tried():
    assert set(run(DraftBudget(3, rows=29), 3, 300)) == {0, 1}
    assert set(run(DraftBudget(3, rows=31), 3, 300)) == {0}  # 3 positions of each row cost a forward
    assert DraftBudget(3, wide=True).fixed_cost == DraftBudget.WIDE_COST
    assert DraftBudget(3, rows=2, wide=True).fixed_cost == DraftBudget.DRAFT_COST
    assert set(run(DraftBudget(0), 0, 40)) == {0}
