# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Guidance, interventions and commit rules of the tail, against references written out, in float64."""

import pytest
import torch
import torch.nn.functional as F
from conftest import BACKBONES
from transformers import StaticCache

from modeling_tokmat import MaturationSettings
from modeling_tokmat.maturation_tokmat import (
    DYNAMICS,
    EMBRYO,
    HISTORY,
    decoding_noise,
    tail_maturities,
    update_rates,
    update_tail,
)

NEW = 16
NOISY = {"embryo_norm": 1.0, "alpha_max": 0.7, "eos_token_id": None}
INTERVENTIONS = {
    "guidance": {"guidance_scale": 2.0},
    "history_noise": {"history_noise": 0.8},
    "history_smoothing": {"history_smoothing": 0.4},
    "smoothing_and_noise": {"history_smoothing": 0.4, "history_noise": 0.5},
    "dynamics_noise": {"dynamics_noise": 0.7},
    "direction_rate": {"direction_rate": 0.8},
    "everything": {"guidance_scale": 1.5, "history_noise": 0.3, "dynamics_noise": 0.3, "direction_rate": 1.0},
    "stable": {"commit": "stable", "stability_tolerance": 0.3, "max_refinements": 3},
    "stable_and_everything": {
        "commit": "stable", "stability_tolerance": 0.5, "max_refinements": 4, "guidance_scale": 1.5,
        "history_noise": 0.3, "dynamics_noise": 0.1, "history_smoothing": 0.2, "embryo_norm": 0.1,
    },
}  # fmt: skip


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(1))


def unit(vector):
    return F.normalize(vector, dim=-1)


@torch.no_grad()
def reference(model, ids, new_tokens, return_index=0, **settings):
    """One prompt, no cache, guidance in two passes, one vector at a time; text and (step, committed) counts."""
    settings = MaturationSettings(**settings)
    length, s = settings.tail_length, settings
    a = tail_maturities(length, **s.schedule_settings())
    eta = update_rates(a, s.rate)
    table, radius, dim = model.token_embeddings(), model.embedding_radius, model.token_embeddings().shape[1]

    def noise(stream, position, norm, step=0):
        where = return_index, range(position, position + 1), step
        return decoding_noise(s.maturation_seed, stream, *where, dim, norm * radius, torch.float64)[0]

    committed, tokens = [table[i] for i in ids[0]], ids[0].tolist()
    tail, known = [noise(EMBRYO, j, s.embryo_norm) for j in range(length)], [None] * length
    counts, step, waited = [], 0, 0
    while len(tokens) < ids.shape[1] + new_tokens:
        done = len(tokens) - ids.shape[1]
        slots = min(length, new_tokens - done)
        vectors = torch.stack([*committed, *tail[: slots - 1]])[None] if slots > 1 else torch.stack(committed)[None]
        maturity = torch.cat([torch.ones(len(committed)), a[1:slots].float()])[None]
        predicted = model(inputs_embeds=vectors, maturity=maturity, tail_length=length).predicted_embeds[0]
        predicted = list(predicted[len(committed) - 1 :])
        if s.guidance_scale != 1 and slots > 1:
            places = torch.arange(len(committed), len(committed) + slots - 1)[None]
            alone = model(
                inputs_embeds=torch.stack(tail[: slots - 1])[None],
                position_ids=places,
                maturity=a[1:slots].float()[None],
                tail_length=length,
            ).predicted_embeds[0]
            for j in range(1, slots):
                predicted[j] = alone[j - 1] + s.guidance_scale * (predicted[j] - alone[j - 1])
        settled = []
        for j in range(slots):
            before = tail[j]
            tail[j] = update_tail(before[None, None], predicted[j][None, None], eta[j : j + 1], s.direction_rate)[0, 0]
            if s.dynamics_noise:
                tail[j] = tail[j] + eta[j] * noise(DYNAMICS, done + j, s.dynamics_noise, step)
            nearest = int((table @ unit(tail[j])).argmax())
            change = (tail[j] - before).norm() / radius
            settled.append(change <= s.stability_tolerance and nearest == known[j])
            known[j] = nearest
        run = settled.index(False) if False in settled else slots
        if s.commit == "front":
            run = 1
        else:
            waited += 1
            run = 1 if run == 0 and waited >= s.max_refinements else run
            waited = 0 if run else waited
        for j in range(run):
            tokens.append(int((table @ unit(tail[j])).argmax()))
            vector = table[tokens[-1]]
            if s.history_smoothing:
                vector = radius * unit(s.history_smoothing * committed[-1] + (1 - s.history_smoothing) * vector)
            if s.history_noise:
                vector = radius * unit(vector + noise(HISTORY, done + j, s.history_noise))
            committed.append(vector)
        entering = [noise(EMBRYO, done + length + j, s.embryo_norm) for j in range(run)]
        tail, known = [*tail[run:], *entering], [*known[run:], *[None] * run]
        counts.append(run)
        step += 1
    return torch.tensor([tokens[: ids.shape[1] + new_tokens]]), counts


def padded_batch(prompt):
    lengths = (9, 5, 2)
    padded, mask = torch.ones_like(prompt), torch.zeros_like(prompt)
    for row, length in enumerate(lengths):
        padded[row, 9 - length :], mask[row, 9 - length :] = prompt[row, :length], 1
    return padded, mask, lengths


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", INTERVENTIONS)
def test_every_setting_equals_its_reference(make_model, prompt, backbone, name):
    model = make_model(backbone, double=True)
    settings = {"tail_length": 5, "embryo_norm": 1.0, "alpha_max": 0.7, "maturation_seed": 2, **INTERVENTIONS[name]}
    expected, counts = reference(model, prompt[:1], NEW, **settings)
    run = {"max_new_tokens": NEW, "eos_token_id": None, **settings}
    output = model.generate(prompt[:1], return_dict_in_generate=True, **run)
    assert torch.equal(output.sequences, expected)
    assert output.num_forwards == len(counts)
    for cache in ({"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(prompt[:1], **run, **cache), expected), cache
    if name != "guidance":  # with alpha_max 0.7 the front blends predictions, so settings show in the text
        plain = model.generate(prompt[:1], **{**run, **{key: default(key) for key in INTERVENTIONS[name]}})
        assert not torch.equal(plain, expected)


def default(name):
    return getattr(MaturationSettings, name)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_batches_and_return_sequences_equal_singles(make_model, prompt, name):
    """Left padding, rows that commit different numbers of tokens, several return sequences; three kinds of cache."""
    model = make_model(double=True)
    settings = {"tail_length": 5, "embryo_norm": 1.0, "alpha_max": 0.7, **INTERVENTIONS[name]}
    padded, mask, lengths = padded_batch(prompt)
    for cache in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        together = model.generate(
            padded,
            attention_mask=mask,
            num_return_sequences=2,
            max_new_tokens=NEW,
            eos_token_id=None,
            **settings,
            **cache,
        )
        for row, length in enumerate(lengths):
            for index in range(2):
                expected, _ = reference(model, prompt[row : row + 1, :length], NEW, index, **settings)
                assert torch.equal(together[2 * row + index, 9:], expected[0, length:]), (cache, row, index)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("static", [False, True])
def test_guidance_in_one_forward_equals_two_passes(make_model, prompt, backbone, attention, static):
    model = make_model(backbone, double=True)
    model.set_attn_implementation(attention)
    forwards = []
    model.backbone.register_forward_hook(lambda *args: forwards.append(1))
    run = {"max_new_tokens": NEW, "tail_length": 6, "guidance_scale": 2.5, "output_maturation": "vectors", **NOISY}
    run |= {"cache_implementation": "static"} if static else {}
    output = model.generate(prompt, return_dict_in_generate=True, **run)
    assert len(forwards) == output.num_forwards == NEW
    # The vectors of the whole tail after the last full step, from the reference's two passes.
    model.set_attn_implementation("sdpa")
    settings = {key: run[key] for key in ("tail_length", "guidance_scale", "embryo_norm", "alpha_max")}
    for row in range(3):
        expected, _ = reference(model, prompt[row : row + 1], NEW, **settings)
        assert torch.equal(output.sequences[row], expected[0])
    unguided = model.generate(prompt, return_dict_in_generate=True, **{**run, "guidance_scale": 1.0})
    first, plain = output.maturation[0].vectors, unguided.maturation[0].vectors
    torch.testing.assert_close(first[:, 0], plain[:, 0])  # slot 1 is left alone
    a = tail_maturities(6, schedule="linear", alpha_max=0.7)
    embryos = decoding_noise(0, EMBRYO, 0, range(6), 0, 32, model.embedding_radius, torch.float64)
    with torch.no_grad():
        alone = model(
            inputs_embeds=embryos[None, :5],
            position_ids=torch.arange(9, 14)[None],
            maturity=a[1:6].float()[None],
            tail_length=6,
        ).predicted_embeds[0]
    unmoved = (plain - embryos) / a[:6, None] + embryos  # z^ without guidance, from its update
    guided = alone + 2.5 * (unmoved[:, 1:] - alone)
    moved = embryos[1:] + a[1:6, None] * (guided - embryos[1:])
    torch.testing.assert_close(first[:, 1:], moved, atol=1e-5, rtol=1e-5)


def test_guidance_needs_eager_or_sdpa(make_model, prompt):
    model = make_model()
    model.backbone.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="`attn_implementation` is 'flash_attention_2'"):
        model.generate(prompt, guidance_scale=2.0, max_new_tokens=2)


def test_stable_with_one_refinement_and_no_tolerance_is_front(make_model, prompt):
    model = make_model(double=True)
    run = {"max_new_tokens": NEW, "tail_length": 5, **NOISY}
    stable = {"commit": "stable", "max_refinements": 1, "stability_tolerance": 0.0}
    assert torch.equal(model.generate(prompt, **run, **stable), model.generate(prompt, **run))


def test_stable_refines_and_commits_several(make_model, prompt):
    model = make_model(double=True)
    run = {"max_new_tokens": NEW, "tail_length": 5, "eos_token_id": None, "return_dict_in_generate": True}
    run |= {"embryo_norm": 0.0, "rate": "paper", "alpha_max": 0.9, "commit": "stable", "output_maturation": True}
    output = model.generate(prompt[:1], stability_tolerance=0.5, max_refinements=6, **run)
    counts = [int(step.committed) for step in output.maturation]
    assert 0 in counts and max(counts) > 1 and sum(counts) == NEW
    assert output.tokens_per_forward == pytest.approx(NEW / len(counts))


def test_a_static_cache_of_the_callers_own(make_model, prompt):
    model = make_model(double=True)
    run = {"max_new_tokens": NEW, "tail_length": 4, "guidance_scale": 2.0, **NOISY}
    mine = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    assert torch.equal(model.generate(prompt, past_key_values=mine, **run), model.generate(prompt, **run))


def test_polar_updates_turn_by_the_rate_and_move_the_norm_by_eta():
    old, new = torch.randn(2, 3, 8, dtype=torch.float64), 3 * torch.randn(2, 3, 8, dtype=torch.float64)
    eta = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    moved = update_tail(old, new, eta, direction_rate=0.6)
    angle = torch.acos((unit(old) * unit(new)).sum(-1))
    torch.testing.assert_close(torch.acos((unit(moved) * unit(new)).sum(-1)), (1 - 0.6 * eta) * angle)
    torch.testing.assert_close(torch.acos((unit(moved) * unit(old)).sum(-1)), 0.6 * eta * angle)
    torch.testing.assert_close(moved.norm(dim=-1), torch.lerp(old.norm(dim=-1), new.norm(dim=-1), eta))
    torch.testing.assert_close(
        unit(update_tail(old, new, eta, direction_rate=9.0)), unit(new)
    )  # never past the target
    zero = torch.zeros_like(old)
    torch.testing.assert_close(unit(update_tail(zero, new, eta, direction_rate=0.1)), unit(new))
    torch.testing.assert_close(update_tail(old, old, eta, direction_rate=0.5), old)
    assert update_tail(old, -old, eta, direction_rate=0.5).isfinite().all()


def test_noisy_updates_reach_what_is_scored_where_that_is_a_space_of_its_own(make_model, prompt):
    model = make_model(double=True, geometry="pretrained", negatives="all", regression_weight=0.0)
    settings = {"tail_length": 1, "alpha_max": 1.0, "dynamics_noise": 3.0, "eos_token_id": None, "pad_token_id": 1}
    vocabulary = model.vocabulary()
    with torch.no_grad():
        predicted = model(prompt).predicted_embeds[:, -1]
    noise = decoding_noise(0, DYNAMICS, 0, range(1), 0, predicted.shape[1], 3.0 * vocabulary.radius, torch.float64)
    told = vocabulary.scores(predicted + noise).argmax(dim=-1)
    assert not torch.equal(told, vocabulary.scores(predicted).argmax(dim=-1))
    assert torch.equal(model.generate(prompt, max_new_tokens=1, **settings)[:, -1], told)
