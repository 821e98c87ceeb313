# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `generate` cannot serve, refused before a token is committed, with what to use instead."""

import pytest
import torch
from transformers import DynamicCache, pipeline

from modeling_tokmat.inputs_tokmat import CACHE

IDS = torch.arange(2, 22).view(2, 10)


@pytest.mark.parametrize("tail_length", [1, 4])
def test_a_prompt_that_is_padding_alone(make_model, tail_length):
    mask = torch.ones_like(IDS)
    mask[1] = 0
    with pytest.raises(ValueError, match=r"`attention_mask` is '0 in all of the rows \[1\]'"):
        make_model().generate(IDS, attention_mask=mask, max_new_tokens=3, tail_length=tail_length)
    padding = torch.tensor([[1], [1]])  # transformers takes it for padding
    with pytest.raises(ValueError, match=r"`attention_mask` is '0 in all of the rows \[0, 1\]'.*pad_token_id"):
        make_model().generate(padding, max_new_tokens=3, tail_length=tail_length)


@pytest.mark.parametrize("name", ["negative_prompt_ids", "negative_prompt_attention_mask"])
def test_negative_prompts(make_model, name):
    with pytest.raises(ValueError, match=f"`{name}`.*tail alone"):
        make_model().generate(IDS, max_new_tokens=3, guidance_scale=2.0, **{name: IDS})


def test_continuous_batching(make_model):
    with pytest.raises(ValueError, match="continuous batching.*use `generate`"):
        make_model().generate_batch([[2, 3], [4]])
    with pytest.raises(ValueError, match="continuous batching"):
        make_model().init_continuous_batching()


def test_a_pipeline_that_is_not_told_how_many_tokens(make_model, tokenizer):
    """Pipelines ask for 256 new tokens, and the positions of the backbone are 64."""
    write = pipeline("text-generation", make_model(vocab_size=300), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="256 new tokens.*within the backbone's 64 positions"):
        write("One day")
    assert write("One day", max_new_tokens=4)[0]["generated_text"].startswith("One day")


@torch.no_grad()
def test_a_cache_that_was_filled_at_another_tail_length(make_model):
    model = make_model()
    cache = DynamicCache(config=model.config.get_text_config())
    first = model.generate(IDS, max_new_tokens=4, tail_length=3, past_key_values=cache, eos_token_id=None)
    with pytest.raises(ValueError, match="`tail_length` is 5, but it must be 3"):
        model.generate(first, max_new_tokens=2, tail_length=5, past_key_values=cache)
    longer = model.generate(first, max_new_tokens=2, tail_length=3, past_key_values=cache, eos_token_id=None)
    again = model.generate(first, max_new_tokens=2, tail_length=3, eos_token_id=None)
    assert torch.equal(longer, again)


@torch.no_grad()
def test_a_cache_may_serve_any_tail_where_committed_positions_are_not_told_of_it(make_model):
    model = make_model(film_scope="tail")
    cache = DynamicCache(config=model.config.get_text_config())
    first = model.generate(IDS, max_new_tokens=4, tail_length=3, past_key_values=cache, eos_token_id=None)
    longer = model.generate(first, max_new_tokens=2, tail_length=5, past_key_values=cache, eos_token_id=None)
    assert torch.equal(longer, model.generate(first, max_new_tokens=2, tail_length=5, eos_token_id=None))


def test_a_quantized_cache_that_would_be_rolled_back(make_model):
    from transformers import QuantizedCache

    class Quantized(QuantizedCache):  # without the packages that quantize, which need not be installed
        def __init__(self):
            self.layers, self.layer_class_to_replicate, self.offloading = [], None, False

    cache = Quantized()
    with pytest.raises(ValueError, match=f"`{CACHE}` is 'Quantized'.*dynamic or static"):
        make_model().generate(IDS, max_new_tokens=4, tail_length=3, past_key_values=cache)


@torch.no_grad()
def test_going_on_from_text_begins_with_a_fresh_tail_unless_there_is_none(make_model):
    def equal(**given):
        given |= {"eos_token_id": None}
        model = make_model()
        first = model.generate(IDS, max_new_tokens=8, **given)
        whole = model.generate(IDS, max_new_tokens=14, **given)
        assert torch.equal(whole[:, :18], first)
        return torch.equal(model.generate(first, max_new_tokens=6, **given), whole)

    assert equal(tail_length=1, alpha_max=1.0)
    assert equal(tail_length=4, commit="verified", alpha_max=1.0)
    assert not equal(tail_length=8, embryo_norm=1.0, alpha_max=0.5)
