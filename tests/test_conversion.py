# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Pretrained models, kept exactly: conversion, and a tail beside the frozen source."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from modeling_tokmat import TokMatForContinuousLM
from modeling_tokmat.modeling_tokmat import ADDED_FOR_THE_TAIL
from modeling_tokmat.training_tokmat import simulate_tails
from trainer.conversion import agreement, convert_folder, from_autoregressive
from trainer.recipes import SOURCE_TAIL
from trainer.tail_adapter import CONFIG, WEIGHTS, attach, attach_folder, load_tail_adapter, save_tail_adapter
from trainer.tokmat_trainer import TokMatTrainer
from trainer.training_args import TokMatTrainingArguments

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2}
GPT2 = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
SOURCES = {
    "gpt2": GPT2,
    "gpt2 untied": GPT2 | {"tie_word_embeddings": False},
    "llama": GROUPED,
    "llama tied": GROUPED | {"tie_word_embeddings": True},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "smollm3": GROUPED | {"use_sliding_window": False},
    "phi3": GROUPED,
    "olmo2": GROUPED,
    "starcoder2": GROUPED | {"sliding_window": None},
    "gemma": GROUPED | {"head_dim": 8},
    "cohere": GROUPED | {"logit_scale": 0.3},
    "granite": GROUPED | {"logits_scaling": 7.0, "embedding_multiplier": 3.0},
    "phi": {"intermediate_size": 64},  # its head has a bias
}
TAIL = SOURCE_TAIL | {"tail_adapter_rank": 3, "parallel_tails": 4, "parallel_slots": 3}


def make_source(name: str, **fields):
    torch.manual_seed(3)
    config = AutoConfig.for_model(name.split()[0], **SIZES | SOURCES.get(name, {}) | fields)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
        table = model.get_input_embeddings().weight
        table.mul_(torch.linspace(0.3, 2, len(table))[:, None])  # norms that differ, as in a pretrained model
        for weight in (getattr(model.get_output_embeddings(), "bias", None),):
            if weight is not None:
                weight.normal_()
    return model


@pytest.fixture
def ids():
    return torch.randint(2, 97, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SOURCES)
@torch.no_grad()
def test_conversion_is_exact(name, dtype, ids):
    source = make_source(name).to(dtype)
    model = from_autoregressive(source)
    assert model.dtype == dtype and model.config.geometry == "pretrained"
    expected, found = source(ids).logits.float(), model(ids).logits.float()
    tolerance = (
        1e-4 if dtype == torch.float32 else 0.01
    )  # 16 bits round a factor of the logits that is no power of two
    assert (expected - found).abs().max() <= tolerance * expected.abs().max()
    if dtype == torch.float32:
        assert torch.equal(expected.argmax(-1), found.argmax(-1))
        greedy = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
        texts = [m.generate(ids, attention_mask=torch.ones_like(ids), **greedy) for m in (source, model)]
        assert torch.equal(*texts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_source_of_16_bits_stays_one(dtype, tokenizer, ids, tmp_path):
    make_source("llama tied", vocab_size=len(tokenizer)).to(dtype).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    source = AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=dtype).eval()
    found = convert_folder(str(tmp_path / "source"), tmp_path / "out", tail_adapter_rank=2)
    model = TokMatForContinuousLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    told = (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
    assert '"_name_or_path": "source"' in told and str(tmp_path) not in told
    assert model.dtype == model.config.dtype == dtype and found.same_top > 0.95  # near ties of random weights
    with torch.no_grad():
        expected = source(ids).logits.float()
        assert (model(ids).logits.float() - expected).abs().max() <= 0.002 * expected.abs().max()
        long = torch.randint(2, 97, (1, 64), generator=torch.Generator().manual_seed(1))  # where rounded angles tell
        converted = from_autoregressive(source)
        assert torch.equal(converted(long).logits, model(long).logits)
        expected = source(long).logits.float()
        assert (converted(long).logits.float() - expected).abs().max() <= 0.002 * expected.abs().max()


@torch.no_grad()
def test_converted_models_are_saved_and_loaded_whole(ids, tmp_path):
    for name in ("gpt2 untied", "phi", "llama tied"):
        source = make_source(name)
        source.generation_config.repetition_penalty = 1.3
        source.generation_config.do_sample, source.generation_config.temperature = True, 0.5
        model = from_autoregressive(source, tail_adapter_rank=2, successor_head=True)
        folder = tmp_path / name.replace(" ", "-")
        model.save_pretrained(folder)
        loaded, info = TokMatForContinuousLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        settings = loaded.generation_config
        assert settings.repetition_penalty == 1.3 and not settings.do_sample and settings.commit == "verified"


def test_adapters_stand_in_the_layers_that_are_named_alone(ids, tmp_path):
    source, modules = make_source("llama"), r".*(?<![kv]_proj)"
    model = from_autoregressive(source, tail_adapter_rank=2, tail_adapter_modules=modules)
    named = {name.rsplit("/", 1)[1] for name in model.tail_adapters}
    assert named == {"q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    for adapter in model.tail_adapters.values():
        torch.nn.init.normal_(adapter.lora_B)
    save_tail_adapter(model, tmp_path / "tail", dtype=torch.float32)
    model.save_pretrained(tmp_path / "whole")
    maturity, told = torch.full(ids.shape, 0.5), {"tail_length": 4, "input_ids": ids}
    expected = model(maturity=maturity, **told).predicted_embeds
    for other in (
        TokMatForContinuousLM.from_pretrained(tmp_path / "whole"),
        attach(make_source("llama"), *load_tail_adapter(str(tmp_path / "tail"))),
    ):
        assert torch.equal(other.eval()(maturity=maturity, **told).predicted_embeds, expected)
    with pytest.raises(ValueError, match="`tail_adapter_modules` is 'c_attn'"):
        from_autoregressive(source, tail_adapter_rank=2, tail_adapter_modules="c_attn")


@pytest.mark.parametrize("name", ["gpt2", "phi", "llama"])
def test_weights_are_shared_where_they_are_not_copied(name, ids):
    source = make_source(name)
    places = {weight.data_ptr() for weight in source.parameters()}
    fields = {"tail_adapter_rank": 2, "train": "tail", "parallel_tails": 2, "film_scope": "tail"}
    for copied in (True, False):
        model = from_autoregressive(source, copy=copied, **fields)
        held = [weight for part in (model.backbone, model.lm_head) if part is not None for weight in part.parameters()]
        assert {weight.data_ptr() in places for weight in held} == {not copied}
        assert not any(weight.requires_grad for weight in held)
        assert torch.equal(model(ids).logits, source(ids).logits)
    assert all(weight.requires_grad for weight in source.parameters())  # of which nobody else decides


@torch.no_grad()
def test_the_sphere_is_the_papers_and_costs_what_it_costs(ids):
    source = make_source("llama tied")
    sphere, exact = from_autoregressive(source, "sphere"), from_autoregressive(source)
    norms = sphere.token_embeddings().norm(dim=-1)
    real = torch.arange(97) != source.config.pad_token_id  # whose row is zero here
    torch.testing.assert_close(norms[real], torch.full((96,), sphere.embedding_radius))
    assert agreement(source, exact, ids).same_top == 1
    assert agreement(source, sphere, ids).same_top < 1


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gemma2", GROUPED | {"head_dim": 8}, "soft-capped logits"),
        ("mistral", GROUPED | {"sliding_window": 8}, "sliding_window=8"),
        ("phi3", GROUPED | {"sliding_window": 8}, "sliding_window=8"),
    ],
)
def test_sources_that_are_not_served_are_refused_by_name(name, fields, message):
    with pytest.raises(ValueError, match=message) as raised:
        from_autoregressive(make_source(name, **fields))
    assert name in str(raised.value)


def test_a_folder_that_is_no_decoder_or_has_no_tokenizer_leaves_nothing(tmp_path):
    make_source("llama").save_pretrained(tmp_path / "source")
    with pytest.raises((OSError, ValueError)):
        convert_folder(str(tmp_path / "source"), tmp_path / "out")
    with pytest.raises(OSError, match="nowhere"):
        convert_folder(str(tmp_path / "nowhere"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- a tail beside the source -----------------------------------------------------------------------------------------


def make_tail(name="llama tied", **fields):
    """A converted model whose tail says something: what was added is drawn anew."""
    model = from_autoregressive(make_source(name), **TAIL | fields)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2 if "lora" in parameter else 0.05)
    return model


@pytest.mark.parametrize("name", ["llama tied", "gpt2"])
@torch.no_grad()
def test_committed_positions_are_the_source_to_the_bit(name, ids):
    model, source = make_tail(name), make_source(name)
    assert torch.equal(model(ids).logits, source(ids).logits)
    maturity = torch.ones(2, 20)
    maturity[:, 15:] = 0.4
    mixed = model(ids, maturity=maturity, tail_length=8).predicted_embeds
    plain = model(ids).predicted_embeds
    assert torch.equal(mixed[:, :15], plain[:, :15]) and (mixed[:, 15:] != plain[:, 15:]).any(-1).all()
    told = model.conditions(maturity, 8, committed=15)
    torch.testing.assert_close(model(ids, conditions=told).predicted_embeds, mixed)
    scattered = maturity.clone()
    scattered[:, 15:] = 1
    scattered[0, 4] = 0.4
    apart = model(ids, maturity=scattered, tail_length=8).predicted_embeds
    assert torch.equal(apart[1], plain[1]) and torch.equal(apart[0, :4], plain[0, :4])
    assert (apart[0, 4] != plain[0, 4]).any()


@torch.no_grad()
def test_a_fresh_tail_adds_nothing(ids):
    model = from_autoregressive(make_source("gpt2"), **TAIL)
    assert not any(adapter.lora_B.any() for adapter in model.tail_adapters.values())
    predicted, previous = torch.randn(2, 2, 5, 32)
    assert torch.equal(model.successor(predicted, previous, model.embedding_radius), predicted)


def test_the_optimizer_holds_what_was_added_alone(tmp_path):
    model = make_tail()
    trainer = TokMatTrainer(model, TokMatTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True))
    held = {id(weight) for group in trainer.create_optimizer().param_groups for weight in group["params"]}
    added = {id(weight) for name, weight in model.named_parameters() if name.startswith(ADDED_FOR_THE_TAIL)}
    assert held == added and len(held) > 10


def test_only_what_was_added_is_trained(ids):
    model = make_tail().train()
    assert not model.backbone.training
    model(ids, labels=ids, maturation_seeds=torch.tensor([1, 2])).loss.backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == name.startswith(ADDED_FOR_THE_TAIL), name
        if weight.grad is not None and "table" not in name:
            assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["llama tied", "gpt2", "qwen3"])
@pytest.mark.parametrize("kind", ["simulated", "rollout"])
def test_beside_the_source_equals_one_pass_over_everything(name, kind):
    """Slots that read a cache of the source predict what they do on one line with it, in value and gradient."""
    model = make_tail(name, maturation=kind).double().train()
    packed = torch.randint(2, 97, (2, 24), generator=torch.Generator().manual_seed(3))
    positions = torch.stack([torch.cat([torch.arange(n), torch.arange(24 - n)]) for n in (14, 5)])
    labels = packed.masked_fill(positions == 0, -100)
    given = {"input_ids": packed, "position_ids": positions, "labels": labels}
    given["maturation_seeds"] = torch.tensor([11, 12])
    beside = model(**given)
    beside.loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    model.config.train, model.config.regression_weight = "all", 0.0
    tails, _ = simulate_tails(model.config, given["maturation_seeds"], labels, positions)
    line = model(**given | {"tail_only": torch.tensor([True, True])})
    used = tails.alone().slot > 0
    torch.testing.assert_close(line.predicted_embeds[:, 24:][used], beside.predicted_embeds[used])
    torch.testing.assert_close(line.contrastive_loss, beside.contrastive_loss)
    torch.testing.assert_close(line.successor_loss, beside.successor_loss)
    loss = beside.loss - TAIL["regression_weight"] * beside.regression_loss
    torch.testing.assert_close(line.loss, loss)
    # The distillation is the only difference.
    frozen = model.eval()(packed, position_ids=positions, use_cache=False).predicted_embeds.detach()
    alone = tails.alone()
    weights = alone.maturity.clamp(min=model.config.tail_weight_floor) * used
    predictable = torch.nn.functional.pad((labels[:, 1:] != -100) & (positions[:, 1:] > 0), (0, 1))
    weights = weights * alone.at_place(predictable)
    squared = (beside.predicted_embeds - alone.at_place(frozen)).square().sum(-1) / model.embedding_radius**2
    expected = (squared * weights).sum() / weights.sum()
    torch.testing.assert_close(beside.regression_loss, expected.to(beside.regression_loss))
    assert len(gradients) > 10


def test_a_deep_copy_has_a_gate_of_its_own(ids):
    model = make_tail()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for adapter in other.tail_adapters.values():
            adapter.lora_B.zero_()
        maturity = torch.full((2, 20), 0.5)
        assert not torch.equal(other(ids, maturity=maturity).logits, model(ids, maturity=maturity).logits)
        assert other.tail_adapters.gate is not model.tail_adapters.gate


def test_a_tail_is_saved_apart_and_attached(ids, tmp_path):
    model = make_tail()
    save_tail_adapter(model, tmp_path, str(tmp_path), dtype=torch.float32)
    values, tensors = load_tail_adapter(str(tmp_path))
    assert "layers.0.self_attn.q_proj.lora_A.weight" in tensors and values["source"] == tmp_path.name
    again = attach(make_source("llama tied"), values, tensors)
    maturity = torch.full((2, 20), 0.5)
    with torch.no_grad():
        assert torch.equal(again(ids, maturity=maturity).logits, model(ids, maturity=maturity).logits)
    assert again.generation_config.commit == "verified"
    again.save_pretrained(tmp_path / "whole")
    assert not any("lora" in name and "backbone" in name for name in load_file(tmp_path / "whole/model.safetensors"))


def test_a_tail_that_does_not_fit_is_refused(tmp_path):
    old = make_tail()
    del old.generation_config.output_tail  # as of a model that was saved before this setting existed
    save_tail_adapter(old, tmp_path)
    values, tensors = load_tail_adapter(str(tmp_path))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # not the file itself, which is broken below
    with pytest.raises(ValueError, match="num_hidden_layers 2, not 3"):
        attach(make_source("llama tied", num_hidden_layers=3), values, tensors)
    other = make_source("llama tied")
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(1.5)
    with pytest.raises(ValueError, match="trained beside another source"):
        attach(other, values, tensors)
    wrong = copy.deepcopy(values)
    wrong["config"]["tail_adapter_rank"] = 5
    with pytest.raises(ValueError, match="rank 5"):
        attach(make_source("llama tied"), wrong, tensors)
    fewer = dict(list(tensors.items())[1:])
    with pytest.raises(ValueError, match="missing"):
        attach(make_source("llama tied"), values, fewer)
    for value, words in ((torch.full((2, 2), torch.nan), "not finite"), (torch.ones(2, 2).to(torch.int8), "int8")):
        save_file(tensors | {next(iter(tensors)): value}, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=f"damaged: `{next(iter(tensors))}` is .*{words}"):
            load_tail_adapter(str(tmp_path))
    (tmp_path / WEIGHTS).write_bytes(b"broken")
    with pytest.raises(ValueError, match="damaged"):
        load_tail_adapter(str(tmp_path))
    save_file(tensors, tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(values)[:-9])
    with pytest.raises(ValueError, match="damaged"):
        attach_folder("nowhere", str(tmp_path), tmp_path / "out")
    with pytest.raises(ValueError, match="no tail adapters"):
        save_tail_adapter(from_autoregressive(make_source("gpt2")), tmp_path / "none")
    assert not (tmp_path / "out").exists() and not (tmp_path / "none").exists()


# -- decoding beside the source ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookup", [None, 6])
@pytest.mark.parametrize("name", ["llama tied", "gpt2", "phi", "qwen3"])
@torch.no_grad()
def test_verified_text_is_the_sources(name, lookup):
    """Left padding, rows that end at different times, processors: the source's own greedy text, token for token."""
    source, model = make_source(name).double(), make_tail(name).double()
    ids = torch.randint(2, 97, (3, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    ids[1, :5], mask[1, :5] = 1, 0
    run = {"attention_mask": mask, "max_new_tokens": 40, "do_sample": False, "pad_token_id": 1}
    for further in ({"eos_token_id": None}, {"eos_token_id": [5, 17, 60]}, {"repetition_penalty": 1.4}):
        expected = source.generate(ids, **run, **further)
        output = model.generate(
            ids, commit="verified", prompt_lookup_num_tokens=lookup, return_dict_in_generate=True, **run, **further
        )
        assert torch.equal(output.sequences, expected), further
        assert set(output.drafts_taken) == {"tail", "lookup"}


@torch.no_grad()
def test_a_lookup_makes_loops_cheap_and_says_so():
    model = make_tail().double()
    ids = torch.arange(2, 12).repeat(2)[None]
    run = {"max_new_tokens": 40, "commit": "verified", "eos_token_id": None, "return_dict_in_generate": True}
    plain = model.generate(ids, **run)
    helped = model.generate(ids, prompt_lookup_num_tokens=8, **run)
    assert torch.equal(helped.sequences, plain.sequences)
    assert helped.num_forwards < plain.num_forwards and helped.drafts_taken["lookup"] > 0


@torch.no_grad()
def test_every_rule_decodes_a_converted_model(ids):
    model = make_tail()
    for settings in (
        {"tail_length": 4},
        {"commit": "stable", "tail_length": 4},
        {"tail_length": 4, "guidance_scale": 2},
    ):
        settings = {"commit": "front", "alpha_max": 0.9, "eos_token_id": None, "max_new_tokens": 12} | settings
        output = model.generate(ids, output_maturation=True, return_dict_in_generate=True, **settings)
        assert output.sequences.shape == (2, 32)
        step = output.maturation[2]
        assert (step.entropy_scaled > 0).all() and step.norm.isfinite().all()
        alone = model.generate(ids[1:], **settings)
        assert torch.equal(alone[0], output.sequences[1])
