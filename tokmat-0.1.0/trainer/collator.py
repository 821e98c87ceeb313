# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Batches from tokenized rows, packed or not, with document boundaries kept."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that losses leave out


@dataclass
class TokMatDataCollator:
    """Pads rows on the right and makes labels (ids, unshifted, -100 where nothing is to be predicted).

    Rows with `position_ids` are packed: several documents each, position 0 marking every document's start. Their
    batch has `input_ids`, `position_ids` and `labels`, all (batch, length), and no attention mask: transformers finds
    packed documents by their positions only where no mask is given. Padding counts its positions from 0 and so is a
    document of its own. A document's first token has the label -100: what precedes it belongs to another document.

    The column `tail_only`, where rows have it, goes through: (batch,), bool.

    Rows without `position_ids` are one document each. Their batch has `input_ids`, `attention_mask` and `labels`.

    Args:
        tokenizer: gives the padding id; its eos token pads if it has no pad token.
        pad_token_id: the padding id itself, instead of a tokenizer's.
        pad_to_multiple_of: round the length up to a multiple of this.

    Raises:
        ValueError: neither argument gives a padding id; or, on a call, rows that do not all have the same columns.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    pad_token_id: int | None = None
    pad_to_multiple_of: int | None = None

    def __post_init__(self):
        if self.pad_token_id is None and self.tokenizer is not None:
            pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
            self.pad_token_id = eos if pad is None else pad
        if self.pad_token_id is None:
            raise ValueError("pad_token_id=None: give a padding id, or a tokenizer that has a pad or an eos token.")

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        for column in ("position_ids", "labels", "tail_only"):
            having = sum(column in feature for feature in features)
            if having not in (0, len(features)):
                raise ValueError(
                    f"{having} of the {len(features)} rows in this batch have {column!r}; allowed: all or none "
                    "(do not mix packed and unpacked rows)."
                )
        packed = "position_ids" in features[0]

        length = max(len(feature["input_ids"]) for feature in features)
        multiple = self.pad_to_multiple_of or 1
        length = -(-length // multiple) * multiple
        shape = (len(features), length)
        assert self.pad_token_id is not None  # as `__post_init__` saw to
        input_ids = torch.full(shape, self.pad_token_id)
        labels = torch.full(shape, IGNORED)
        # Both begin as what padding has; positions are shifted below, where a row's length is known.
        attention_mask, position_ids = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        for row, feature in enumerate(features):
            ids = torch.as_tensor(feature["input_ids"], dtype=torch.long)
            size = len(ids)
            input_ids[row, :size] = ids
            labels[row, :size] = torch.as_tensor(feature.get("labels", ids), dtype=torch.long)
            attention_mask[row, :size] = torch.as_tensor(feature.get("attention_mask", torch.ones(size)))
            if packed:
                position_ids[row, :size] = torch.as_tensor(feature["position_ids"], dtype=torch.long)
                position_ids[row, size:] = torch.arange(length - size)

        if packed:
            labels[position_ids == 0] = IGNORED
            batch = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
        else:
            labels[attention_mask == 0] = IGNORED
            batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if "tail_only" in features[0]:
            batch["tail_only"] = torch.tensor([bool(feature["tail_only"]) for feature in features])
        return batch
