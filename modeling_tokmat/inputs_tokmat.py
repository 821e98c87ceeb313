# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `forward` may be given. Everything that looks at values does so on the CPU alone: on an accelerator it would
wait for the device, and a compiled or exported graph could not hold it."""

import warnings

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from .checks_tokmat import INDICES, described, require

logger = logging.get_logger(__name__)

# By this name tools know a causal language model: transformers' Trainer then shifts labels before it smooths them.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["tokmat"] = "TokMatForContinuousLM"

# What the installed transformers calls the keys and values, in arguments and outputs alike: `cache` from 5.24 on.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
NORM_TOLERANCE = 0.005  # of committed vectors, in units of R: far above what rounding to bf16 does to a norm


def check_inputs(
    config,
    input_ids: torch.Tensor | None,
    labels: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    committed: bool,
    others: dict,
    position_ids: torch.Tensor | None = None,
    maturity: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
) -> None:
    """Refuse inputs that contradict one another, and values out of range; warn once of vectors that no token has.

    Args:
        input_ids, labels: (batch, length). inputs_embeds: (batch, length, d). committed: whether all of these are
            read as committed vectors. others: what is handed to the backbone. position_ids, maturity: (batch, length)
            or (1, length). attention_mask: 4-D, or (batch, at least length), with what is cached.

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """
    given = (input_ids is not None) + (inputs_embeds is not None)
    found = f"given with{'' if given else 'out'} inputs_embeds"
    require(given == 1, "input_ids", found, "the only one of the two")
    whole = "left out: a tail needs the whole sequence, which sequence and context parallelism split"
    require(others.get("shift_labels") is None, "shift_labels", "given", whole)
    tokens = inputs_embeds if input_ids is None else input_ids
    assert tokens is not None
    for name, ids in (("input_ids", input_ids), ("labels", labels)):
        if ids is None:
            continue
        fits = torch.is_tensor(ids) and ids.dtype in INDICES and ids.shape == tokens.shape[:2]
        require(fits, name, described(ids), "a tensor of the integer dtype int64 or int32, an id for every token")
        if _can_be_read(ids):
            check_ids(ids, name, config.vocab_size, -100 if name == "labels" else 0)
    if position_ids is not None:
        check_positions(position_ids, tokens.shape[0], (tokens.shape[1],))
        if _can_be_read(position_ids):
            check_range(position_ids)
    batch, length = tokens.shape[:2]
    if maturity is not None:
        fits = torch.is_tensor(maturity) and maturity.is_floating_point() and maturity.dim() == 2
        fits = fits and maturity.shape[0] in (1, batch) and maturity.shape[1] == length
        allowed = f"a tensor of floats, of shape ({batch}, {length}) or (1, {length})"
        require(fits, "maturity", described(maturity), allowed)
        if _can_be_read(maturity):
            low, high = maturity.min().item(), maturity.max().item()
            require(0 <= low and high <= 1, "maturity", f"from {low:g} to {high:g}", "in [0, 1]")
    if torch.is_tensor(attention_mask) and attention_mask.dim() == 2:
        fits = attention_mask.shape[0] == batch and attention_mask.shape[1] >= length
        allowed = f"of shape ({batch}, {length}), and wider by what is cached"
        require(fits, "attention_mask", described(attention_mask), allowed)
    if committed and config.geometry == "sphere" and inputs_embeds is not None and _can_be_read(inputs_embeds):
        _check_norms(inputs_embeds.detach(), config.embedding_radius)


def one_cache(past_key_values, cache):
    """The cache that was given by either of its names, which every transformers may be handed; refuses both."""
    both = past_key_values is not None and cache is not None
    require(not both, "cache", "given with past_key_values", "the only one of the two, which are the same")
    # As the backbones of this transformers say; but a compiled graph cannot hold a warning.
    if past_key_values is not None and CACHE == "cache" and not torch.compiler.is_compiling():
        warnings.warn("`past_key_values` is deprecated: transformers calls it `cache`", FutureWarning, stacklevel=3)
    return past_key_values if cache is None else cache


def check_training(labels: torch.Tensor | None, maturity: torch.Tensor | None, embeddings: torch.nn.Module) -> None:
    """Refuse what would train without maturation, or train on something else, unnoticed.

    A loss that is computed outside of the model (label smoothing, a loss function of the Trainer's) takes the labels
    away from it, and with them the simulated tails.

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """
    alone = labels is None and maturity is None
    require(
        not (alone and torch.is_grad_enabled()),
        "labels",
        None,
        "given in training mode, where the model simulates maturation and computes its loss from them: leave out "
        "label_smoothing_factor, compute_loss_func and other trainers' losses, or pass `maturity` to train on "
        "vectors as they are",
    )
    noise = getattr(embeddings, "neftune_noise_alpha", None)
    require(noise is None, "neftune_noise_alpha", noise, "None: maturation adds noise of its own (see embryo_norm)")


def check_own_forward(model: torch.nn.Module) -> None:
    """Refuse to train a model whose forward trl has replaced by one that projects the backbone's states itself.

    Raises:
        ValueError: says what to use.
    """
    code = getattr(getattr(vars(model).get("forward"), "__func__", None), "__code__", None)
    require(
        getattr(code, "co_name", None) != "_fused_forward",
        "forward",
        "trl's fused LM head",
        "the model's own, which simulates maturation and computes the loss: train with TokMatTrainer or "
        "transformers.Trainer, not with trl's SFTTrainer, which replaces both",
    )


def check_ids(ids: torch.Tensor, name: str, vocab_size: int, lowest: int = 0) -> None:
    """Refuse ids outside of [lowest, vocab_size - 1] with a `ValueError`."""
    low, high = ids.min().item(), ids.max().item()
    allowed = f"ids in [0, {vocab_size - 1}]"
    require(lowest <= low and high < vocab_size, name, f"ids from {low} to {high}", allowed)


def check_positions(positions: torch.Tensor, batch: int, lengths: tuple[int, ...]) -> None:
    """Refuse `positions` that are no integers of shape (batch, one of `lengths`), or (1, ...), with a `ValueError`."""
    fits = torch.is_tensor(positions) and positions.dim() == 2 and positions.shape[0] in (1, batch)
    fits = fits and positions.shape[1] in lengths and positions.dtype in INDICES
    shapes = " or ".join(f"({batch}, {length})" for length in dict.fromkeys(lengths))
    allowed = f"a tensor of the integer dtype int64 or int32 and of shape {shapes}, or with one row for all"
    require(fits, "position_ids", described(positions), allowed)


def check_range(positions: torch.Tensor, limit: int | None = None) -> None:
    """Refuse positions below 0 or from `limit` on with a `ValueError`."""
    low, high = positions.min().item(), positions.max().item()
    allowed = "at least 0" if limit is None else f"in [0, {limit - 1}], the backbone's positions"
    require(low >= 0 and (limit is None or high < limit), "position_ids", f"from {low} to {high}", allowed)


def _can_be_read(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.numel() > 0 and not torch.compiler.is_compiling()


def _check_norms(vectors: torch.Tensor, radius: float | None) -> None:
    norms = vectors.float().norm(dim=-1)
    norms = norms[norms > 0]  # zero vectors fill up padding
    if radius is None or norms.numel() == 0 or (norms / radius - 1).abs().mean().item() <= NORM_TOLERANCE:
        return
    logger.warning_once(
        f"`inputs_embeds` have a mean norm of {norms.mean().item():.3g}, but committed vectors have norm R = "
        f'{radius:.3g} under geometry "sphere". A token is read as `model.embed_tokens(ids)`, its row at norm R; '
        "`model.get_input_embeddings()(ids)`, which prompt tuning and other tools pass on, is read as something else "
        "and gives other logits than `input_ids`. Pass `model.embed_tokens(ids)`, or convert with geometry "
        '"pretrained", whose committed vectors are the rows themselves.'
    )
