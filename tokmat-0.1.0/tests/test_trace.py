# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What decoding tells of the tail."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LogitsProcessor, LogitsProcessorList

from modeling_tokmat import generation_tokmat
from modeling_tokmat.draft_budget_tokmat import DraftBudget
from modeling_tokmat.drafts_tokmat import DraftTree
from modeling_tokmat.maturation_tokmat import tail_maturities
from modeling_tokmat.verified_tokmat import VerifiedTail
from modeling_tokmat.vocabulary_tokmat import EXPECTED_OVER

NOISY = {"embryo_norm": 1.0, "alpha_max": 0.7, "eos_token_id": None}


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(1))


def unit(vector):
    return F.normalize(vector, dim=-1)


def test_the_trace_shows_the_tail(make_model, prompt):
    model = make_model(double=True)
    run = {"max_new_tokens": 8, "tail_length": 4, "return_dict_in_generate": True, "output_logits": True, **NOISY}
    output = model.generate(prompt, output_maturation="vectors", **run)
    assert len(output.maturation) == 8
    a = tail_maturities(4, schedule="linear", alpha_max=0.7)
    table, radius = model.token_embeddings().detach(), model.embedding_radius
    previous = None
    for index, step in enumerate(output.maturation):
        slots = min(4, 8 - index)
        assert step.token_ids.shape == (3, slots) and step.top_ids.shape == step.top_cosines.shape == (3, slots, 5)
        assert step.position.tolist() == [index] * 3 and step.committed.tolist() == [1] * 3
        torch.testing.assert_close(step.maturity, a[:slots].float())
        vectors = step.vectors
        cosines = F.linear(unit(vectors), unit(table))
        assert torch.equal(step.token_ids, cosines.argmax(-1)) and torch.equal(step.token_ids, step.top_ids[..., 0])
        assert torch.equal(step.token_ids[:, 0], output.sequences[:, 9 + index])
        torch.testing.assert_close(step.norm, (vectors.norm(dim=-1) / radius).float())
        nearest = (vectors - table[step.token_ids]).norm(dim=-1) / radius
        torch.testing.assert_close(step.distance, nearest.float())
        for name, scale in (("entropy", 1.0), ("entropy_scaled", 20.0)):
            expected = torch.distributions.Categorical(logits=scale * cosines).entropy()
            torch.testing.assert_close(step[name], expected.float(), atol=1e-4, rtol=1e-4)
        if previous is not None:  # slot j was slot j + 1
            kept = min(slots, previous.shape[1] - 1)
            moved = (vectors[:, :kept] - previous[:, 1 : kept + 1]).norm(dim=-1) / radius
            torch.testing.assert_close(step.displacement[:, :kept], moved.float())
        previous = vectors
    light = model.generate(prompt, output_maturation=True, **run)
    assert light.maturation[0].vectors is None and torch.equal(light.sequences, output.sequences)
    assert model.generate(prompt, **run).maturation is None


@pytest.mark.parametrize("rule", ["front", "stable", "verified"])
def test_a_trace_changes_nothing(make_model, prompt, rule):
    """Neither the text nor what is fed, drafts included."""
    model, fed = make_model(double=True), []
    model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    run = {"max_new_tokens": 30, "tail_length": 6, "commit": rule, "return_dict_in_generate": True, **NOISY}
    plain = model.generate(prompt, **run)
    seen, expected = list(fed), plain.sequences
    fed.clear()
    assert torch.equal(model.generate(prompt, output_maturation=True, **run).sequences, expected)
    assert len(fed) == len(seen) and all(torch.equal(one, other) for one, other in zip(fed, seen))


@torch.no_grad()
def test_a_single_slot_is_shown_where_the_others_lie(make_converted, prompt):
    """In the space of embeddings, although nothing reads it any more."""
    model = make_converted()
    run = {"max_new_tokens": 3, "alpha_max": 1.0, "return_dict_in_generate": True, "eos_token_id": None}
    output = model.generate(prompt, tail_length=1, output_maturation="vectors", output_logits=True, **run)
    table = model.get_input_embeddings().weight
    for step, logits in zip(output.maturation, output.logits, strict=True):
        likeliest, ids = logits.topk(EXPECTED_OVER)
        expected = (torch.softmax(likeliest, dim=-1)[..., None] * table[ids]).sum(1)
        torch.testing.assert_close(step.vectors[:, 0], expected)


class Drafts:
    """Keeps the nearest tokens of the tail after each step."""

    def __init__(self):
        self.steps = []

    def put(self, value):
        pass

    def put_draft(self, value, maturity=None):
        self.steps.append((value, maturity))

    def end(self):
        pass


@pytest.mark.parametrize("rule", ["front", "stable", "verified"])
@pytest.mark.parametrize("geometry", ["sphere", "pretrained"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_shows_what_it_commits_and_behind_it_what_remains(
    make_model, make_converted, prompt, rule, geometry, rows, monkeypatch
):
    for cost in ("POSITION_COST", "DRAFT_COST", "WIDE_COST"):
        monkeypatch.setattr(DraftBudget, cost, 1e-6)  # drafts go on although they fail
    model = make_model(double=True) if geometry == "sphere" else make_converted()
    drafts = Drafts()
    run = {"max_new_tokens": 24, "tail_length": 6, "commit": rule, "return_dict_in_generate": True}
    run |= {"alpha_max": 0.7, "eos_token_id": None}
    output = model.generate(prompt[:rows], output_maturation="vectors", streamer=drafts, **run)
    failed = 0
    for step, (tokens, maturity) in zip(output.maturation, drafts.steps, strict=True):
        slots = step.token_ids.shape[1]
        assert step.vectors.shape[:2] == step.displacement.shape == (rows, slots) and step.maturity.shape == (slots,)
        counts = step.committed.tolist()
        for row, (start, count) in enumerate(zip(step.position.tolist(), counts)):
            taken, ids = min(count, slots), output.sequences[row, 9 + start : 9 + start + count]
            assert torch.equal(step.token_ids[row, :taken], ids[:taken])
            if count == 0 and rule == "verified":  # a row that has ended
                continue
            kept = min(slots - taken, tokens.shape[1])
            assert torch.equal(step.token_ids[row, taken : taken + kept], tokens[row, :kept])
            failed += rule == "verified" and count < slots
        if counts == [1]:
            torch.testing.assert_close(step.maturity[counts[0] :], maturity[: slots - counts[0]])
    assert failed or rule != "verified"


def test_a_row_that_has_ended_is_shown_beside_rows_that_commit_several(make_model, prompt, monkeypatch):
    monkeypatch.setattr(DraftBudget, "WIDE_COST", 1e-6)
    model, eos = make_model(double=True), 5
    run = {"max_new_tokens": 14, "tail_length": 6, "return_dict_in_generate": True, "pad_token_id": 1}
    run["logits_processor"] = LogitsProcessorList([OneRowEnds(prompt.shape[1] + 2, eos)])
    expected = model.generate(prompt, **run | {"tail_length": 1, "alpha_max": 1.0}, eos_token_id=eos).sequences

    class Knowing(VerifiedTail):
        def propose(self, ahead, logits, committed):
            trees = super().propose(ahead, logits, committed)
            for row, tree in enumerate(trees):
                start = committed.length(row)
                trees[row] = DraftTree.chain(expected[row, start : start + tree.depth].tolist())
                trees[row].slots = (4,) * (1 + len(trees[row]))
            return trees

    monkeypatch.setitem(generation_tokmat.TAILS, "verified", Knowing)
    output = model.generate(prompt, commit="verified", output_maturation=True, eos_token_id=eos, **run)
    assert torch.equal(output.sequences, expected)
    counts = [step.committed.tolist() for step in output.maturation]
    assert any(first == 0 and min(others) > 1 for first, *others in counts)


class OneRowEnds(LogitsProcessor):
    """The first row is given `eos` once it has `length` tokens; no other token or row is."""

    def __init__(self, length: int, eos: int):
        self.length, self.eos = length, eos

    def __call__(self, input_ids, scores):
        scores[:, self.eos] = -1e9
        if input_ids.shape[1] >= self.length:
            scores[0, self.eos] = 1e9
        return scores
