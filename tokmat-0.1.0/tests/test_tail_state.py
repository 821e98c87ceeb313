# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A tail handed from one call of `generate` to the next: text goes on as if it had never stopped."""

import copy

import pytest
import torch
from transformers import StaticCache

from modeling_tokmat import TailState
from modeling_tokmat.inputs_tokmat import CACHE

# Embryos as large as embeddings and slow rates, so that what the tail holds decides what is committed.
NOISY = {"embryo_norm": 1.0, "alpha_max": 0.7, "eos_token_id": None, "pad_token_id": 0}
HANDED_ON = {"return_dict_in_generate": True, "output_tail": True}
FIRST, SECOND = 8, 6


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(1))


def in_two_calls(model, prompt, cached=True, mask=None, several=1, first=FIRST, **settings):
    """The text of both calls and what the first returned."""
    mask = torch.ones_like(prompt) if mask is None else mask
    begun = model.generate(
        prompt,
        attention_mask=mask,
        max_new_tokens=first,
        use_cache=cached,
        num_return_sequences=several,
        **settings,
        **HANDED_ON,
    )
    whole = torch.cat([mask.repeat_interleave(several, 0), mask.new_ones(len(begun.sequences), first)], dim=1)
    cache = {CACHE: copy.deepcopy(begun[CACHE])} if cached else {}
    more = {"attention_mask": whole, "max_new_tokens": FIRST + SECOND - first, "use_cache": cached}
    return model.generate(begun.sequences, tail=begun.tail, **more, **cache, **settings), begun


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"tail_length": 1},
        {"tail_length": 5},
        {"tail_length": 16},
        {"tail_length": 5, "guidance_scale": 1.5},
        {"tail_length": 5, "history_noise": 0.3, "history_smoothing": 0.3, "dynamics_noise": 0.2},
        {"tail_length": 5, "direction_rate": 0.8},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_two_calls_write_what_one_writes(make_model, prompt, settings, cached):
    model, settings = make_model(double=True), {**NOISY, **settings}
    once = model.generate(prompt, max_new_tokens=FIRST + SECOND, use_cache=cached, **settings)
    twice, begun = in_two_calls(model, prompt, cached, **settings)
    assert torch.equal(twice, once)
    if settings["tail_length"] > 1:  # without the tail, other embryos mature
        cache = {CACHE: begun[CACHE]} if cached else {}
        alone = model.generate(begun.sequences, max_new_tokens=SECOND, use_cache=cached, **cache, **settings)
        assert not torch.equal(alone, once)


@pytest.mark.parametrize("geometry", ["sphere", "pretrained"])
@pytest.mark.parametrize(
    "settings",
    [
        {"commit": "front"},
        {"commit": "stable", "max_refinements": 3, "stability_tolerance": 0.4},
        {"commit": "verified"},
        {"commit": "verified", "prompt_lookup_num_tokens": 3},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_every_rule_of_commitment_goes_on(make_model, prompt, geometry, settings):
    fields = {} if geometry == "sphere" else {"geometry": geometry, "negatives": "all", "regression_weight": 0.0}
    model, settings = make_model(double=True, **fields), {**NOISY, "tail_length": 5, **settings}
    traced = {"return_dict_in_generate": True, "output_maturation": True}
    for row in prompt[:, None]:
        once = model.generate(row, max_new_tokens=FIRST + SECOND, **settings, **traced)
        # A limit within what a step commits would cut the step: what remains of it is refined once more.
        first = next(int(step.position) for step in once.maturation if step.position >= FIRST - 3)
        assert 0 < first < FIRST + SECOND
        assert torch.equal(in_two_calls(model, row, first=first, **settings)[0], once.sequences)


def test_padded_rows_return_sequences_and_static_caches_go_on(make_model, prompt):
    model, settings = make_model(double=True), {**NOISY, "tail_length": 4}
    mask = torch.ones_like(prompt)
    mask[0, :3] = 0
    told = {"attention_mask": mask, "max_new_tokens": FIRST + SECOND, **settings}
    assert torch.equal(in_two_calls(model, prompt, mask=mask, **settings)[0], model.generate(prompt, **told))
    once = model.generate(prompt, num_return_sequences=2, **told)
    assert not torch.equal(once[0], once[1])
    assert torch.equal(in_two_calls(model, prompt, mask=mask, several=2, **settings)[0], once)
    model, told = make_model(), {**told, "attention_mask": torch.ones_like(prompt)}
    begun = model.generate(prompt, max_new_tokens=FIRST, cache_implementation="static", **settings, **HANDED_ON)
    assert isinstance(begun[CACHE], StaticCache) and begun[CACHE].get_seq_length() == 9 + FIRST - 1


def test_a_tail_may_be_changed_or_given_before_the_text_goes_on(make_model, prompt):
    model, settings = make_model(double=True), {**NOISY, "tail_length": 4}
    once = model.generate(prompt, max_new_tokens=FIRST + SECOND, **settings)
    begun = in_two_calls(model, prompt, **settings)[1]
    kept = begun.tail.vectors.clone()
    begun.tail.vectors = -begun.tail.vectors
    changed = model.generate(
        begun.sequences, tail=begun.tail, max_new_tokens=SECOND, **{CACHE: begun[CACHE]}, **settings
    )
    assert torch.equal(changed[:, : 9 + FIRST], once[:, : 9 + FIRST]) and not torch.equal(changed, once)
    assert torch.equal(begun.tail.vectors, -kept)  # decoding moves a copy
    # What a fresh run begins with is a tail of embryos; those of no norm may be given as well.
    still = {**settings, "embryo_norm": 0.0}
    given = model.generate(prompt, max_new_tokens=SECOND, tail=TailState(vectors=0 * kept), **still)
    assert torch.equal(given, model.generate(prompt, max_new_tokens=SECOND, **still))


def test_what_the_text_ends_on_is_refined_though_it_is_beyond_the_limit(make_model, prompt):
    """Near the last position of the backbone too."""
    model = make_model(double=True)
    limit = model.config.max_position_embeddings
    long = torch.randint(2, 97, (2, limit - FIRST), generator=torch.Generator().manual_seed(2))
    asked = {**NOISY, "tail_length": 12, "max_new_tokens": FIRST}
    output = model.generate(long, **asked, **HANDED_ON)
    assert torch.equal(output.sequences, model.generate(long, **asked)) and output.tail.vectors.shape[1] == 12
    assert model.generate(long, **asked, return_dict_in_generate=True).tail is None


@pytest.mark.parametrize(
    ("tail", "name"),
    [
        (torch.zeros(3, 4, 32), "`tail` is 'torch.float32 of shape"),
        (TailState(None), "`tail.vectors` is 'NoneType'"),
        (TailState(vectors=torch.zeros(3, 5, 32)), r"`tail.vectors` is 'torch.float32 of shape \(3, 5, 32\)"),
        (TailState(vectors=torch.zeros(3, 4, 32).long()), "`tail.vectors`"),
        (TailState(vectors=torch.zeros(3, 4, 32), queries=torch.zeros(1, 4, 32)), "`tail.queries`"),
        (TailState(vectors=torch.zeros(3, 4, 32), committed=torch.zeros(3, 1, 32)), "`tail.committed`"),
        (TailState(vectors=torch.zeros(3, 4, 32), known=torch.zeros(3, 4)), "`tail.known`"),
        (TailState(vectors=torch.zeros(3, 4, 32), tokens=-1), "`tail.tokens` is -1"),
        (TailState(vectors=torch.zeros(3, 4, 32), num_return_sequences=0), "`tail.num_return_sequences` is 0"),
    ],
)
def test_what_is_no_tail_of_this_prompt_is_refused(make_model, prompt, tail, name):
    with pytest.raises(ValueError, match=name):
        make_model().generate(prompt, tail=tail, tail_length=4, max_new_tokens=2)


def test_rows_that_are_out_of_step_leave_no_tail(make_model, prompt):
    with pytest.raises(ValueError, match="`output_tail` is True"):
        make_model().generate(prompt, commit="stable", max_new_tokens=2, **HANDED_ON)
    model = make_model(double=True)
    settings = {**NOISY, "tail_length": 5, "commit": "stable", "max_refinements": 3, "stability_tolerance": 0.4}
    output = model.generate(prompt, max_new_tokens=FIRST, return_dict_in_generate=True, **settings)
    longer = torch.cat([output.sequences, prompt, prompt, prompt], dim=1)  # longer than the cache with its holes
    with pytest.raises(ValueError, match="`(past_key_values|cache)` is 'of several rows"):
        model.generate(longer, max_new_tokens=2, **{CACHE: output[CACHE]}, **settings)
