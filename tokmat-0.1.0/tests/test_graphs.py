# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""One graph without breaks: what torch.compile and torch.export make of a forward pass, and of a training step."""

import pytest
import torch

from modeling_tokmat.training_tokmat import simulate_tails

IDS = torch.arange(2, 22).view(2, 10)
MATURITY = torch.tensor([[1.0] * 7 + [0.6, 0.3, 0.0]]).expand(2, -1)


@pytest.fixture(params=["gpt2", "llama", "converted"])
def model(request, make_model, make_converted):
    """A model from scratch, or a converted one whose tail adapters act."""
    torch._dynamo.reset()
    return make_converted() if request.param == "converted" else make_model(request.param)


def whole(function):
    return torch.compile(function, fullgraph=True, backend="eager")


@torch.no_grad()
def test_forward_compiles_without_a_break(model):
    for given in ({}, {"maturity": MATURITY, "tail_length": 3}):
        torch.testing.assert_close(whole(model)(IDS, **given).logits, model(IDS, **given).logits)


@torch.no_grad()
def test_a_decoding_step_compiles_without_a_break(model):
    from transformers import DynamicCache

    def step(call):
        cache = DynamicCache(config=model.config.get_text_config())
        model(IDS[:, :7], past_key_values=cache, use_cache=True)
        conditions = model.conditions(MATURITY[:1, 6:], 3, committed=1)
        return call(inputs_embeds=vectors, conditions=conditions, past_key_values=cache, use_cache=True)

    vectors = model.embed_tokens(IDS[:, 6:])
    torch.testing.assert_close(step(whole(model)).logits, step(model).logits)


def test_a_training_step_compiles_with_its_tails_drawn_outside_the_graph(model):
    model.train()
    seeds = torch.tensor([1, 2])
    tails, _ = simulate_tails(model.config, seeds, IDS)
    drawn = {"tails": tails, "negative_ids": model.draw_negatives(IDS)}

    def gradients(call):
        model.zero_grad()
        call(IDS, labels=IDS, **drawn).loss.backward()
        return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}

    expected = gradients(model)
    for name, gradient in gradients(torch.compile(model, backend="eager")).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@torch.no_grad()
@pytest.mark.parametrize("strict", [True, False])
def test_forward_exports(model, strict):
    given = {"maturity": MATURITY, "use_cache": False}
    exported = torch.export.export(model, (IDS,), kwargs=given, strict=strict)
    other = IDS + 40
    torch.testing.assert_close(exported.module()(other, **given).logits, model(other, **given).logits)


def test_ids_are_checked_before_and_after_compiling(model):
    whole(model)(IDS)
    with pytest.raises(ValueError, match="`input_ids`"):
        model(IDS + 90)
