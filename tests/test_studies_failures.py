# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Detectors of failures, and the measures of the studies of templates and of structured text, on hand-made input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_tokmat.trace_tokmat import MaturationStep
from trainer.evaluation import failures
from trainer.evaluation.decoders import continue_prompts
from trainer.studies import structured, templates

WORDS = st.lists(st.sampled_from(["a", "cat", "sat", "."]), max_size=12)


def by_name(signals):
    return {signal.name: signal for signal in signals}


def trace(norms, displacements, slots=4):
    """A trace of two rows whose slots all have the same norm and displacement at each step."""
    return [
        MaturationStep(norm=torch.full((2, slots), norm), displacement=torch.full((2, slots), moved))
        for norm, moved in zip(norms, displacements)
    ]


# -- detectors --------------------------------------------------------------------------------------------------------


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


# -- skeletons --------------------------------------------------------------------------------------------------------


def test_words_and_skeletons():
    words = templates.split_words('The cat\'s hat, "Tom" said.')
    assert words == ["the", "cat's", "hat", ",", '"', "tom", '"', "said", "."]
    kept = templates.frequent_words(["the cat. the dog.", "the . end"], 2)
    assert kept == {"the", "."}
    assert templates.skeleton(words, kept) == ["the", "_", "_", "_", "_", "_", "_", "_", "."]


@given(WORDS, WORDS)
def test_masking_does_not_lower_the_agreement_of_equal_texts_nor_leave_the_unit_interval(first, second):
    for kept in (set(), {"a", "."}, {"a", "cat", "sat", "."}):
        masked = templates.skeleton(first, kept), templates.skeleton(second, kept)
        assert 0 <= templates.agreement([masked]) <= 1
        assert templates.agreement([(masked[0], masked[0])]) == 1
    assert templates.agreement([(first, second)]) == templates.agreement([masked])  # all kept


def test_agreement_of_no_pair_is_nan():
    assert math.isnan(templates.agreement([]))


@given(st.floats(0, 0.99), st.floats(0.01, 0.9), st.floats(0, 0.9))
def test_the_gain_of_texts_that_share_a_part_does_not_depend_on_the_part(part, words, more):
    unrelated = np.array([words, words + (1 - words) * more])
    shared = part + (1 - part) * unrelated
    assert templates.gain(shared[None]) == pytest.approx(templates.gain(unrelated[None]), abs=1e-6)
    assert templates.gain(unrelated[None]) == pytest.approx(more, abs=1e-6)


def test_a_template_gains_over_its_control_and_identical_texts_say_nothing():
    kept = {"once", "there", "was", "a", "who", "had", "."}
    siblings = [[f"Once there was a {name} who had a {thing}." for name, thing in pair]
                for pair in ((("fox", "hat"), ("owl", "pan")), (("hen", "bed"), ("dog", "cup")))]  # fmt: skip
    control = [["Once a fox had there was.", "Fish swim far."], ["A hen was who.", "There had bells rung."]]
    found, unrelated = templates.agreements(siblings, kept), templates.agreements(control, kept)
    assert found[:, 1] == pytest.approx(1) and templates.gain(found) == pytest.approx(1)
    assert templates.gain_interval(found, unrelated)[1] > 0
    same = templates.agreements([["one text"] * 3] * 2, kept)
    assert all(map(math.isnan, templates.gain_interval(same)))
    assert templates.identical_share([["x", "x", "y"]]) == pytest.approx(1 / 3)


def test_texts_of_different_prompts_pair_with_the_next_group():
    found = templates.agreements([["a b"], ["a c"], ["d e"]], set(), others=True)
    assert found[:, 0] == pytest.approx([0.5, 0, 0]) and found[:, 1] == pytest.approx(1)


# -- structured text --------------------------------------------------------------------------------------------------


def test_sums_are_correct_and_the_same_again():
    documents = structured.sums(20)
    assert documents == structured.sums(20) != structured.sums(20, seed=1)
    for document in documents:
        assert structured.correct_sums(f"\n{document}\n") == (16, 16)


def test_only_whole_lines_of_arithmetic_count():
    assert structured.correct_sums("7\n1 + 2 = 3\n1 + 2 = 4\nword\n5 - 3 = ") == (1, 3)
    assert structured.correct_sums("1 + 2 = 3") == (0, 0)


def test_code_documents_are_functions_and_classes():
    documents = structured.code_documents(30_000)
    assert 5 < len(documents) and sum(map(len, documents)) <= 30_000
    assert all(text.startswith(("def ", "class ")) for text in documents)


def test_dialogue_is_cut_between_speeches(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("\n\n".join(f"A:\nThis is speech {place}." for place in range(50)), encoding="utf-8")
    documents = structured.dialogue_documents(str(path), least=100)
    assert len(documents) > 5 and all(text.startswith("A:") and text.endswith(".") for text in documents)
    assert "\n\n".join(documents) == path.read_text(encoding="utf-8")
