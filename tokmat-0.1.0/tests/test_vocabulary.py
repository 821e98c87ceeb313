# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Tokens as vectors and vectors as tokens, under both geometries."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling_tokmat.vocabulary_tokmat import PretrainedVocabulary, Vocabulary


def test_nearest_is_the_nearest_neighbour_on_the_sphere_whatever_the_chunks():
    embeddings, vectors = nn.Embedding(50, 8), torch.randn(4, 7, 8)
    vocabulary = Vocabulary(embeddings, 3.0, 20.0)
    nearest = (vectors[..., None, :] - vocabulary.rows()).norm(dim=-1).argmin(-1)
    for at_once in (1, 5, 4096):
        assert torch.equal(vocabulary.nearest(vectors, at_once), nearest)
    assert vocabulary.nearest(vectors[:, :0]).shape == (4, 0)
    assert vocabulary.as_inputs(vectors) is vectors


def test_the_two_geometries_agree_where_rows_and_vectors_have_norm_r():
    embeddings = nn.Embedding(50, 8)
    with torch.no_grad():
        embeddings.weight.copy_(F.normalize(embeddings.weight, dim=-1) * 3)
    sphere, pretrained = Vocabulary(embeddings, 3.0, 20.0), PretrainedVocabulary(embeddings, 3.0, 20.0, None)
    vectors, ids = F.normalize(torch.randn(2, 5, 8), dim=-1) * 3, torch.arange(6)
    torch.testing.assert_close(sphere.scores(vectors), pretrained.scores(vectors))
    torch.testing.assert_close(sphere.embed(ids), pretrained.embed(ids))
    torch.testing.assert_close(sphere.rows(), pretrained.rows())
    both = [v.scale * v.queries(vectors) @ v.keys(torch.float32).T for v in (sphere, pretrained)]
    torch.testing.assert_close(*both)
    torch.testing.assert_close(both[0], sphere.scores(vectors))


def test_scores_of_an_output_table_of_its_own_are_its_logits():
    embeddings, output = nn.Embedding(50, 8), nn.Linear(8, 50)
    vocabulary = PretrainedVocabulary(embeddings, 3.0, 20.0, output)
    hidden = torch.randn(2, 5, 8)
    c = 3.0**2 / 20.0
    torch.testing.assert_close(vocabulary.scores(c * hidden), output(hidden))
    assert torch.equal(vocabulary.keys(torch.float32), output.weight) and vocabulary.bias is output.bias


def test_a_prediction_is_read_as_the_expected_embedding_of_its_likeliest_tokens():
    embeddings = nn.Embedding(20, 8)
    vocabulary = PretrainedVocabulary(embeddings, 3.0, 9.0, None)
    predicted = torch.randn(3, 2, 8)
    scores = vocabulary.scores(predicted)
    for row in range(3):
        for slot in range(2):
            likeliest = scores[row, slot].argsort(descending=True)[:8]
            share = scores[row, slot, likeliest].softmax(0)
            expected = sum(p * embeddings.weight[i] for p, i in zip(share, likeliest))
            torch.testing.assert_close(vocabulary.as_inputs(predicted)[row, slot], expected)
    torch.testing.assert_close(vocabulary.as_inputs(predicted, scores), vocabulary.as_inputs(predicted))


@pytest.mark.parametrize("geometry", ["sphere", "pretrained"])
def test_frozen_embeddings_are_trained_with_after_inference_mode(geometry, make_model):
    """What is derived from the table in a pass without gradient must not be met again by one with it."""
    exact = {"negatives": "all", "regression_weight": 0.0} if geometry == "pretrained" else {}
    model = make_model(geometry=geometry, freeze_embeddings=True, **exact)
    ids = torch.randint(2, 97, (2, 8))
    with torch.inference_mode():
        model(ids), model.generate(ids, max_new_tokens=3), model(ids, labels=ids)
    model.train()(ids, labels=ids).loss.backward()
    assert model.head.weight.grad.abs().sum() > 0
