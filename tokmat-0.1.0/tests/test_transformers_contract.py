# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What transformers' own tests ask of every model (tests/slow/test_hf_suite.py runs them), in our words; see also
test_modeling.py and test_graphs.py."""

import copy
import warnings

import pytest
import torch
from conftest import BACKBONES
from transformers.utils import logging

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from modeling_tokmat.inputs_tokmat import CACHE

IDS = torch.arange(2, 22).view(2, 10)


@pytest.fixture(params=[*BACKBONES, "converted"])
def model(request, make_model, make_converted):
    return make_converted() if request.param == "converted" else make_model(request.param)


@torch.no_grad()
def test_half_precision_is_near_and_keeps_float32_where_it_is_asked(model, tmp_path):
    model.save_pretrained(tmp_path)
    for dtype in (torch.float16, torch.bfloat16):
        half = TokMatForContinuousLM.from_pretrained(tmp_path, dtype=dtype).eval()
        kept = {name for name, weight in half.state_dict().items() if weight.dtype == torch.float32}
        assert kept == {name for name in half.state_dict() if name.startswith(("tail_adapters.", "successor."))}
        logits = half(IDS).logits
        assert logits.dtype == dtype
        assert torch.nn.functional.cosine_similarity(logits.float(), model(IDS).logits, dim=-1).mean() > 0.98
        assert half.generate(IDS, max_new_tokens=4, tail_length=3, eos_token_id=None).shape == (2, 14)


def test_what_stays_in_float32_is_part_of_the_model(model):
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert model._keep_in_fp32_modules_strict <= parts


def test_it_can_be_made_without_memory(model):
    with torch.device("meta"):
        empty = TokMatForContinuousLM(TokMatConfig.from_dict(model.config.to_dict()))
    assert all(weight.device.type == "meta" for weight in empty.parameters())
    assert {n: w.shape for n, w in empty.state_dict().items()} == {n: w.shape for n, w in model.state_dict().items()}


@torch.no_grad()
def test_a_deep_copy_is_a_model_of_its_own(model):
    twin = copy.deepcopy(model)
    before = model(IDS).logits
    assert torch.equal(twin(IDS).logits, before)
    for weight in twin.parameters():
        weight.zero_()
    assert torch.equal(model(IDS).logits, before)


@torch.no_grad()
def test_attention_is_set_by_argument_by_call_and_on_the_configuration(model, tmp_path):
    model.save_pretrained(tmp_path)
    eager = TokMatForContinuousLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert eager.backbone.config is eager.config.backbone_config
    assert eager.backbone.config._attn_implementation == eager.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(IDS).logits, model(IDS).logits, atol=1e-3, rtol=1e-3)
    eager.config._attn_implementation = "sdpa"
    assert eager.backbone.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_of_hidden_states_and_attentions_are_kept(make_model, backbone):
    model = make_model(backbone)
    model.set_attn_implementation("eager")
    given = {"maturity": torch.ones(2, 10), "output_hidden_states": True, "output_attentions": True}
    output = model.train()(IDS, **given)
    for part in (output.hidden_states[0], output.attentions[0]):
        part.retain_grad()
    output.logits.sum().backward()
    assert output.hidden_states[0].grad is not None and output.attentions[0].grad is not None


@torch.no_grad()
def test_tables_of_another_size_are_drawn_anew_when_that_is_asked(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = TokMatConfig.from_pretrained(tmp_path)
    config.vocab_size = 60
    with pytest.raises(RuntimeError, match="size"):
        TokMatForContinuousLM.from_pretrained(tmp_path, config=config)
    other = TokMatForContinuousLM.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert other.get_input_embeddings().weight.shape[0] == 60
    assert torch.equal(other.head.weight, model.head.weight)


@torch.no_grad()
def test_keys_and_values_go_by_both_names_that_transformers_has_had_for_them(model):
    output = model(IDS, use_cache=True)
    assert output.past_key_values is output[CACHE] is output.to_tuple()[1] is getattr(output, CACHE)
    longer = torch.cat([IDS, IDS[:, :2]], dim=1)
    settings = {"max_new_tokens": 3, "eos_token_id": None, "tail_length": 1, "embryo_norm": 0.0}
    logits, text = model(longer).logits[:, 10:], model.generate(longer, **settings)
    for name in ("past_key_values", "cache"):
        read, held = copy.deepcopy(output.past_key_values), copy.deepcopy(output.past_key_values)
        torch.testing.assert_close(model(longer[:, 10:], **{name: read}).logits, logits, atol=1e-4, rtol=1e-4)
        assert torch.equal(model.generate(longer, **{name: held}, **settings), text)
        assert read.get_seq_length() == 12 and held.get_seq_length() == 14
    twice = {"past_key_values": held, "cache": held}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="`cache` is 'given with past_key_values'.*the only one"):
            call(longer, **twice)


def test_neither_name_is_used_where_transformers_calls_it_deprecated(model, caplog):
    logging.warning_once.cache_clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*past_key_values")
        model.train()(IDS, labels=IDS).loss.backward()
        given = {"max_new_tokens": 6, "tail_length": 3, "eos_token_id": None, "return_dict_in_generate": True}
        for other in ({}, {"commit": "verified"}, {"cache_implementation": "static"}, {"use_cache": False}):
            assert model.eval().generate(IDS, **given, **other).sequences.shape == (2, 16)
    assert not [record for record in caplog.records if "past_key_values" in record.getMessage()]
