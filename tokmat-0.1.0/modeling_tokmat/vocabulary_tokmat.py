# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Everything between tokens and vectors: embeddings, their radius, scores, nearest neighbours (paper 3.1, Eq. 5).

Two spaces are told apart: the network reads vectors of the input space, and what it predicts lives in the query space,
where it is scored against the keys. Under the paper's geometry, "sphere", they are one.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

GEOMETRIES = ("sphere", "pretrained")
ROWS_AT_ONCE = 4096  # of the table, or vectors compared with it
EXPECTED_OVER = 8  # likeliest tokens that an expected embedding is taken over


class Vocabulary:
    """
    The tokens of a model as vectors, and vectors as tokens. Geometry "sphere": all rows at norm R, scores are scaled
    cosines.

    `TokMatForContinuousLM.vocabulary()` makes one. It reads the tables as they are then; what it derives from them
    (the norms of the rows) lives as long as the object, which is one forward pass, or one run of decoding.

    Args:
        embeddings: the input embeddings, a table of shape (V, d).
        radius: R. logit_scale: of the scores (Eq. 7).

    Attributes:
        one_space: whether the input space and the query space are one.
        scale: what <query, key> is multiplied by to give a score. bias: added to it, (V,) or None.
    """

    one_space = True
    bias: torch.Tensor | None = None

    def __init__(self, embeddings: nn.Embedding, radius: float, logit_scale: float):
        self.embeddings, self.radius, self.logit_scale = embeddings, radius, logit_scale
        self.scale = logit_scale
        self._inverse_norms: torch.Tensor | None = None

    @property
    def table(self) -> torch.Tensor:
        """The embedding rows as they are, shape (V, d)."""
        return _whole(self.embeddings)

    def rows(self) -> torch.Tensor:
        """E: the committed vectors of all tokens: rows l2-normalised and scaled to R (paper 3.1), shape (V, d)."""
        return F.normalize(self.table, dim=-1) * self.radius

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """z = e_x, the committed vectors of ids: shape (...) -> (..., d)."""
        return F.normalize(self.embeddings(ids), dim=-1) * self.radius

    def look_up(self, ids: torch.Tensor | None, *of_keys: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Committed vectors of `ids`, and keys of further id tensors, by ONE lookup: the gradient of each lookup is as
        large as the table."""
        parts = [part for part in (ids, *of_keys) if part is not None]
        rows = F.normalize(self.embeddings(torch.cat([part.reshape(-1) for part in parts])), dim=-1)
        found = iter(rows.split([part.numel() for part in parts]))
        first, *keys = [None if part is None else next(found).view(*part.shape, -1) for part in (ids, *of_keys)]
        return [None if first is None else first * self.radius, *keys]

    def keys(self, dtype: torch.dtype) -> torch.Tensor:
        """What queries are compared with: the embedding rows at norm 1, shape (V, d)."""
        # In blocks: the backward pass of one normalisation of the whole table holds five copies of it in float32.
        return torch.cat([F.normalize(part, dim=-1).to(dtype) for part in self.table.split(ROWS_AT_ONCE)])

    def queries(self, vectors: torch.Tensor) -> torch.Tensor:
        """What is compared with the keys: z^ at norm 1, shape (..., d)."""
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        return F.normalize(vectors.to(dtype), dim=-1).to(vectors.dtype)

    def scores(self, vectors: torch.Tensor) -> torch.Tensor:
        """The implied logits of vectors of the query space, logit_scale * cos(z^, e_i): shape (..., d) -> (..., V)."""
        table = self.table
        unit = F.normalize(vectors, dim=-1).to(table.dtype)
        return F.linear(unit, table) * self._scaled_inverse_norms(table)

    def _scaled_inverse_norms(self, table: torch.Tensor) -> torch.Tensor:
        if self._inverse_norms is None or (torch.is_grad_enabled() and table.requires_grad):
            inverse = self.scale / table.norm(dim=-1).clamp(min=1e-12)
            if inverse.requires_grad:
                return inverse
            self._inverse_norms = inverse
        return self._inverse_norms

    def nearest(self, vectors: torch.Tensor, at_once: int = ROWS_AT_ONCE) -> torch.Tensor:
        """The tokens that vectors of the query space commit to (Eq. 5), the best scores: (..., d) -> ids (...)."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        ids = [self.scores(part).argmax(dim=-1) for part in flat.split(at_once)]
        return torch.cat(ids).view(vectors.shape[:-1])

    def as_inputs(self, predicted: torch.Tensor, scores: torch.Tensor | None = None) -> torch.Tensor:
        """z^ of the query space as a vector that the network reads, (..., d): here the same.

        Args:
            predicted: shape (..., d). scores: its implied logits, (..., V), where they are known.
        """
        return predicted

    def mean_row_norm(self) -> float:
        """What R is measured as."""
        with torch.no_grad():
            return self.table.float().norm(dim=-1).mean().item()


class PretrainedVocabulary(Vocabulary):
    """
    Geometry "pretrained": committed vectors are the source's embeddings, and the score of token i is
    logit_scale * <z^, k_i> / R^2 + b_i, the source's logit.

    Args:
        output: the output table with its bias, where the source does not tie it to the embeddings.
    """

    one_space = False

    def __init__(self, embeddings: nn.Embedding, radius: float, logit_scale: float, output: nn.Linear | None):
        super().__init__(embeddings, radius, logit_scale)
        self.scale = logit_scale / radius**2
        # A power of two is exact wherever it is multiplied in: cheapest before the table is met.
        self._before, self._behind = (self.scale, 1.0) if math.frexp(self.scale)[0] == 0.5 else (1.0, self.scale)
        self.output = embeddings if output is None else output
        self.bias = None if output is None or output.bias is None else _whole(output, "bias")

    def rows(self) -> torch.Tensor:
        """E: the committed vectors of all tokens, as the source has them, shape (V, d)."""
        return self.embed(torch.arange(len(self.table), device=self.table.device))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embeddings(ids)

    def look_up(self, ids, *of_keys):
        """Committed vectors of `ids`. Keys are not looked up: this geometry compares with all of them."""
        return [None if ids is None else self.embed(ids), *[None] * len(of_keys)]

    def keys(self, dtype: torch.dtype) -> torch.Tensor:
        """The rows of the output table, shape (V, d)."""
        return _whole(self.output).to(dtype)

    def queries(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors

    def keys_of(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the output table: shape (...) -> (..., d)."""
        return F.embedding(ids, _whole(self.output))

    def scores_among(self, vectors: torch.Tensor, ids: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """The implied logits of some tokens alone: vectors (..., m, d), ids (..., 1, n) and their keys (..., n, d)
        -> (..., m, n)."""
        scores = vectors.to(keys.dtype) @ keys.transpose(-1, -2) * self.scale
        return scores if self.bias is None else scores + self.bias[ids]

    def scores(self, vectors: torch.Tensor) -> torch.Tensor:
        """The implied logits of vectors of the query space: shape (..., d) -> (..., V)."""
        table = _whole(self.output)
        scores = F.linear(self._before * vectors.to(table.dtype), table)
        scores = scores if self._behind == 1 else scores * self._behind
        return scores if self.bias is None else scores + self.bias

    def as_inputs(self, predicted, scores=None):
        """The expected embedding under the implied distribution, over its likeliest tokens: the vector that is nearest
        to the token's in the mean square, given what the model believes (the minimiser of Eq. 6)."""
        if scores is None:
            parts = [self.as_inputs(part, self.scores(part)) for part in predicted.split(8)]  # rows of a batch
            return torch.cat(parts)
        likeliest, ids = scores.topk(min(EXPECTED_OVER, scores.shape[-1]), dim=-1)
        share = torch.softmax(likeliest.float(), dim=-1)[..., None]
        return (share * self.embed(ids)).sum(-2).to(predicted.dtype)


def computing_device(module: nn.Embedding | nn.Linear) -> torch.device:
    """Where a module computes; weights that accelerate has offloaded lie on no device."""
    hook = _offloading(module)
    return module.weight.device if hook is None else torch.device(hook.execution_device)


def _whole(module: nn.Module, name: str = "weight") -> torch.Tensor:
    """A weight as it is, outside of its module's forward: there FSDP2 has a shard of it, and offloading none of it."""
    weight, hook = getattr(module, name), _offloading(module)
    if hook is not None:
        return hook.weights_map[name].to(hook.execution_device)
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def _offloading(module: nn.Module):
    """The hook of accelerate's that loads a module's weights when it is called, or None."""
    if module.weight.device.type != "meta":
        return None
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    return next((found for found in hooks if getattr(found, "weights_map", None) is not None), None)
