# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Detectors of failures, on models and texts made to fail."""

import math

import pytest
import torch

from modeling_tokmat.trace_tokmat import MaturationStep
from trainer.evaluation import failures
from trainer.evaluation.decoders import continue_prompts


def by_name(signals):
    return {signal.name: signal for signal in signals}


def trace(norms, displacements, slots=4):
    """A trace of two rows whose slots all have the same norm and displacement at each step."""
    return [
        MaturationStep(norm=torch.full((2, slots), norm), displacement=torch.full((2, slots), moved))
        for norm, moved in zip(norms, displacements)
    ]


def test_mean_cosine_is_that_of_all_pairs():
    vectors = torch.randn(7, 5)
    pairs = [torch.cosine_similarity(vectors[i], vectors[j], dim=0) for i in range(7) for j in range(i)]
    assert failures.mean_cosine(3 * vectors) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)
    assert failures.mean_cosine(torch.eye(4)) == pytest.approx(0)
    assert failures.mean_cosine(torch.ones(4, 3)) == pytest.approx(1)


def test_signals_fire_above_their_threshold_and_when_not_finite():
    assert not failures.Signal("x", 1.0, 1.0).fired and failures.Signal("x", 1.1, 1.0).fired
    assert failures.Signal("x", math.nan, 1.0).fired and failures.Signal("x", math.inf, 1.0).fired
    assert failures.fires([failures.Signal("x", 0, 1), failures.Signal("y", 2, 1)])
    assert not failures.fires([failures.Signal("x", 0, 1)])


def test_mode_collapse_is_seen_where_the_head_ignores_the_context(make_model):
    model, ids = make_model(), torch.randint(2, 97, (4, 20))
    with torch.no_grad():  # a random backbone leans to one side
        model.head.bias.sub_(model(ids).predicted_embeds.mean(dim=(0, 1)))
    assert not failures.fires(failures.mode_collapse(model, ids))
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(model.token_embeddings()[5])
    found = by_name(failures.mode_collapse(model, ids))
    assert found["same direction"].value == pytest.approx(1) and found["same direction"].fired
    assert found["same token"].value == 1 and found["same token"].fired


def test_divergence_is_seen_in_long_vectors_in_growing_changes_and_in_what_is_not_finite():
    steady = failures.divergence(trace([0.9] * 20, [0.3] * 20))
    assert not failures.fires(steady) and by_name(steady)["growth"].value == pytest.approx(1)
    assert by_name(failures.divergence(trace([0.9] * 19 + [2.5], [0.3] * 20)))["norm"].fired
    growing = by_name(failures.divergence(trace([0.9] * 20, [0.1 * 1.1**step for step in range(20)])))
    assert growing["growth"].fired and not growing["norm"].fired
    assert by_name(failures.divergence(trace([0.9] * 19 + [math.nan], [0.3] * 20)))["norm"].fired
    assert not failures.fires(failures.divergence(trace([0.0] * 20, [0.0] * 20)))


def generated(model, **settings):
    prompts = torch.randint(2, 97, (3, 6))
    settings = {"tail_length": 4, "output_maturation": "vectors"} | settings
    output = continue_prompts(model, prompts, 16, eos_token_id=None, **settings)
    return output.sequences, output.maturation


def test_nothing_is_left_to_refine_where_the_front_goes_all_the_way(make_model):
    model = make_model(double=True)
    found = by_name(failures.premature_commitment(model, *generated(model, alpha_max=1.0), tail_length=4))
    assert found["to go"].value == pytest.approx(0, abs=1e-6) and found["overturned"].value == 0


def test_what_is_left_to_refine_is_what_the_last_update_left(make_model):
    model = make_model(double=True)
    sequences, steps = generated(model, alpha_max=0.6)
    found = by_name(failures.premature_commitment(model, sequences, steps, tail_length=4))
    # z~ moved by eta_1 = a_1 = 0.6 of the way to z^, so that 0.4 / 0.6 of the last displacement is left.
    left = torch.stack([step.displacement[:, 0] for step in steps]).mean() * 0.4 / 0.6
    assert found["to go"].value == pytest.approx(float(left), rel=1e-4)


def test_premature_commitment_is_seen_where_fronts_hardly_move(make_model):
    model = make_model(double=True)
    found = failures.premature_commitment(model, *generated(model, alpha_max=0.01), tail_length=4)
    assert failures.fires(found) and by_name(found)["overturned"].value > 0.5


def test_poor_diversity_is_judged_beside_people_and_for_different_prompts():
    prompts = torch.tensor([[1, 2], [1, 3], [1, 4]])
    human = torch.tensor([[5, 6, 7, 8, 9], [6, 7, 8, 9, 5], [7, 6, 5, 9, 8]])
    assert not failures.fires(failures.poor_diversity(human, prompts, human))
    looping = torch.tensor([[5, 6, 5, 6, 5], [6, 7, 6, 7, 6], [7, 8, 7, 8, 7]])
    found = by_name(failures.poor_diversity(looping, prompts, human))
    assert found["repetition"].value == pytest.approx(0.5 / failures.LEAST_REPETITION) and found["copies"].value == 0
    same = human[:1].expand(3, -1)
    assert by_name(failures.poor_diversity(same, prompts, human))["copies"].value == pytest.approx(2 / 3)
    assert not failures.fires(failures.poor_diversity(same, prompts[:1].expand(3, -1), human))
