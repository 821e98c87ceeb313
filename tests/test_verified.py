# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Lossless multi-token steps: the reference's text, whatever is drafted."""

import pytest
import torch
from conftest import BACKBONES
from transformers import CompileConfig, LogitsProcessor, LogitsProcessorList

from modeling_tokmat import generation_tokmat, verified_tokmat
from modeling_tokmat.draft_budget_tokmat import Chances, DraftBudget, PromptLookup
from modeling_tokmat.drafts_tokmat import Draft, DraftTree
from modeling_tokmat.maturation_tokmat import tail_maturities
from modeling_tokmat.verified_tokmat import VerifiedTail


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("tail_length", [1, 2, 8])
def test_verified_text_is_the_reference_text(make_model, backbone, tail_length, monkeypatch):
    """Token-identical over many prompts: padded batches, all caches, EOS inside runs, processors."""
    for cost in ("POSITION_COST", "DRAFT_COST", "WIDE_COST"):
        monkeypatch.setattr(DraftBudget, cost, 1e-6)  # drafts go on although they fail
    model = make_model(backbone, double=True)
    generator = torch.Generator().manual_seed(4)
    forwards = committed = 0
    for batch in range(9):
        prompt = torch.randint(2, 97, (8, 9), generator=generator)
        mask = torch.ones_like(prompt)
        for row in range(8):
            mask[row, : int(torch.randint(0, 8, (), generator=generator))] = 0
        prompt = prompt.masked_fill(mask == 0, 1)
        inputs = {"input_ids": prompt, "attention_mask": mask, "max_new_tokens": 24, "pad_token_id": 1}
        inputs |= [{}, {"use_cache": False}, {"cache_implementation": "static"}][batch % 3]
        inputs["eos_token_id"] = [None, 5, [7, 11, 30, 42]][batch % 3]
        if batch > 5:
            inputs |= {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 4}
        expected = model.generate(**inputs, tail_length=1, alpha_max=1.0)
        output = model.generate(**inputs, tail_length=tail_length, commit="verified", return_dict_in_generate=True)
        assert torch.equal(output.sequences, expected), batch
        forwards, committed = forwards + output.num_forwards, committed + output.sequences.shape[1] - 9
    assert forwards <= committed


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize("head", [True, False])
def test_compiled_passes_of_drafts_give_the_same_text(make_converted, prompt, monkeypatch, backend, head):
    """What transformers compiles on accelerators; here without a compiler, or through the C++ compiler."""
    for name in [name for name in vars(DraftBudget) if name.endswith("_COST")]:
        monkeypatch.setattr(DraftBudget, name, 0.0)  # so passes have one shape, but for the first and the last ones
    model, prompt = make_converted(successor_head=head).double(), prompt[:1]
    settings = {"max_new_tokens": 24, "eos_token_id": None, "commit": "verified", "tail_length": 8}
    expected = model.generate(prompt, tail_length=1, alpha_max=1.0, max_new_tokens=24, eos_token_id=None)
    compiling = CompileConfig(backend=backend, fullgraph=True, mode="default")
    compiling._compile_all_devices = True
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings |= {"cache_implementation": "static", "compile_config": compiling}
    assert torch.equal(model.generate(prompt, **settings), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize(("rows", "drafts"), [(1, 24), (3, 24), (16, 6)])
def test_passes_on_an_accelerator_are_as_wide_as_pays(make_converted, monkeypatch, rows, drafts, head):
    """Whatever the trees are, so that one shape can be compiled: fewer drafts where there are more rows."""
    monkeypatch.setattr(verified_tokmat, "accelerated", lambda device: True)
    model = make_converted(successor_head=head).double()
    prompt = torch.randint(2, 97, (rows, 9), generator=torch.Generator().manual_seed(1))
    settings = {"max_new_tokens": 20, "eos_token_id": None}
    expected = model.generate(prompt, tail_length=1, alpha_max=1.0, **settings)
    fed = count_fed(model)
    assert torch.equal(model.generate(prompt, tail_length=8, commit="verified", **settings), expected)
    drafts = drafts if head else DraftBudget.LONGEST  # without a head each slot says one thing
    assert max(fed) == 1 + drafts + (drafts + 1) * 4


def test_verified_commits_several_tokens_where_the_tail_is_right(make_model):
    """A model that was taught to say one thing only, whatever comes before."""
    model = make_model(fresh=True, negatives="all", regression_weight=0.1, embedding_radius=5.6).train()
    text = torch.full((1, 60), 9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(text.expand(8, -1), labels=text.expand(8, -1)).loss.backward()
        optimizer.step()
    model.double().eval()
    run = {"max_new_tokens": 52, "eos_token_id": None, "return_dict_in_generate": True}
    for rows in (1, 3):
        prompt = text[:, :8].expand(rows, -1).clone()
        prompt[1:, 0] = 7  # rows that need not agree
        expected = model.generate(prompt, tail_length=1, alpha_max=1.0, **run)
        output = model.generate(prompt, tail_length=8, commit="verified", **run)
        assert torch.equal(output.sequences, expected.sequences)
        assert output.tokens_per_forward > 1.4  # it begins with single drafts, and rests


def count_fed(model):
    fed = []
    model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    return fed


class Unforeseen(LogitsProcessor):
    """Tokens that no tail can know."""

    def __call__(self, input_ids, scores):
        token = torch.full_like(input_ids[:, :1], input_ids.shape[1] * 29 % 97)
        return scores.scatter(1, token, 1e9)


def test_verified_drafts_shrink_to_nothing_when_they_fail(make_model, prompt):
    model = make_model()
    fed = count_fed(model)
    run = {"max_new_tokens": 55, "tail_length": 8, "commit": "verified", "eos_token_id": None}
    model.generate(prompt[:1], logits_processor=LogitsProcessorList([Unforeseen()]), **run)
    assert fed[0] > 9  # the prompt, and slots that find the first draft
    resting = "".join("1" if positions == 1 else "." for positions in fed).split(".")
    assert max(map(len, resting)) >= DraftBudget.FIRST_REST
    assert sum(fed[1:]) < 2.5 * len(fed)


@pytest.mark.parametrize(("cost", "most"), [(0.0, 25), (1.0, 1)])
def test_verified_spends_positions_only_where_they_are_cheap(make_model, prompt, monkeypatch, cost, most):
    for name in ("POSITION_COST", "DRAFT_COST", "WIDE_COST", "ADAPTED_COST", "WIDE_ADAPTED_COST"):
        monkeypatch.setattr(DraftBudget, name, cost)
    monkeypatch.setattr(Chances, "FIRST_SEEN", 10**6)
    monkeypatch.setattr(Chances, "MEMORY", 10**6)  # drafts go on although they fail
    model = make_model()
    fed = count_fed(model)
    model.generate(prompt[:1], max_new_tokens=14, tail_length=8, commit="verified", eos_token_id=None)
    assert max(fed[1:]) == most  # 1 committed vector, 4 drafts and 5 branches of 4 slots


def test_every_branch_sees_its_own_drafts_and_itself(make_model, prompt, monkeypatch):
    """What one pass finds behind each draft of a tree equals passes over one way and its branch alone."""
    model = make_model(double=True)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 97, (3, 3), generator=generator).tolist()
    parents = [(0, 1, 2), (0, 0, 1), (0, 1)]  # of each row's drafts; the last row has one less
    slots = [(2, 0, 1, 2), (1, 2, 2, 0), (2, 1, 2)]  # behind none of them, and behind each
    trees = [
        DraftTree((Draft(*draft, 1.0) for draft in zip(ids, shape)), slots=of_each)
        for ids, shape, of_each in zip(tokens, parents, slots)
    ]
    tail = torch.randn(3, 6, 32, generator=generator).double()
    seen = {}

    class Watched(VerifiedTail):
        def feed(self, committed):
            if self.steps == 1:
                self.trees, self.vectors[:, :6] = trees, tail
                seen["ids"] = committed.ids[:, : committed.length(0)].clone()
            return super().feed(committed)

        def update(self, predicted):
            if self.steps == 1:
                seen["predicted"] = predicted
            super().update(predicted)

    monkeypatch.setitem(generation_tokmat.TAILS, "verified", Watched)
    model.generate(prompt, max_new_tokens=20, tail_length=4, commit="verified", eos_token_id=None)
    settings = {name: getattr(model.generation_config, name) for name in ("schedule", "alpha_max")}
    told = tail_maturities(4, **settings)[1:]
    for row, tree in enumerate(trees):
        for draft in range(len(tree) + 1):
            way, before = [], draft
            while before:
                way.insert(0, tree.tokens[before - 1])
                before = tree.parents[before - 1]
            committed = model.embed_tokens(torch.cat([seen["ids"][row], torch.tensor(way, dtype=torch.long)])[None])
            own = slots[row][draft]
            vectors = torch.cat([committed, tail[row : row + 1, len(way) : len(way) + own]], dim=1)
            maturity = torch.ones(1, vectors.shape[1])
            exact = committed.shape[1]
            maturity[0, exact:] = told[:own]
            lengths = torch.ones(1, vectors.shape[1], dtype=torch.long)
            lengths[0, exact:] = 4
            alone = model(inputs_embeds=vectors, maturity=maturity, tail_length=lengths).predicted_embeds[0]
            place = 4 + sum(slots[row][:draft])
            torch.testing.assert_close(seen["predicted"][row, place : place + own], alone[exact:])
            torch.testing.assert_close(seen["predicted"][row, draft], alone[exact - 1])


@pytest.mark.parametrize("cache", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_way_that_comes_true_is_kept_wherever_it_was_fed(make_model, prompt, monkeypatch, cache, rows):
    """Trees in which decoys are fed before, between and behind what comes true, another one for each row."""
    model, prompt = make_model(double=True), prompt[:rows].clone()
    mask = torch.ones_like(prompt)
    mask[1:, :4] = 0
    run = {"attention_mask": mask, "max_new_tokens": 20, "eos_token_id": None, **cache}
    expected = model.generate(prompt, tail_length=1, alpha_max=1.0, **run)

    class Knowing(VerifiedTail):
        def propose(self, ahead, logits, committed):
            trees = []
            for row, ids in enumerate(expected.tolist()):
                true, drafts, parent = ids[committed.length(row) :][: min(3, committed.remaining - 1)], [], 0
                for place, token in enumerate(true):
                    decoys = [Draft((token + 1 + n) % 97, parent, 0.1) for n in range((row + place) % 3)]
                    drafts += [*decoys, Draft(token, parent, 0.9)]
                    parent = len(drafts)
                trees.append(DraftTree(drafts, slots=[(row + place) % 3 for place in range(1 + len(drafts))]))
            return trees

    monkeypatch.setitem(generation_tokmat.TAILS, "verified", Knowing)
    output = model.generate(prompt, tail_length=6, commit="verified", return_dict_in_generate=True, **run)
    assert torch.equal(output.sequences, expected)
    assert output.num_forwards == 1 + 5  # the prompt with one token, then four tokens a pass


def test_rows_without_any_draft_are_answered(make_model):
    """Neither the tail nor the past proposes anything: the drafts are none, and still ids."""
    model, ids = make_model(double=True), torch.tensor([[5, 6, 7, 8, 9]])
    settings = {"max_new_tokens": 9, "repetition_penalty": 1.3}
    for tail_length in (1, 5):
        asked = settings | {"tail_length": tail_length}
        found = model.generate(ids, commit="verified", prompt_lookup_num_tokens=3, **asked)
        assert torch.equal(found, model.generate(ids, commit="verified", **asked))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_repeated_n_gram_alone_needs_no_mask_of_its_own(make_model, monkeypatch, rows):
    """So that attention which takes none, such as flash attention, may check it."""
    monkeypatch.setattr(PromptLookup, "propose", lambda self, ids: ([3, 4, 5], 2))
    for name in [name for name in vars(DraftBudget) if name.endswith("_COST")]:
        monkeypatch.setattr(DraftBudget, name, 0.0)
    model, masks = make_model(double=True), []
    model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    prompt = torch.arange(2, 7).repeat(3)[None].repeat(rows, 1)
    run = {"max_new_tokens": 12, "eos_token_id": None, "tail_length": 1, "return_dict_in_generate": True}
    expected, fed = model.generate(prompt, alpha_max=1.0, **run).sequences, count_fed(model)
    output = model.generate(prompt, commit="verified", prompt_lookup_num_tokens=5, **run)
    assert torch.equal(output.sequences, expected)
    assert all(mask is None or mask.dim() == 2 for mask in masks) and max(fed[1:]) == 4  # one committed, three drafts


def test_a_large_model_in_float32_drafts_only_what_repeats(make_converted, prompt, monkeypatch):
    monkeypatch.setattr(DraftBudget, "LARGE", 1)
    model, run = make_converted(), {"max_new_tokens": 24, "eos_token_id": None, "return_dict_in_generate": True}
    expected = model.generate(prompt[:1], tail_length=1, alpha_max=1.0, **run).sequences
    known = expected[0].tolist()
    monkeypatch.setattr(PromptLookup, "propose", lambda self, ids: (known[len(ids) :][:4], 3))
    fed = count_fed(model)
    output = model.generate(prompt[:1], commit="verified", prompt_lookup_num_tokens=4, tail_length=8, **run)
    assert torch.equal(output.sequences, expected)
    assert output.drafts_taken["tail"] == 0 < output.drafts_taken["lookup"] and max(fed[1:]) == 5
    fed.clear()
    alone = model.generate(prompt[:1], commit="verified", tail_length=8, **run)
    assert torch.equal(alone.sequences, expected) and alone.num_forwards == 24 and fed == [9] + [1] * 23
    fed.clear()
    watched = model.generate(prompt[:1], commit="verified", tail_length=8, output_maturation=True, **run)
    assert torch.equal(watched.sequences, expected) and fed[0] > 9
    assert max(step.token_ids.shape[1] for step in watched.maturation) > 1


def test_a_streamer_is_shown_what_the_tail_looked_for_alone(make_model, prompt):
    class Recorder:
        def __init__(self):
            self.widths = []

        def put(self, value):
            pass

        def put_draft(self, value, maturity=None):
            assert value.shape[1:] == maturity.shape
            self.widths.append(value.shape[1])

        def end(self):
            pass

    model, recorder = make_model(double=True), Recorder()
    run = {"commit": "verified", "tail_length": 8, "max_new_tokens": 12, "eos_token_id": None}
    model.generate(prompt, streamer=recorder, **run)
    assert 0 < max(recorder.widths) <= DraftBudget.LONGEST < 7
    assert recorder.widths[-1] == 0
