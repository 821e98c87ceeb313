# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `generate` may be asked: prompts, masks and lengths, refused in one sentence each before any work is done."""

import torch
from transformers import Cache, GenerationConfig

from .checks_tokmat import is_integer, require

# The least value of a setting that counts tokens.
LENGTHS = {"max_new_tokens": 1, "max_length": 1, "prefill_chunk_size": 1, "min_new_tokens": 0, "min_length": 0}
MOST_BYTES = 2**33  # that the tails of all return sequences may take


def check_prompt(ids, embeds, mask, vocab_size: int, hidden_size: int, bos: int | None, cached: bool) -> None:
    """Raise a `ValueError` for a prompt that is none.

    Args:
        ids, embeds: of the prompt, (batch, length) and (batch, length, d), one of them or neither (then bos begins).
        mask: (batch, length), longer with a cache, whose columns it covers too. cached: whether there is one.
    """
    if ids is None and embeds is None:
        require(bos is not None, "input_ids", ids, "given, as the model has no bos token to begin with")
        return
    if ids is not None:
        name, prompt, whole = "input_ids", ids, "a tensor of ids, of an integer dtype and shape (batch, length)"
        fits = torch.is_tensor(ids) and ids.dim() == 2 and not ids.dtype.is_floating_point and ids.dtype != torch.bool
        fits = fits and not ids.dtype.is_complex
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
    if mask is not None:
        check_mask(mask, batch, length if embeds is None else embeds.shape[1], cached)


def check_mask(mask, batch: int, length: int, cached: bool) -> None:
    """Raise a `ValueError` for a mask of another shape, of other values than 0 and 1, or with a row of padding."""
    fits = torch.is_tensor(mask) and mask.dim() == 2 and len(mask) == batch
    fits = fits and (mask.shape[1] >= length if cached else mask.shape[1] == length)
    allowed = f"a tensor of shape ({batch}, {length}), as the prompt has" + ", or longer with a cache" * cached
    require(fits, "attention_mask", described(mask), allowed)
    real = mask == 1
    require(bool((real | (mask == 0)).all()), "attention_mask", "with other values", "0 in padding and 1 elsewhere")
    check_rows(real)


def check_rows(mask: torch.Tensor) -> None:
    """Raise a `ValueError` for a mask, (batch, length), with a row of padding alone."""
    empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
    allowed = "1 somewhere in every row (where it is not given, tokens that are pad_token_id have 0)"
    require(not empty, "attention_mask", f"0 in all of the rows {empty[:5]}", allowed)


def check_lengths(asked, vocab_size: int) -> None:
    """Raise a `ValueError` for lengths and special tokens that cannot be.

    Args:
        asked: the value of a setting by its name, None where there is none.
    """
    for name, low in LENGTHS.items():
        value = asked(name)
        require(value is None or is_integer(value, low), name, value, f"None or an integer of at least {low}")
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


def check_objects(generation_config, streamer, past_key_values) -> None:
    """Raise a `ValueError` for arguments of another kind."""
    fits = generation_config is None or isinstance(generation_config, GenerationConfig)
    require(fits, "generation_config", described(generation_config), "None or a GenerationConfig")
    fits = streamer is None or (hasattr(streamer, "put") and hasattr(streamer, "end"))
    require(fits, "streamer", described(streamer), "None or an object with `put` and `end`")
    fits = past_key_values is None or isinstance(past_key_values, Cache)
    require(fits, "past_key_values", described(past_key_values), "None or a cache of transformers")


def check_return_sequences(several, tail_length: int, hidden_size: int) -> None:
    """Raise a `ValueError` for a number of return sequences whose tails alone no memory holds."""
    require(is_integer(several, 1), "num_return_sequences", several, "an integer of at least 1")
    needed = 4 * several * tail_length * hidden_size
    few = f"so few that their tails fit into {MOST_BYTES:,} bytes (these would take {needed:,})"
    require(needed <= MOST_BYTES, "num_return_sequences", several, few)


def described(value) -> str:
    """What stands in an error for a value that may be large."""
    if torch.is_tensor(value):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
