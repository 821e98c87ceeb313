# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Properties of the dynamics that training and decoding share."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_tokmat import TokMatConfig
from modeling_tokmat.maturation_tokmat import (
    MAX_TAIL_LENGTH,
    SCHEDULES,
    corrupt,
    decoding_noise,
    low_norm_noise,
    low_norm_noises,
    mix_seed,
    schedule_maturity,
    tail_maturities,
    update_rates,
    update_tail,
)
from modeling_tokmat.tails_tokmat import draw_tails

tail_lengths = st.integers(1, MAX_TAIL_LENGTH)
settings_of_schedules = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(SCHEDULES),
        "alpha_max": st.floats(0.01, 1.0),
        "schedule_gamma": st.floats(0.01, 1.0),
        "schedule_beta": st.floats(0.01, 8.0),
    }
)


@given(tail_lengths, settings_of_schedules)
def test_schedules_fall_from_alpha_max_to_zero(tail_length, settings):
    a = tail_maturities(tail_length, **settings)
    assert a.shape == (tail_length + 1,)
    assert a[0].item() == pytest.approx(settings["alpha_max"])
    assert a[-1] == 0
    assert (a.diff() <= 1e-12).all()
    assert ((a >= 0) & (a <= settings["alpha_max"] + 1e-12)).all()


@given(tail_lengths)
def test_schedules_follow_their_formulas(tail_length):
    slots = range(1, tail_length + 1)
    done = [(slot - 1) / tail_length for slot in slots]
    formulas = {
        "linear": [0.9 * (1 - x) for x in done],
        "cosine": [0.9 * math.cos(math.pi / 2 * x) for x in done],
        "geometric": [0.9 * 0.8 ** (slot - 1) for slot in slots],
        "power": [0.9 * (1 - x) ** 2.5 for x in done],
    }
    for schedule, expected in formulas.items():
        a = tail_maturities(tail_length, schedule=schedule, alpha_max=0.9, schedule_gamma=0.8, schedule_beta=2.5)
        assert a[:-1].tolist() == pytest.approx(expected)


@given(st.lists(tail_lengths, min_size=1, max_size=5), settings_of_schedules)
def test_schedules_are_the_same_for_tensors_of_tail_lengths(lengths, settings):
    slots = torch.arange(1, MAX_TAIL_LENGTH + 2)
    together = schedule_maturity(slots[None], torch.tensor(lengths)[:, None], **settings)
    for row, length in zip(together, lengths, strict=True):
        torch.testing.assert_close(row[: length + 1], tail_maturities(length, **settings), atol=1e-12, rtol=0)
        assert (row[length:] == 0).all()


@given(tail_lengths, settings_of_schedules, st.integers(0, 2**32))
def test_the_consistent_rate_carries_mixtures_exactly(tail_length, settings, seed):
    a = tail_maturities(tail_length, **settings)
    generator = torch.Generator().manual_seed(seed)
    content, noise = torch.randn(2, 1, tail_length, 5, generator=generator, dtype=torch.float64)
    before, after = (corrupt(content[None], noise[None], maturity[None]) for maturity in (a[1:], a[:-1]))
    moved = update_tail(before, content[None], update_rates(a, "consistent"))
    # A slot told maturity 1 holds no noise: there the mixture is the content before and after.
    torch.testing.assert_close(moved, torch.where((a[1:] >= 1)[:, None], content, after), atol=1e-9, rtol=0)


@given(tail_lengths)
def test_consistent_linear_rates_are_one_over_j(tail_length):
    eta = update_rates(tail_maturities(tail_length, schedule="linear", alpha_max=1.0), "consistent")
    assert eta.tolist() == pytest.approx([1 / slot for slot in range(1, tail_length + 1)])


@given(tail_lengths, settings_of_schedules)
def test_rates_are_in_the_unit_interval_and_paper_rates_are_the_maturities(tail_length, settings):
    a = tail_maturities(tail_length, **settings)
    assert torch.equal(update_rates(a, "paper"), a[:-1])
    eta = update_rates(a, "consistent")
    assert ((eta >= 0) & (eta <= 1 + 1e-12)).all()


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="`rate` is 'fast'"):
        update_rates(tail_maturities(4), "fast")
    with pytest.raises(ValueError, match="`schedule` is 'step'"):
        tail_maturities(4, schedule="step")


def test_update_moves_each_slot_by_its_rate():
    tail, predicted = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    moved = update_tail(tail, predicted, torch.tensor([1.0, 0.5, 0.0]))
    assert torch.equal(moved, torch.tensor([1.0, 0.5, 0.0])[None, :, None].expand(2, 3, 4))


def test_corruption_keeps_mature_content_exactly():
    content, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(corrupt(content, noise, torch.ones(2, 3)), content)
    assert torch.equal(corrupt(content, noise, torch.zeros(2, 3)), noise)


@given(st.lists(st.integers(0, 500), min_size=5, max_size=5), st.integers(0, 4), st.floats(0.01, 5.0))
def test_decoding_noise_is_a_function_of_its_five_coordinates(coordinates, changed, norm):
    def noise(several=1):
        seed, stream, index, position, step = coordinates
        positions = range(position, position + several)
        return decoding_noise(seed, stream, index, positions, step, 16, norm, torch.float64)

    before = noise()[0]
    assert before.norm().item() == pytest.approx(norm)
    assert torch.equal(before, noise(several=3)[0])
    coordinates[changed] += 1
    assert not torch.equal(before, noise()[0])


def test_noise_is_isotropic_and_zero_at_norm_zero():
    noise = low_norm_noise(4000, 8, 1.0, seed=1)
    assert noise.mean(0).abs().max() < 0.05
    covariance = noise.T @ noise / len(noise)
    assert (covariance - torch.eye(8) / 8).abs().max() < 0.02
    assert (low_norm_noise(3, 8, 0.0, seed=1) == 0).all()
    for norm in (0.0, 0.3):
        apart = torch.stack([low_norm_noise(5, 8, norm, seed) for seed in (4, 2, 9)])
        assert torch.equal(low_norm_noises(5, 8, norm, [4, 2, 9]), apart)


def test_seeds_differ():
    seeds = {mix_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert mix_seed(1, 23) != mix_seed(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


# -- simulated tails -------------------------------------------------------------------------------------------------


def tails_of(labels, documents=None, seeds=None, **fields):
    config = TokMatConfig.tiny(**{"clean_probability": 0.0, "max_tail_length": 6, **fields})
    documents = torch.zeros_like(labels) if documents is None else documents
    seeds = torch.arange(len(labels)) if seeds is None else seeds
    return draw_tails(seeds, labels, documents, config), config


def test_the_tail_is_the_last_k_positions_with_the_maturities_before_an_update():
    tails, config = tails_of(torch.zeros(200, 20, dtype=torch.long))
    assert set(tails.tail_length.tolist()) == set(range(1, 7))
    for length, slot, maturity in zip(tails.tail_length, tails.slot, tails.maturity, strict=True):
        assert slot.tolist() == [0] * (20 - length) + list(range(1, length + 1))
        before = tail_maturities(int(length), **config.schedule_settings())[1:]
        assert torch.equal(maturity, torch.cat([torch.ones(20 - length), before.float()]))


def test_tail_lengths_are_uniform_and_clean_sequences_have_no_tail():
    tails, _ = tails_of(torch.zeros(6000, 20, dtype=torch.long), clean_probability=0.5)
    clean = (tails.slot == 0).all(1)
    assert abs(clean.float().mean() - 0.5) < 0.03
    assert (tails.tail_length[clean] == 1).all()
    assert (tails.maturity[clean] == 1).all()
    shares = torch.bincount(tails.tail_length[~clean], minlength=7)[1:] / (~clean).sum()
    assert (shares - 1 / 6).abs().max() < 0.03


def test_no_tail_in_padding_nor_beyond_the_last_document():
    labels = torch.zeros(100, 16, dtype=torch.long)
    documents = torch.zeros(100, 16, dtype=torch.long)
    documents[:, 9:] = 1  # the last document has 4 positions, then 3 of padding
    documents[:, 13:] = -1
    labels[:, 13:] = -100
    tails, _ = tails_of(labels, documents)
    assert (tails.slot[:, :10] == 0).all()  # position 9 stays committed: it starts the document
    assert (tails.slot[:, 13:] == 0).all()
    assert tails.tail_length.max() == 3
    assert (tails.slot[:, 12] == tails.tail_length).all()


@pytest.mark.parametrize("real", [0, 1])
def test_documents_too_short_for_a_tail_have_none(real):
    labels = torch.full((5, 8), -100)
    labels[:, :real] = 3
    documents = torch.where(labels == -100, -1, 0)
    tails, _ = tails_of(labels, documents)
    assert (tails.slot == 0).all() and (tails.maturity == 1).all() and (tails.tail_length == 1).all()


def test_tails_and_noise_are_a_function_of_the_seed_alone():
    labels = torch.zeros(3, 12, dtype=torch.long)
    seeds = torch.tensor([5, 9, 5])
    tails, _ = tails_of(labels, seeds=seeds)
    noise = tails.noise(8, 0.3)
    assert torch.equal(tails.slot[0], tails.slot[2]) and torch.equal(noise[0], noise[2])
    alone, _ = tails_of(labels[:1], seeds=seeds[1:2])
    assert torch.equal(alone.slot[0], tails.slot[1]) and torch.equal(alone.noise(8, 0.3)[0], noise[1])
    assert torch.equal(noise.norm(dim=-1) > 0, tails.slot > 0)
    torch.testing.assert_close(noise[tails.slot > 0].norm(dim=-1), torch.full((int((tails.slot > 0).sum()),), 0.3))
