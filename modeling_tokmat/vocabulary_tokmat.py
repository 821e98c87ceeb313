# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Everything between tokens and vectors: embeddings, their radius, scores, nearest neighbours (paper 3.1, Eq. 5)."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS_AT_ONCE = 4096  # of the table, or vectors compared with it


class Vocabulary:
    """
    The tokens of a model as vectors, and vectors as tokens: all rows lie on one sphere of radius R.

    `TokMatForContinuousLM.vocabulary()` makes one. It reads the embedding table as it is then; what it derives from it
    (the norms of the rows) lives as long as the object, which is one forward pass, or one run of decoding.

    Args:
        embeddings: the input embeddings, a table of shape (V, d).
        radius: R. logit_scale: of the scores, on cosines (Eq. 7).
    """

    def __init__(self, embeddings: nn.Module, radius: float, logit_scale: float):
        self.embeddings, self.radius, self.logit_scale = embeddings, radius, logit_scale
        self._inverse_norms = None

    @property
    def table(self) -> torch.Tensor:
        """The embedding rows as they are, shape (V, d)."""
        weight = self.embeddings.weight
        # Outside its module's forward a weight sharded by FSDP2 is a DTensor.
        return weight.full_tensor() if hasattr(weight, "full_tensor") else weight

    def rows(self) -> torch.Tensor:
        """E: the embedding rows, l2-normalised and scaled to R (paper 3.1), shape (V, d)."""
        return F.normalize(self.table, dim=-1) * self.radius

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """z = e_x, the committed vectors of ids: shape (...) -> (..., d)."""
        return self.look_up(ids)[0] * self.radius

    def look_up(self, *ids: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Unit embeddings of several id tensors by ONE lookup: each lookup's gradient is as large as the table."""
        given = [part for part in ids if part is not None]
        flat = given[0] if len(ids) == 1 else torch.cat([part.reshape(-1) for part in given])
        rows = F.normalize(self.embeddings(flat), dim=-1)
        if len(ids) == 1:
            return [rows]
        parts = iter(rows.split([part.numel() for part in given]))
        return [None if part is None else next(parts).view(*part.shape, -1) for part in ids]

    def keys(self, dtype: torch.dtype) -> torch.Tensor:
        """The embedding rows at norm 1, shape (V, d)."""
        # In blocks: the backward pass of one normalisation of the whole table holds five copies of it in float32.
        return torch.cat([F.normalize(part, dim=-1).to(dtype) for part in self.table.split(ROWS_AT_ONCE)])

    def scores(self, vectors: torch.Tensor) -> torch.Tensor:
        """The implied logits, logit_scale * cos(z, e_i): shape (..., d) -> (..., V)."""
        table = self.table
        unit = F.normalize(vectors, dim=-1).to(table.dtype)
        return F.linear(unit, table) * self._scaled_inverse_norms(table)

    def _scaled_inverse_norms(self, table: torch.Tensor) -> torch.Tensor:
        if self._inverse_norms is None or (torch.is_grad_enabled() and table.requires_grad):
            inverse = self.logit_scale / table.norm(dim=-1).clamp(min=1e-12)
            if inverse.requires_grad:
                return inverse
            self._inverse_norms = inverse
        return self._inverse_norms

    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """argmax_i <z, e_i> (Eq. 5): shape (..., d) -> ids of shape (...)."""
        return self.scores(vectors).argmax(dim=-1)

    def mean_row_norm(self) -> float:
        """What R is measured as."""
        with torch.no_grad():
            return self.table.float().norm(dim=-1).mean().item()


def project(vectors: torch.Tensor, table: torch.Tensor, chunk_size: int = ROWS_AT_ONCE) -> torch.Tensor:
    """argmax_i <z, e_i> (Eq. 5): ids of the nearest rows of a table whose rows share one norm.

    Args:
        vectors: shape (..., d). table: shape (V, d). chunk_size: vectors compared with the table at a time.

    Returns:
        Ids of shape (...,).
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    ids = [F.linear(part.to(table.dtype), table).argmax(dim=-1) for part in flat.split(max(chunk_size, 1))]
    return torch.cat(ids).view(vectors.shape[:-1]) if ids else vectors.new_zeros(vectors.shape[:-1], dtype=torch.long)
