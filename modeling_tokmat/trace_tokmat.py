# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What can be seen of a tail while it matures (`output_maturation`)."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class MaturationStep(ModelOutput):
    """
    The tail after one update and before the commit; all tensors on the CPU, slot 1 first. Lengths are in units of R.

    Args:
        position (`(batch,)`): index, among generated tokens, of the token that slot 1 becomes.
        committed (`(batch,)`): tokens committed in this step.
        maturity (`(slots,)`): a_j, the maturity after the update.
        token_ids (`(batch, slots)`): nearest tokens.
        top_ids, top_cosines (`(batch, slots, k)`): the k nearest tokens and their cosines.
        distance (`(batch, slots)`): || z~ - e || to the nearest embedding.
        displacement (`(batch, slots)`): || z~ after - before ||.
        entropy, entropy_scaled (`(batch, slots)`): of softmax(cos) at temperature 1, and of the implied distribution
            softmax(logit_scale * cos), in nats.
        norm (`(batch, slots)`): || z~ ||.
        vectors (`(batch, slots, d)`): z~ itself, with `output_maturation="vectors"`.
    """

    position: torch.LongTensor | None = None
    committed: torch.LongTensor | None = None
    maturity: torch.FloatTensor | None = None
    token_ids: torch.LongTensor | None = None
    top_ids: torch.LongTensor | None = None
    top_cosines: torch.FloatTensor | None = None
    distance: torch.FloatTensor | None = None
    displacement: torch.FloatTensor | None = None
    entropy: torch.FloatTensor | None = None
    entropy_scaled: torch.FloatTensor | None = None
    norm: torch.FloatTensor | None = None
    vectors: torch.FloatTensor | None = None


def look(tail, cosines, nearest, change, maturity, radius: float, logit_scale: float, k: int = 5) -> MaturationStep:
    """Describe a tail.

    Args:
        tail, nearest: z~ and the nearest embeddings, (batch, slots, d). cosines: with every embedding, float32,
            (batch, slots, V). change: || z~ after - before || / R, (batch, slots). maturity: (slots,).
    """

    def entropy(scores):
        log_p = torch.log_softmax(scores, dim=-1)
        return -(log_p.exp() * log_p).sum(-1)

    top = cosines.topk(min(k, cosines.shape[-1]), dim=-1)
    return MaturationStep(
        maturity=maturity.float().cpu(),
        token_ids=top.indices[..., 0].cpu(),
        top_ids=top.indices.cpu(),
        top_cosines=top.values.cpu(),
        distance=((tail - nearest).norm(dim=-1) / radius).float().cpu(),
        displacement=change.float().cpu(),
        entropy=entropy(cosines).cpu(),
        entropy_scaled=entropy(logit_scale * cosines).cpu(),
        norm=(tail.norm(dim=-1) / radius).float().cpu(),
    )
