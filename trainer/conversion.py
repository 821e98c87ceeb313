# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""TokMat models from pretrained autoregressive ones: exact, or on the paper's sphere; and how near they are."""

import math
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from modeling_tokmat.checks_tokmat import require
from modeling_tokmat.generation_tokmat import SAMPLING_FLAGS

from .checkpoints import (
    base_model,
    check_new,
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
    save_origin,
    save_whole,
)
from .gguf import load_gguf
from .recipes import SCRATCH, SOURCE_TAIL

PROBE = (4, 32)  # random ids that measure how long the backbone's hidden states are
PROBE_TEXT = (4, 256)  # rows and tokens of the text that a conversion is checked on
# Largest difference of a logit, relative to the largest logit, that counts as rounding.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@torch.no_grad()
def from_autoregressive(
    model: PreTrainedModel, geometry: str = "pretrained", copy: bool = True, **fields
) -> TokMatForContinuousLM:
    """The backbone and the embeddings of a causal language model inside a TokMat model that starts as that model.

    Under `geometry="pretrained"` (METHOD section 7) `logits` are the source's: committed vectors are its embeddings,
    z^ = c * h is scored against its output table, and logit_scale = R^2 / c takes c back (and takes a family's own
    scaling of logits in). c is the power of two that makes predicted vectors about as long as embeddings: exact in
    every floating type. `generate` then writes the source's greedy text.

    Under `geometry="sphere"` (paper 3.1) all embeddings are brought to norm R, the mean row norm, which changes what a
    pretrained source says; the head is the identity times the factor that makes predicted vectors as long as those.

    Args:
        model: any decoder-only transformers model with a causal language modelling head.
        copy: whether the weights are copied; otherwise both models hold the same ones, in half the memory.
        fields: other fields of `TokMatConfig`.

    Raises:
        ValueError: the architecture cannot be a backbone (see `TokMatConfig.backbone_config`), a head that is none of
            its hidden states, or a wrong field.
    """
    if geometry == "pretrained":
        fields = _output_fields(model) | {"negatives": "all", "regression_weight": 0.0} | fields
    backbone = model.config.__class__.from_dict(model.config.to_dict())
    if backbone.name_or_path and Path(backbone.name_or_path).is_dir():
        backbone.name_or_path = Path(backbone.name_or_path).name  # a path of this machine would travel with the model
    config = TokMatConfig(backbone_config=backbone, geometry=geometry, **fields)
    tokmat = TokMatForContinuousLM(config)
    weights = model.base_model.state_dict()
    others = sorted(weights.keys() ^ tokmat.backbone.state_dict().keys())
    what = f"a {model.config.model_type} model whose decoder is not that of AutoModel: {', '.join(others[:3])}"
    require(not others, "model", what, "one that AutoModel makes, with a head on top")
    tokmat.backbone.load_state_dict(weights, assign=not copy)
    if tokmat.lm_head is not None:
        tokmat.lm_head.load_state_dict(model.get_output_embeddings().state_dict(), assign=not copy)
    for name, weight in tokmat.eval().named_parameters():
        if not name.startswith("tail_adapters."):
            weight.data = weight.data.to(model.dtype)
    # As the source has them: loaded in 16 bits it keeps its rotation frequencies in 32, which `to` would round.
    for name, buffer in model.base_model.named_buffers():
        tokmat.backbone.get_buffer(name).data = buffer.clone()
    if "embedding_radius" not in fields:
        config.embedding_radius = tokmat.vocabulary().mean_row_norm()
    ids = _random_ids(config)
    predicted = tokmat(ids, use_cache=False, logits_to_keep=torch.empty(0, dtype=torch.long)).predicted_embeds
    assert config.embedding_radius is not None  # given or measured
    factor = config.embedding_radius / predicted.float().norm(dim=-1).mean().item()
    if geometry == "pretrained":
        factor = 2.0 ** round(math.log2(factor))
        config.logit_scale = config.embedding_radius**2 / factor * _logit_factor(model.config)
    tokmat.head.weight.mul_(factor)
    if geometry == "pretrained":
        _check_exact(model, tokmat, ids)
    tokmat.generation_config = _generation_config(model, tokmat)
    return tokmat


def _random_ids(config) -> torch.Tensor:
    ids = torch.randint(config.vocab_size, PROBE, generator=torch.Generator().manual_seed(0))
    return ids if config.max_position_embeddings is None else ids[:, : config.max_position_embeddings]


def _output_fields(model: PreTrainedModel) -> dict:
    """What TokMatConfig says of a source's output table."""
    name, output, embeddings = model.config.model_type, model.get_output_embeddings(), model.get_input_embeddings()
    capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    require(capped is None, "model", f"a {name} model with soft-capped logits", "one whose logits are not capped")
    weight: Any = getattr(output, "weight", None)
    table: Any = embeddings.weight
    require(weight is not None, "model", f"a {name} model without an output table", "a causal language model")
    size, width = table.shape
    hidden = model.config.get_text_config().hidden_size
    what = f"{name} with hidden states of size {hidden}, embeddings of {(size, width)} and an output table of "
    fits = tuple(weight.shape) == (size, width) and hidden == width
    require(fits, "model", f"{what}{tuple(weight.shape)}", "one in which these are of one size")
    bias = getattr(output, "bias", None) is not None
    same = weight.data_ptr() == table.data_ptr()
    return {"tie_word_embeddings": same and not bias, "output_bias": bias}


def _logit_factor(config) -> float:
    """What a family multiplies its logits with."""
    return float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)


def _check_exact(model: PreTrainedModel, tokmat: TokMatForContinuousLM, ids: torch.Tensor) -> None:
    source, converted = model.eval()(ids, use_cache=False).logits, tokmat(ids, use_cache=False).logits
    off = (source - converted).abs().max().item() / max(source.abs().max().item(), 1e-6)
    what = f"a {model.config.model_type} model whose logits are off by {off:.2g} after conversion"
    require(off <= ROUNDING[model.dtype], "model", what, "one whose logits are its output table times hidden states")


def drafting(config: TokMatConfig) -> dict:
    """Generation settings of a model whose tail drafts for the source that it was trained beside."""
    return {"tail_length": config.max_tail_length, "commit": "verified"} | config.schedule_settings()


def _generation_config(model: PreTrainedModel, tokmat: TokMatForContinuousLM) -> GenerationConfig:
    """The source's generation settings without its sampling flags, which argmax has no use for, and maturation's: one
    position at a time, or a tail that drafts for it, where there is one."""
    own = tokmat.generation_config.to_dict()
    if tokmat.config.geometry == "pretrained":
        own |= {"tail_length": 1, "alpha_max": 1.0}
        if tokmat.config.tail_adapter_rank:
            own |= drafting(tokmat.config)
    source = {name: value for name, value in model.generation_config.to_diff_dict().items() if value is not None}
    for name in (*SAMPLING_FLAGS, "_from_model_config", "transformers_version", "num_beams", "num_return_sequences"):
        source.pop(name, None)
    return GenerationConfig(**own | source | {"_from_model_config": False})


# -- folders ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How a converted model compares with its source on a text.

    Attributes:
        same_top: share of positions with the same likeliest token. difference: the largest of a logit.
        source, converted: perplexities.
        tokens: of the text.
    """

    same_top: float
    difference: float
    source: float
    converted: float
    tokens: int


@torch.no_grad()
def agreement(source: PreTrainedModel, converted: TokMatForContinuousLM, rows: torch.Tensor) -> Agreement:
    """Compare the two on `rows` of ids, (rows, length), one row at a time."""
    same, difference, losses = [], 0.0, []
    for row in rows.split(1):
        both = [model(row, use_cache=False).logits.float() for model in (source, converted)]
        same.append((both[0].argmax(-1) == both[1].argmax(-1)).float().mean())
        difference = max(difference, (both[0] - both[1]).abs().max().item())
        losses.append(torch.stack([F.cross_entropy(logits[0, :-1], row[0, 1:]) for logits in both]))
    before, after = torch.stack(losses).double().mean(dim=0).exp().tolist()
    return Agreement(float(torch.stack(same).mean()), difference, before, after, rows.numel())


def probe_rows(tokenizer: PreTrainedTokenizerBase, limit: int | None) -> torch.Tensor:
    """English text that every Python carries, its own manual, as (rows, length) of `PROBE_TEXT`; shorter where a model
    has fewer positions."""
    rows, length = PROBE_TEXT
    length = length if limit is None else min(length, limit)
    text = "\n\n".join(topics[name] for name in sorted(topics))[: rows * length * 16]
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids[: len(ids) // length * length][: rows * length]).view(-1, length)


def check_source(source: str) -> None:
    """Raises:
    ValueError: by its configuration `source` is no model that a TokMat model can start from.
    """
    config = load_config(source)
    if config.model_type == TokMatConfig.model_type:
        raise ValueError(f"{source} is a TokMat model already: name the autoregressive one that it was made from")
    TokMatConfig(backbone_config=config)


def convert_folder(
    source: str, folder: Path, geometry: str = "pretrained", tail_adapter_rank: int = 0, gguf: Path | None = None
) -> Agreement:
    """Save the TokMat model that starts from the autoregressive one in `source`, and its tokenizer, in `folder`.

    Args:
        geometry: "pretrained" keeps the source exactly, "sphere" is the paper's.
        tail_adapter_rank: of adapters for a tail to be trained beside the source (`tokmat train --train tail`).
        gguf: a GGUF file to read instead of `source`.

    Raises:
        ValueError: `folder` holds a model, `source` has no tokenizer, or its architecture does not fit.
        OSError: `source` holds no model.
    """
    check_new(folder)
    if gguf is not None:
        model, tokenizer = load_gguf(gguf)
    else:
        check_source(source)  # what cannot be a backbone is not loaded at all
        model = load_model(source, dtype="auto").eval()
        tokenizer = load_tokenizer(source)
    check_vocabulary(tokenizer, model.config, source)
    fields = SCRATCH if geometry == "sphere" else {}
    if tail_adapter_rank:
        fields = fields | SOURCE_TAIL | {"tail_adapter_rank": tail_adapter_rank}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is added is drawn: the same at every run
        converted = from_autoregressive(model, geometry, copy=False, **fields)

    def save(temporary):
        converted.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        save_origin(Path(temporary), base_model=base_model(source))

    found = agreement(model, converted, probe_rows(tokenizer, converted.config.max_position_embeddings))
    save_whole(save, folder)
    return found
