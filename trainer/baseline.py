# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The autoregressive baseline: the same backbone with a cross-entropy head, trained by transformers' own Trainer."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from .train_command import check_vocabulary, load_pretrained, read_backbone, special_tokens


def make_baseline(source: str | None, backbone: str | None, tokenizer) -> PreTrainedModel:
    """A saved causal language model (`source`), or a new one of the architecture `backbone`.

    A new one ties its head to its embeddings unless the architecture says otherwise: TokMat has one table too.

    Raises:
        ValueError: a tokenizer with more tokens than the saved model. OSError: no such model.
    """
    tokens = special_tokens(tokenizer)
    if source is not None:
        model = load_pretrained(AutoModelForCausalLM.from_pretrained, source, dtype=torch.float32)
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
