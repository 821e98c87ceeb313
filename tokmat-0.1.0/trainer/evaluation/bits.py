# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a judge of any tokenizer thinks of a text: bits per byte, which do not depend on how it takes words apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def bits_per_byte(
    judge, tokenizer, beginnings: Sequence[str], texts: Sequence[str], lengths=None, batch_size: int = 4
) -> np.ndarray:
    """Bits that the judge needs for each text, per UTF-8 byte, having read its beginning; shape (n,).

    A token that begins in the beginning and ends in the text counts as the text's.

    Args:
        judge: a causal language model. tokenizer: its own, a fast one.
        lengths: (n, lengths), numbers of characters: what is judged is so much of each text; shape (n, lengths).
    """
    known = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rows = []
    for first in range(0, len(texts), batch_size):
        some = slice(first, first + batch_size)
        found = [
            tokenizer(beginning + text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            for beginning, text in zip(beginnings[some], texts[some])
        ]
        ids = [known + part["input_ids"] for part in found]
        padded, mask = side_by_side(ids, judge.device)
        logits = judge(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :-1]
        for number, part in enumerate(found):
            # Nothing predicts the first token, where no bos stands before it.
            scores, ends = logits[number, : len(ids[number]) - 1].float(), [end for _, end in part["offset_mapping"]]
            nats = F.cross_entropy(scores, padded[number, 1 : len(ids[number])], reduction="none")[-len(ends) :]
            ends, begins = ends[-len(nats) :], len(beginnings[first + number])
            text, wanted = texts[first + number], None if lengths is None else lengths[first + number]
            bits = []
            for length in [len(text)] if wanted is None else wanted:
                counted = torch.tensor([begins < end <= begins + length for end in ends])
                size_in_bytes = max(len(text[:length].encode()), 1)
                bits.append(float(nats[counted].sum()) / math.log(2) / size_in_bytes)
            rows.append(bits)
    return np.array(rows)[:, 0] if lengths is None else np.array(rows)


def side_by_side(rows: list[list[int]], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids filled up on the right, and where they are, both (rows, length)."""
    size = max(map(len, rows))
    ids = torch.tensor([row + [0] * (size - len(row)) for row in rows], device=device)
    return ids, torch.tensor([[1] * len(row) + [0] * (size - len(row)) for row in rows], device=device)


@dataclass(frozen=True)
class TextJudge:
    """A judge that has another tokenizer than the models, and so reads what they wrote as text.

    Args:
        tokenizer: the judge's own, a fast one. written_with: that of the models.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    written_with: PreTrainedTokenizerBase

    def bits(self, prompts: torch.Tensor, written: torch.Tensor) -> np.ndarray:
        """Bits per byte of each text after its prompt, (n,); both as ids of the models, (n, tokens)."""
        beginnings, texts = self._texts(prompts), self._texts(torch.cat([prompts, written], dim=1))
        after = [text[len(beginning) :] for beginning, text in zip(beginnings, texts)]
        return bits_per_byte(self.model, self.tokenizer, beginnings, after)

    @torch.no_grad()
    def features(self, prompts: torch.Tensor, written: torch.Tensor, batch_size: int = 16) -> np.ndarray:
        """The last hidden state at the last token of prompt and continuation, (n, hidden), as `mauve.features`."""
        texts, found = self._texts(torch.cat([prompts, written], dim=1)), []
        for first in range(0, len(texts), batch_size):
            rows = [self.tokenizer(text, verbose=False)["input_ids"] for text in texts[first : first + batch_size]]
            ids, mask = side_by_side(rows, self.model.device)
            read = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            found.append(read[torch.arange(len(rows)), mask.sum(dim=1) - 1].float().cpu())
        return torch.cat(found).numpy()

    def _texts(self, ids: torch.Tensor) -> list[str]:
        return self.written_with.batch_decode(ids, skip_special_tokens=True)
