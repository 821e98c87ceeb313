# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Models to train: new ones, saved ones, and the autoregressive baseline."""

import dataclasses
import json
import math
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from modeling_tokmat import MaturationSettings, TokMatConfig, TokMatForContinuousLM

from .checkpoints import check_vocabulary, load_model, load_pretrained, tokmat_config
from .conversion import drafting
from .recipes import PRESETS, SCRATCH


def machine_device() -> torch.device:
    """This machine's accelerator, or the CPU. A torch that was built for one and finds none names it all the same."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def bf16_supported(use_cpu: bool = False) -> bool:
    """Whether bf16 autocast pays here: on a GPU that has it, or a CPU with instructions for it."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported()
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private, so possibly gone
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def read_backbone(name: str) -> dict:
    """Fields of a TokMatConfig, at least `backbone_config`, from a preset, a JSON file or its folder.

    Raises:
        FileNotFoundError: neither a preset nor a file. ValueError: not the JSON of a configuration.
    """
    if name in PRESETS:
        return {"backbone_config": dict(PRESETS[name])}
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"--backbone {name} is neither a preset ({', '.join(PRESETS)}) nor a JSON file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--backbone {name} is not JSON ({error})") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise ValueError(f'--backbone {name} has no "model_type"')
    values = values if values["model_type"] == TokMatConfig.model_type else {"backbone_config": values}
    if not isinstance(values.get("backbone_config"), dict):
        raise ValueError(f'--backbone {name} is a TokMat configuration without "backbone_config"')
    for level in (values, values["backbone_config"]):  # weights from scratch are float32
        level.pop("dtype", None), level.pop("torch_dtype", None)
    return values


def special_tokens(tokenizer) -> dict[str, int]:
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return dict(bos_token_id=bos, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


def make_model(source: str | None, backbone: str | None, given: dict, tokenizer) -> TokMatForContinuousLM:
    """A saved model (`source`) or a new one, with the fields that were `given` and the tokenizer's special tokens.

    Raises:
        ValueError: a field with a wrong value, or a tokenizer with more tokens than the saved model.
    """
    tokens = special_tokens(tokenizer)
    if source is None:
        values = SCRATCH | read_backbone("small" if backbone is None else backbone) | given | tokens
        values["backbone_config"] |= {"vocab_size": len(tokenizer), **tokens}
        config = TokMatConfig.from_dict(values)
        if config.embedding_radius is None:
            config.embedding_radius = math.sqrt(config.hidden_size)
        return TokMatForContinuousLM(config)
    config = tokmat_config(source, **given, **tokens)
    check_vocabulary(tokenizer, config, source)
    model = load_pretrained(TokMatForContinuousLM.from_pretrained, source, config=config, dtype=torch.float32)
    settings = {item.name for item in dataclasses.fields(MaturationSettings)}
    for name, value in (given | tokens).items():  # decode as trained: one schedule for both
        if name in settings or name in tokens:
            setattr(model.generation_config, name, value)
    if config.tail_adapter_rank and not tokmat_config(source).tail_adapter_rank:  # a tail is added to what had none
        model.generation_config.update(**drafting(config))
    model.generation_config.tail_length = min(model.generation_config.tail_length, config.max_tail_length)
    return model


def make_baseline(source: str | None, backbone: str | None, tokenizer, trust_remote_code=False) -> PreTrainedModel:
    """A saved causal language model (`source`), or a new one of the architecture `backbone`.

    A new one ties its head to its embeddings unless the architecture says otherwise: TokMat has one table too.

    Raises:
        ValueError: a tokenizer with more tokens than the saved model. OSError: no such model.
    """
    tokens = special_tokens(tokenizer)
    if source is not None:
        model = load_model(source, trust_remote_code, dtype=torch.float32)
        check_vocabulary(tokenizer, model.config, source)
    else:
        values = {"tie_word_embeddings": True} | read_backbone("small" if backbone is None else backbone)[
            "backbone_config"
        ]
        config = AutoConfig.for_model(**values | {"vocab_size": len(tokenizer), **tokens})
        model = AutoModelForCausalLM.from_config(config)
    for name, value in tokens.items():
        setattr(model.generation_config, name, value)
    return model
