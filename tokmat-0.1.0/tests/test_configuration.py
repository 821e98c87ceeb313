# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
from transformers import GPT2Config, LlamaConfig

from modeling_tokmat import TokMatConfig


def test_default_backbone_is_gpt2():
    assert isinstance(TokMatConfig().backbone_config, GPT2Config)


@pytest.mark.parametrize("backbone", [LlamaConfig(vocab_size=50), {"model_type": "llama", "vocab_size": 50}])
def test_backbone_as_object_or_dict_survives_saving(tmp_path, backbone):
    config = TokMatConfig(backbone_config=backbone, negatives="all", alpha_max=0.7)
    config.save_pretrained(tmp_path)
    loaded = TokMatConfig.from_pretrained(tmp_path)
    assert isinstance(loaded.backbone_config, LlamaConfig)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.vocab_size, loaded.negatives, loaded.alpha_max) == (50, "all", 0.7)
    assert loaded.get_text_config() is loaded.backbone_config


def test_fields_that_models_and_tools_read():
    config = TokMatConfig.tiny(vocab_size=33)
    assert (config.vocab_size, config.hidden_size, config.max_position_embeddings) == (33, 32, 64)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 0, 1)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_measures_of_the_backbone_are_read_and_set(model_type):
    config = TokMatConfig.tiny(model_type=model_type)
    assert (config.num_hidden_layers, config.num_attention_heads) == (2, 4)
    assert hasattr(config, "num_key_value_heads") == (model_type == "llama")
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
        setattr(config, name, 96)
        assert getattr(config.backbone_config, name) == getattr(config, name) == 96
        assert name not in config.to_dict()
    loaded = TokMatConfig.from_dict(config.to_dict())
    assert (loaded.vocab_size, loaded.hidden_size) == (96, 96)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("embedding_radius", 0.0, "in [1e-9, 1e9]"),
        ("embedding_radius", float("nan"), "in [1e-9, 1e9]"),
        ("embedding_radius", 1e-320, "in [1e-9, 1e9]"),
        ("logit_scale", -1.0, "in [1e-9, 1e9]"),
        ("logit_scale", 1e308, "in [1e-9, 1e9]"),
        ("regression_weight", -0.1, "at least 0"),
        ("contrastive_weight", "much", "at least 0"),
        ("negatives", "hard", "uniform, unigram, batch, all"),
        ("num_negatives", 0, "at least 1"),
        ("unigram_exponent", -1.0, "at least 0"),
        ("context_negatives", -1.0, "at least 0"),
        ("context_window", -1, "at least 0"),
        ("maturation", "real", "simulated, rollout"),
        ("rollout_passes", -1, "at least 0"),
        ("rollout_jump", -1, "at least 0"),
        ("max_tail_length", 65, "[1, 64]"),
        ("max_tail_length", 0, "[1, 64]"),
        ("min_tail_length", 33, "max_tail_length = 32"),
        ("clean_probability", 1.5, "[0, 1]"),
        ("embryo_norm", -0.1, "at least 0"),
        ("schedule", "exponential", "linear, cosine, geometric, power"),
        ("alpha_max", 0.0, "(0, 1]"),
        ("schedule_gamma", 1.5, "(0, 1]"),
        ("schedule_beta", 0.0, "above 0"),
        ("freeze_embeddings", "yes", "True or False"),
        ("successor_head", 1, "True or False"),
        ("output_bias", None, "True or False"),
        ("use_cache", "no", "True or False"),
        ("tie_word_embeddings", 0, "True or False"),
        ("geometry", "torus", "sphere, pretrained"),
        ("tail_adapter_rank", 2**20, "[0, 1024]"),
        ("tail_adapter_modules", "(q_proj", "None or a regular expression"),
        ("tail_adapter_modules", ["q_proj"], "None or a regular expression"),
        ("train", "head", "all, tail"),
        ("bos_token_id", 50257, "[0, 50256]"),
        ("eos_token_id", [], "a list of them"),
        ("eos_token_id", [1, 2.5], "a list of them"),
        ("pad_token_id", -1, "[0, 50256]"),
        ("pad_token_id", True, "[0, 50256]"),
        ("dtype", "float7", "a dtype of torch"),
        ("regression_weight", 1e308, "at most 1e+06"),
        ("rollout_passes", 65, "at most 64"),
        ("parallel_slots", 65, "at most 64"),
    ],
)
def test_wrong_values_are_refused_by_name(field, value, allowed):
    with pytest.raises(ValueError) as error:
        TokMatConfig(**{field: value})
    assert f"`{field}` is {value!r}" in str(error.value)
    assert allowed in str(error.value)


INTEGERS = (
    "num_negatives",
    "context_window",
    "context_ngram",
    "rollout_passes",
    "rollout_jump",
    "parallel_tails",
    "parallel_slots",
)
INTEGERS += ("tail_adapter_rank", "min_tail_length", "max_tail_length", "bos_token_id", "eos_token_id", "pad_token_id")
FLOATS = (
    "embedding_radius",
    "logit_scale",
    "regression_weight",
    "contrastive_weight",
    "unigram_exponent",
    "alpha_max",
)
FLOATS += (
    "phrase_penalty",
    "context_negatives",
    "tail_weight_floor",
    "clean_probability",
    "embryo_norm",
    "schedule_gamma",
)


@pytest.mark.parametrize(
    "value",
    [
        10**30,
        -(10**30),
        10**400,
        pytest.param(10**5000, id="5000 digits"),
        1e308,
        float("inf"),
        float("nan"),
        "1",
        [[]],
    ],
)
@pytest.mark.parametrize("field", INTEGERS + FLOATS)
def test_no_number_is_too_large_for_an_error_that_names_the_field(field, value):
    with pytest.raises(ValueError, match=f"`{field}` is "):
        TokMatConfig.tiny(**({"parallel_tails": 2, "film_scope": "tail"} | {field: value}))


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"num_negatives": 10**8}, "`num_negatives` .* 12,800,000,000"),
        ({"parallel_tails": 10**5, "film_scope": "tail"}, "`parallel_tails` .* 1,960,000,000,000"),
    ],
)
def test_what_no_memory_holds_is_refused_with_its_bytes(fields, needed):
    with pytest.raises(ValueError, match=needed):
        TokMatConfig.tiny(**fields)


def test_special_tokens_of_a_larger_vocabulary_are_not_inherited():
    config = TokMatConfig(backbone_config=GPT2Config(vocab_size=97))  # whose own are 50256
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)
    assert TokMatConfig(eos_token_id=[3, 4]).eos_token_id == [3, 4]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"model_type": "gemma3"}, "gemma3"),
        ({"model_type": "llama", "hidden_size": "wide"}, "'hidden_size' expected int"),
        ({"model_type": "llama", "hidden_size": 10**30}, "backbone_config.hidden_size"),
        ({"model_type": "llama", "vocab_size": 0}, "backbone_config.vocab_size"),
        ({"model_type": "llama", "num_attention_heads": 7}, "attention heads"),
        ({"model_type": 7}, "model_type"),
        ({}, "model_type"),
        ({"model_type": "no-such-model"}, "no-such-model"),
        (7, "a dict or a PreTrainedConfig"),
        ({"model_type": "bert"}, "bert"),
        ({"model_type": "t5"}, "t5"),
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": "mistral"}, "sliding_window=4096"),
        ({"model_type": "gemma3_text"}, "sliding_attention"),
        ({"model_type": "recurrent_gemma"}, "recurrent_gemma"),
    ],
)
def test_backbones_that_cannot_serve_are_refused(backbone, message):
    with pytest.raises(ValueError, match="backbone_config") as error:
        TokMatConfig(backbone_config=backbone)
    assert message in str(error.value)


def test_mistral_without_a_window_is_accepted():
    backbone = {"model_type": "mistral", "sliding_window": None}
    assert TokMatConfig(backbone_config=backbone).backbone_config.model_type == "mistral"


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="negatves"):
        TokMatConfig(negatves="all")


def test_what_a_tool_noted_in_a_file_is_kept_with_one_warning(tmp_path, caplog):
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from modeling_tokmat import TokMatForContinuousLM

    model = TokMatForContinuousLM(TokMatConfig.tiny())
    model.config.noted_by_a_tool = {"merged": True}
    model.save_pretrained(tmp_path)
    logging.warning_once.cache_clear()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert caplog.text.count("noted_by_a_tool") == 1
    assert loaded.config.noted_by_a_tool == {"merged": True}
    assert loaded.config.to_dict().keys() == model.config.to_dict().keys()
    config, unused = AutoConfig.from_pretrained(tmp_path, return_unused_kwargs=True, not_a_field=1)
    assert (config.noted_by_a_tool, unused) == ({"merged": True}, {"not_a_field": 1})


def test_a_saved_config_without_backbone_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "tokmat", "negatives": "all"}))
    with pytest.raises(ValueError, match="`backbone_config` is None"):
        TokMatConfig.from_pretrained(tmp_path)


def test_a_field_set_wrongly_later_is_refused_by_the_model():
    from modeling_tokmat import TokMatForContinuousLM

    config = TokMatConfig.tiny()
    config.schedule = "exponential"
    with pytest.raises(ValueError, match="`schedule`"):
        TokMatForContinuousLM(config)
