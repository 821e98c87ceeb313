# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What the network is told of maturity and tail length (Eq. 2 and 3)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .adapters_tokmat import Gate
from .maturation_tokmat import MAX_TAIL_LENGTH


class Conditions(NamedTuple):
    """MLP(SinEmb(alpha)), gamma(K) and beta(K), each broadcasting with (batch, length - start, d); None where there is
    no slot to tell anything. `gate`: what is a slot, under geometry "pretrained"; None if everything is told alike."""

    shift: torch.Tensor | None = None
    gamma: torch.Tensor | None = None
    beta: torch.Tensor | None = None
    gate: Gate | None = None

    def at(self, committed: int, slots: torch.Tensor) -> "Conditions":
        """From those of one committed position and slots 1, 2, ... behind it: of `committed` positions and then
        `slots`, counted from 0, (batch or 1, n)."""
        if slots.shape[1] == 0 and self.gate is not None:
            return Conditions()
        gate = None if self.gate is None else self.gate._replace(start=committed)
        index = slots if gate is not None else F.pad(slots + 1, (committed, 0))
        shift, gamma, beta = (None if told is None else told[0, index] for told in self[:3])
        return Conditions(shift, gamma, beta, gate)

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """h = (1 + gamma) * (z + shift) + beta, (batch, length, d); z itself, to the bit, where the gate is shut."""
        shift, gamma, beta = self.shift, self.gamma, self.beta
        if shift is None or gamma is None or beta is None:
            return vectors
        if self.gate is None:
            return (1 + gamma) * (vectors.to(shift.dtype) + shift) + beta
        start, mask, _ = self.gate
        slots = vectors[:, start:]
        told = (1 + gamma) * (slots + shift) + beta
        told = (told if mask is None else torch.where(mask > 0, told, slots)).to(vectors.dtype)
        return told if start == 0 else torch.cat([vectors[:, :start], told], dim=1)


class TokMatMaturityEmbedding(nn.Module):
    """MLP(SinEmb(alpha)) of Eq. 2; SinEmb takes 1000 * alpha. The last layer starts at zero."""

    dim = 256

    def __init__(self, hidden_size: int):
        super().__init__()
        self.fc_in = nn.Linear(self.dim, hidden_size)
        self.fc_out = nn.Linear(hidden_size, hidden_size)

    def forward(self, maturity: torch.Tensor) -> torch.Tensor:
        """(...,) in [0, 1] -> (..., hidden_size)."""
        exponents = torch.arange(self.dim // 2, device=maturity.device, dtype=torch.float32) / (self.dim // 2)
        angles = 1000 * maturity.float()[..., None] * torch.exp(-math.log(10000) * exponents)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.fc_in.weight.dtype)
        return self.fc_out(F.silu(self.fc_in(features)))


class TokMatTailLengthFiLM(nn.Module):
    """gamma(K) and beta(K) of h <- (1 + gamma(K)) * h + beta(K) (Eq. 3), one row per K; both start at zero."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.table = nn.Embedding(MAX_TAIL_LENGTH, 2 * hidden_size)

    def forward(self, tail_length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch or 1, length or 1) in [1, 64] -> gamma and beta, (batch or 1, length or 1, hidden_size)."""
        return self.table(tail_length - 1).chunk(2, dim=-1)
