# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `generate` may be asked: prompts, masks and lengths, refused in one sentence each before any work is done."""

import math

import torch
from transformers import Cache, GenerationConfig
from transformers.generation import BaseWatermarkingConfig

from .checks_tokmat import INDICES, described, is_integer, is_number, require
from .inputs_tokmat import CACHE
from .tail_tokmat import TailState

# The least value of a setting that counts tokens.
LENGTHS = {"max_new_tokens": 1, "max_length": 1, "prefill_chunk_size": 1, "min_new_tokens": 0, "min_length": 0}
LENGTHS |= {"no_repeat_ngram_size": 0}
# What is on or off, as transformers reads it: "x" and "False" would both be on.
FLAGS = ("use_cache", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions")
FLAGS += ("output_hidden_states", "remove_invalid_values", "renormalize_logits", "disable_compile")
MOST_BYTES = 2**33  # that the tails of all return sequences may take


def check_prompt(ids, embeds, mask, vocab_size: int, hidden_size: int, bos: int | None, past: int):
    """Raise a `ValueError` for a prompt that is none; of one that is, the rows and the lengths its positions may have.

    Args:
        ids, embeds: of the prompt, (batch, length) and (batch, length, d), one of them or neither (then bos begins).
        mask: (batch, length), or (batch, past + length) where the prompt is what follows on a cache.
        past: how many positions that cache holds.
    """
    if ids is None and embeds is None:
        require(bos is not None, "input_ids", ids, "given, as the model has no bos token to begin with")
        return 1, (1,)
    if ids is not None:
        name, prompt, whole = (
            "input_ids",
            ids,
            "a tensor of ids, of the integer dtype int64 or int32 and shape (batch, length)",
        )
        fits = torch.is_tensor(ids) and ids.dim() == 2 and ids.dtype in INDICES
    else:
        name, prompt, whole = "inputs_embeds", embeds, f"a tensor of floats, of shape (batch, length, {hidden_size})"
        fits = torch.is_tensor(embeds) and embeds.dim() == 3 and embeds.dtype.is_floating_point
        fits = fits and embeds.shape[-1] == hidden_size
    require(fits, name, described(prompt), whole)
    batch, length = prompt.shape[:2]
    optional = ids is not None and embeds is not None  # transformers passes empty ids beside vectors
    require(batch > 0 and (length > 0 or optional), name, described(prompt), "at least one row of at least one token")
    if ids is not None and length > 0:
        low, high = ids.min().item(), ids.max().item()
        allowed = f"ids in [0, {vocab_size - 1}]"
        require(0 <= low and high < vocab_size, name, f"ids from {low} to {high}", allowed)
    length = length if embeds is None else embeds.shape[1]
    lengths = length, past + length
    if mask is not None:
        check_mask(mask, batch, lengths)
        lengths = (mask.shape[1],)
    return batch, lengths


def check_mask(mask, batch: int, lengths: tuple[int, ...]) -> None:
    """Raise a `ValueError` for a mask of another shape, of other values than 0 and 1, or with a row of padding."""
    fits = torch.is_tensor(mask) and mask.dim() == 2 and len(mask) == batch and mask.shape[1] in lengths
    shapes = " or ".join(f"({batch}, {length})" for length in dict.fromkeys(lengths))
    allowed = f"a tensor of shape {shapes}, as the prompt has, or the cache and the prompt"
    require(fits, "attention_mask", described(mask), allowed)
    real = mask == 1
    require(bool((real | (mask == 0)).all()), "attention_mask", "with other values", "0 in padding and 1 elsewhere")
    check_rows(real)


def check_rows(mask: torch.Tensor) -> None:
    """Raise a `ValueError` for a mask, (batch, length), with a row of padding alone."""
    empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
    allowed = "1 somewhere in every row (where it is not given, tokens that are pad_token_id have 0)"
    require(not empty, "attention_mask", f"0 in all of the rows {empty[:5]}", allowed)


def check_settings(asked, vocab_size: int) -> None:
    """Raise a `ValueError` for lengths, times, switches and special tokens that cannot be.

    Args:
        asked: the value of a setting by its name, None where there is none.
    """
    for name, low in LENGTHS.items():
        value = asked(name)
        require(value is None or is_integer(value, low), name, value, f"None or an integer of at least {low}")
    for name in FLAGS:
        value = asked(name)
        require(value is None or isinstance(value, bool), name, value, "None, True or False")
    assistant = asked("is_assistant")
    require(assistant in (None, False), "is_assistant", assistant, "None or False: a tail drafts for itself")
    watermark = asked("watermarking_config")
    fits = watermark is None or isinstance(watermark, dict | BaseWatermarkingConfig)
    require(fits, "watermarking_config", described(watermark), "None, a dict or a WatermarkingConfig")
    seconds = asked("max_time")
    fits = seconds is None or is_number(seconds, 0) or seconds == math.inf
    require(fits, "max_time", seconds, "None or a number of seconds of at least 0")
    decay = asked("exponential_decay_length_penalty")
    fits = decay is None or (isinstance(decay, list | tuple) and len(decay) == 2)
    fits = fits and (decay is None or (is_integer(decay[0], 0) and is_number(decay[1], 0)))
    pair = "None or a pair of an integer and a number, both of at least 0"
    require(fits, "exponential_decay_length_penalty", decay, pair)
    for name, low, high in (
        ("forced_eos_token_id", 0, vocab_size - 1),
        ("suppress_tokens", -math.inf, math.inf),
        ("begin_suppress_tokens", -math.inf, math.inf),
    ):
        value = asked(name)
        listed = [value] if name == "forced_eos_token_id" and is_integer(value, 0) else value
        fits = isinstance(listed, list | tuple) and all(is_integer(token, low, high) for token in listed)
        fits = fits or value is None
        require(fits, name, value, f"None, an id in [0, {vocab_size - 1}] or a list of ids")
    for name in ("pad_token_id", "bos_token_id"):
        value = asked(name)
        value = value.item() if torch.is_tensor(value) and value.numel() == 1 else value
        allowed = f"None or an id in [0, {vocab_size - 1}]"
        require(value is None or is_integer(value, 0, vocab_size - 1), name, value, allowed)
    ends = asked("eos_token_id")
    ends = ends.tolist() if torch.is_tensor(ends) else ends
    listed = ends if isinstance(ends, list | tuple) else [ends]
    fits = ends is None or (len(listed) > 0 and all(is_integer(end, -1, 2**31) for end in listed))
    require(fits, "eos_token_id", ends, "None, an id, or a list of ids (-1 for none)")


def check_objects(generation_config, **given) -> None:
    """Raise a `ValueError` for arguments of another kind: `generation_config` and what else `generate` was `given`."""
    fits = generation_config is None or isinstance(generation_config, GenerationConfig)
    require(fits, "generation_config", described(generation_config), "None or a GenerationConfig")
    streamer, cache, tail = given.get("streamer"), given.get(CACHE), given.get("tail")
    require(tail is None or isinstance(tail, TailState), "tail", described(tail), "None or a TailState")
    fits = streamer is None or (hasattr(streamer, "put") and hasattr(streamer, "end"))
    require(fits, "streamer", described(streamer), "None or an object with `put` and `end`")
    fits = cache is None or isinstance(cache, Cache)
    require(fits, CACHE, described(cache), "None or a cache of transformers")
    for name in ("logits_processor", "stopping_criteria"):
        listed = given.get(name)
        fits = listed is None or (isinstance(listed, list | tuple) and all(map(callable, listed)))
        require(fits, name, described(listed), "None or a list of callables")
    function = given.get("prefix_allowed_tokens_fn")
    fits = function is None or callable(function)
    require(fits, "prefix_allowed_tokens_fn", described(function), "None or a function")


def check_return_sequences(several, tail_length: int, hidden_size: int) -> None:
    """Raise a `ValueError` for a number of return sequences whose tails alone no memory holds."""
    require(is_integer(several, 1), "num_return_sequences", several, "an integer of at least 1")
    needed = 4 * several * tail_length * hidden_size
    few = f"so few that their tails fit into {MOST_BYTES:,} bytes (these would take {needed:,})"
    require(needed <= MOST_BYTES, "num_return_sequences", several, few)
