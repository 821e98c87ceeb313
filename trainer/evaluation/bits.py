# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a judge of any tokenizer thinks of a text: bits per byte, which do not depend on how it takes words apart."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


@torch.no_grad()
def bits_per_byte(
    judge, tokenizer, beginnings: Sequence[str], texts: Sequence[str], batch_size: int = 4
) -> np.ndarray:
    """Bits that the judge needs for each text, per UTF-8 byte, having read its beginning; shape (n,).

    A token that begins in the beginning and ends in the text counts as the text's.

    Args:
        judge: a causal language model. tokenizer: its own, a fast one.
    """
    nats = []
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for first in range(0, len(texts), batch_size):
        pairs = zip(beginnings[first : first + batch_size], texts[first : first + batch_size])
        rows, starts = [], []
        for beginning, text in pairs:
            found = tokenizer(beginning + text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ends = [end for _, end in found["offset_mapping"]]
            starts.append(len(bos) + sum(end <= len(beginning) for end in ends))
            rows.append(bos + found["input_ids"])
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=judge.device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=judge.device)
        logits = judge(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        for row, start, size in zip(range(len(rows)), starts, map(len, rows)):
            start = max(start, 1)  # nothing predicts the first token
            scores = logits[row, start - 1 : size - 1].float()
            nats.append(float(F.cross_entropy(scores, ids[row, start:size], reduction="sum")))
    return np.array(nats) / math.log(2) / np.array([max(len(text.encode()), 1) for text in texts])
