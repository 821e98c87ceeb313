# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A TokMat model from a pretrained autoregressive checkpoint."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM

from .output_folder import is_finished, save_whole
from .train_command import SCRATCH, load_pretrained

PROBE = (8, 64)  # random ids that measure how long the backbone's hidden states are


@torch.no_grad()
def from_autoregressive(model: PreTrainedModel, **fields) -> TokMatForContinuousLM:
    """The backbone and the embeddings of a causal language model, inside a TokMat model that starts as that backbone.

    R is the mean row norm of the pretrained embeddings, so that the network reads vectors as long as those it was
    trained on. The head is the identity times one factor, measured on random ids, that makes predicted vectors as
    long as embeddings: with the plain identity the regression term, which is divided by R^2, would outweigh everything
    else. Where the model ties its output to its embeddings, the ranking of the nearest neighbours is near the model's
    own from the start.

    Args:
        model: any decoder-only transformers model with a causal language modelling head.
        fields: other fields of `TokMatConfig`.

    Raises:
        ValueError: the architecture cannot be a backbone (see `TokMatConfig.backbone_config`), or a wrong field.
    """
    config = TokMatConfig(backbone_config=model.config.__class__.from_dict(model.config.to_dict()), **fields)
    tokmat = TokMatForContinuousLM(config)
    tokmat.backbone.load_state_dict(model.base_model.state_dict())
    tokmat.to(model.dtype).eval()
    if "embedding_radius" not in fields:
        config.embedding_radius = None  # measured anew, on the pretrained table
    ids = torch.randint(config.vocab_size, PROBE, generator=torch.Generator().manual_seed(0))
    if config.max_position_embeddings is not None:
        ids = ids[:, : config.max_position_embeddings]
    predicted = tokmat(ids, use_cache=False, logits_to_keep=torch.empty(0, dtype=torch.long)).predicted_embeds
    tokmat.head.weight.mul_(tokmat.embedding_radius / predicted.float().norm(dim=-1).mean().item())
    return tokmat


def convert_folder(source: str, folder: Path) -> None:
    """Save the TokMat model that starts from the autoregressive one in `source`, and its tokenizer, in `folder`.

    Raises:
        ValueError: `folder` holds a model. OSError: `source` holds none.
    """
    if is_finished(folder):
        raise ValueError(f"{folder} already holds a model: choose another folder, or delete it")
    model = load_pretrained(AutoModelForCausalLM.from_pretrained, source)
    tokenizer = load_pretrained(AutoTokenizer.from_pretrained, source)
    converted = from_autoregressive(model, **SCRATCH)

    def save(temporary):
        converted.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)

    save_whole(save, folder)
