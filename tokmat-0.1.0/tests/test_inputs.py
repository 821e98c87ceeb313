# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Vectors given instead of ids: where the two are equal, and the warning where they are not."""

import pytest
import torch
from transformers.utils import logging

IDS = torch.arange(2, 22).view(2, 10)


@pytest.fixture
def warnings(caplog):
    """What was warned of norms so far."""
    logging.warning_once.cache_clear()
    return lambda: [record.getMessage() for record in caplog.records if "mean norm" in record.getMessage()]


@torch.no_grad()
def test_rows_of_the_table_are_the_committed_vectors_of_a_converted_model(make_converted, warnings):
    model = make_converted()
    rows = model.get_input_embeddings()(IDS)
    assert torch.equal(model(inputs_embeds=rows).logits, model(IDS).logits)
    assert not warnings()


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["gpt2", "llama"])
def test_rows_of_the_table_are_not_those_of_the_sphere_and_that_is_said_once(make_model, warnings, backbone):
    model = make_model(backbone, fresh=True)
    model(inputs_embeds=model.embed_tokens(IDS))
    model.generate(inputs_embeds=model.embed_tokens(IDS), max_new_tokens=3, embryo_norm=1.0)
    model.to(torch.bfloat16)(inputs_embeds=model.embed_tokens(IDS))
    assert not warnings()
    model.float()
    rows = model.get_input_embeddings()(IDS)
    assert not torch.allclose(model(inputs_embeds=rows).logits, model(IDS).logits)
    model(inputs_embeds=rows)
    assert len(warnings()) == 1
    assert all(part in warnings()[0] for part in ("embed_tokens", "get_input_embeddings", "input_ids"))


@torch.no_grad()
def test_slots_may_have_any_norm(make_model, warnings):
    model = make_model()
    model(inputs_embeds=torch.randn(2, 10, 32), maturity=torch.rand(2, 10), tail_length=4)
    assert not warnings()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("maturity", torch.full((2, 10), 1.5), "in [0, 1]"),
        ("maturity", torch.full((2, 10), float("nan")), "in [0, 1]"),
        ("maturity", torch.ones(2, 9), "of shape (2, 10) or (1, 10)"),
        ("maturity", 0.5, "a tensor of floats"),
        ("attention_mask", torch.ones(2, 7), "of shape (2, 10), and wider by what is cached"),
        ("attention_mask", torch.ones(3, 10), "of shape (2, 10), and wider by what is cached"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(make_model, name, value, words):
    with pytest.raises(ValueError, match=f"`{name}`") as caught:
        make_model()(IDS, **{name: value})
    assert words in str(caught.value)
