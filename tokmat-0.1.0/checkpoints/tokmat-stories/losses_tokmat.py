# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The training loss: regression + InfoNCE, weighted by maturity (paper 4.1, Eq. 6 to 8), chunked over positions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .checks_tokmat import require

CHUNK_ELEMENTS = 2**24  # scores held at a time: 64 MiB in fp32


def document_index(
    position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, shape: torch.Size, device: torch.device
) -> torch.Tensor:
    """Index of the document that each position belongs to, shape (batch, length), -1 in padding.

    As in transformers, packed documents are told from `position_ids` that do not go up by one, and only without an
    `attention_mask`; a 2-D `attention_mask` marks padding.
    """
    if attention_mask is not None:
        return torch.where(attention_mask.to(device).bool(), 0, -1)
    if position_ids is None:
        return torch.zeros(shape, dtype=torch.long, device=device)
    return (torch.diff(position_ids, prepend=position_ids[:, :1] - 1) != 1).cumsum(-1).expand(shape)


def draw_negatives(
    source: str,
    num_negatives: int,
    vocab_size: int,
    labels: torch.Tensor,
    token_weights: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor | None:
    """One set of negatives for all positions, drawn with replacement, shape (num_negatives,); None for "all".

    Args:
        labels: the pool of `source="batch"`; -100 is left out.
        token_weights: unnormalised probabilities for `source="unigram"`, shape (V,).
        generator: a CPU generator; torch's global one if None.
    """
    if source == "all":
        return None
    if source == "unigram":
        seen = token_weights is not None and bool((token_weights > 0).any())
        require(seen, "token_counts", token_weights, 'set with `set_token_counts` when negatives="unigram"')
        assert token_weights is not None
        drawn = torch.multinomial(token_weights.float().cpu(), num_negatives, replacement=True, generator=generator)
    elif source == "batch" and bool((labels != -100).any()):
        pool = labels[labels != -100].cpu()
        drawn = pool[torch.randint(len(pool), (num_negatives,), generator=generator)]
    else:
        drawn = torch.randint(vocab_size, (num_negatives,), generator=generator)
    return drawn.to(labels.device, non_blocking=True)


class ContextNegatives:
    """The distinct ids at positions <= t of t's document and window, without t's target (`context_negatives`).

    Args:
        ids: true ids, shape (batch, length). documents: as `document_index` gives them. window: 0 = whole document.
        weight: w, in nats. keys: of `ids`, shape (batch, length, d); only sampled sources read them.
        places: t of each prediction, shape (batch, predictions), where there are others than one per position.
        ngram: n; above 1 an id counts only where the n - 1 ids before it are also the last ones up to t.
    """

    def __init__(
        self, ids, documents, window: int, weight: float, keys=None, places: torch.Tensor | None = None, ngram: int = 1
    ):
        self.ids, self.window, self.weight, self.keys = ids, window, weight, keys
        self.places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids) if places is None else places
        # `context` tells what stands at t and before, `before` what stands before a position: a document, for n = 1.
        self.context = self.before = documents
        if ngram > 1:
            tokens = self.context = _ranks(documents, ids)
            for _ in range(ngram - 2):
                self.context = _ranks(F.pad(self.context[:, :-1], (1, 0), value=-1), tokens)
            inside = F.pad(documents[:, 1:] == documents[:, :-1], (1, 0))
            self.before = torch.where(inside, F.pad(self.context[:, :-1], (1, 0)), -1)
        # An id counts once: at its last occurrence up to t, the one whose next occurrence is later than t.
        length = ids.shape[1]
        key, order = _ranks(self.before, ids).sort(dim=1, stable=True)
        following = torch.where(key[:, 1:] == key[:, :-1], order[:, 1:], length)
        self.next_occurrence = torch.full_like(ids, length).scatter(1, order[:, :-1], following)

    def present(self, rows: slice, predictions: slice, targets: torch.Tensor | None) -> torch.Tensor:
        """Which positions s hold a context negative of t, shape (rows, predictions, length); each id at most once.
        Without `targets` the target may be one."""
        there = torch.arange(self.ids.shape[1], device=self.ids.device)
        here = self.places[rows, predictions, None]
        near = (there <= here) & ((here - there < self.window) if self.window else True)
        same = self.context[rows].gather(1, here[..., 0])[..., None] == self.before[rows, None]
        last = self.next_occurrence[rows, None] > here
        found = near & same & last
        return found if targets is None else found & (self.ids[rows, None] != targets[..., None])


def _ranks(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A number below the length for each pair of a row, equal for equal pairs; shape (batch, length), int64."""
    key, order = (first * (second.max() + 1) + second).sort(dim=1)
    rank = F.pad((key[:, 1:] != key[:, :-1]).cumsum(dim=1), (1, 0))
    return torch.empty_like(rank).scatter(1, order, rank)


def info_nce(
    queries: torch.Tensor,
    target_ids: torch.Tensor,
    keys: torch.Tensor,
    scale: float,
    vocab_size: int,
    target_keys: torch.Tensor | None = None,
    negative_ids: torch.Tensor | None = None,
    context: ContextNegatives | None = None,
    bias: torch.Tensor | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> torch.Tensor:
    """InfoNCE per position (Eq. 7), shape (batch, length), float32 (float64 for float64 input).

    Args:
        queries: z^ as it is compared with the keys, shape (batch, length, d). target_ids: shape (batch, length),
            without -100.
        keys: of the whole vocabulary, shape (V, d), if `negative_ids` is None, else those of the negatives.
        scale: a score is scale * <query, key>, plus `bias`, shape (V,), which goes with the whole vocabulary alone.
        target_keys: keys of the targets, shape (batch, length, d); read for sampled negatives.
        negative_ids: shape (num_negatives,); one that equals the target is masked.
        context: the past as additional negatives.
        chunk_elements: scores held at a time. With more of them than that, chunks are recomputed in the backward
            pass, so that no (positions x vocabulary) matrix is ever held.
    """
    batch, length, _ = queries.shape
    dtype = torch.promote_types(queries.dtype, torch.float32)
    queries, keys = scale * queries, keys.to(queries.dtype)

    def chunk(queries, keys, target_keys, context_keys, rows: slice, positions: slice):
        targets = target_ids[rows, positions]
        # As a matrix: of part of a row torch takes a batched product, which copies a frozen vocabulary.
        scores = F.linear(queries.flatten(0, 1), keys).view(*targets.shape, -1).to(dtype)
        scores = scores if bias is None else scores + bias.to(dtype)
        if negative_ids is None:
            if context is not None:
                present = context.present(rows, positions, targets)
                ids = context.ids[rows, None].expand(present.shape)
                scores = scores.scatter_add(-1, ids, context.weight * present.to(dtype))
            return F.cross_entropy(scores.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)

        target = (queries.to(dtype) * target_keys.to(dtype)).sum(-1, keepdim=True)
        barred = negative_ids == targets[..., None]
        terms = [target, scores]
        if context is not None:
            present = context.present(rows, positions, targets)
            ids = context.ids[rows, None].expand(present.shape)
            taken = torch.zeros(*targets.shape, vocab_size, dtype=torch.int8, device=ids.device)
            taken.scatter_add_(-1, ids, present.to(torch.int8))
            barred = barred | (taken[..., negative_ids] > 0)
            # A sampled negative stands for V / num_negatives ids, one of the past for itself alone.
            shift = context.weight - torch.log(torch.tensor(vocab_size / len(negative_ids), dtype=dtype))
            past = torch.matmul(queries, context_keys.to(queries.dtype).transpose(1, 2)).to(dtype) + shift
            terms.append(past.masked_fill(~present, -torch.inf))
        terms[1] = scores.masked_fill(barred, -torch.inf)
        return (torch.logsumexp(torch.cat(terms, dim=-1), -1, keepdim=True) - target)[..., 0]

    width = vocab_size if negative_ids is None or context is not None else len(negative_ids)
    rows_at_once = max(1, chunk_elements // (length * width))
    positions_at_once = max(1, min(length, chunk_elements // width))
    many = rows_at_once < batch or positions_at_once < length
    run: Callable = chunk
    if many and torch.is_grad_enabled():
        run = lambda *args: checkpoint(chunk, *args, use_reentrant=False, preserve_rng_state=False)  # noqa: E731
    losses = []
    for first_row in range(0, batch, rows_at_once):
        rows = slice(first_row, first_row + rows_at_once)
        context_keys = context.keys[rows] if context is not None and context.keys is not None else None
        parts = []
        for first in range(0, length, positions_at_once):
            positions = slice(first, first + positions_at_once)
            near = target_keys[rows, positions] if target_keys is not None else None
            parts.append(run(queries[rows, positions], keys, near, context_keys, rows, positions))
        losses.append(torch.cat(parts, dim=1))
    return torch.cat(losses)


class Reference(NamedTuple):
    """What a frozen model predicts: its queries, (rows, length, d), and the keys (V, d), scale and bias that score
    them; the power that both distributions are raised to in rows of own text, before they are compared; and which
    rows of the batch the queries are of, (batch,), bool: those of own text if None."""

    queries: torch.Tensor
    keys: torch.Tensor
    scale: float
    bias: torch.Tensor | None = None
    sharpness: float = 1.0
    rows: torch.Tensor | None = None


def phrases(
    ids: torch.Tensor, documents: torch.Tensor, penalty: float, places=None, window: int = 0
) -> list[ContextNegatives]:
    """What completes a phrase that the document holds already, with the nats it loses: `penalty` for a bigram, twice
    that for a trigram, four times for four tokens and more. Arguments as for `ContextNegatives`; each of the list
    adds to those before it."""
    growth = ((2, penalty), (3, penalty), (4, 2 * penalty))
    return [ContextNegatives(ids, documents, window, weight, places=places, ngram=length) for length, weight in growth]


def without_phrases(scores: torch.Tensor, repeats: list[ContextNegatives], rows: slice = slice(None)) -> torch.Tensor:
    """Scores, (rows, predictions, V), less the weights of what repeats a phrase there (`repeats`: see `phrases`)."""
    scores = scores.clone()
    for phrase in repeats:
        present = phrase.present(rows, slice(None), None)
        ids = phrase.ids[rows, None].expand(present.shape)
        scores.scatter_add_(-1, ids, -phrase.weight * present.to(scores.dtype))
    return scores


def divergence_from_reference(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: float,
    rows: torch.Tensor,
    reference: Reference,
    repeats: list[ContextNegatives],
    own: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL(q || p) per position of the given rows, shape (rows, length), float32: p is what the queries say, q what the
    reference says; in rows of own text, (batch,), bool, the repeated phrases taken down by their weight, and both
    raised to `reference.sharpness`.

    Args: as for `info_nce`; `repeats` as `phrases` gives them.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)

    def scored(queries, keys, scale, bias):
        scores = F.linear(scale * queries, keys.to(queries.dtype)).to(dtype)
        return scores if bias is None else scores + bias.to(dtype)

    def row(queries, keys, bias, number: int):
        sharpness = reference.sharpness if own[number] else 1.0
        with torch.no_grad():
            wanted = scored(reference.queries[number], reference.keys, reference.scale, reference.bias)
            if own[number]:
                wanted = without_phrases(wanted[None], repeats, slice(number, number + 1))[0]
            wanted = (sharpness * wanted).log_softmax(-1)
        found = (sharpness * scored(queries, keys, scale, bias)).log_softmax(-1)
        return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)

    parts = [
        checkpoint(row, queries[number], keys, bias, number, use_reentrant=False, preserve_rng_state=False)
        for number in rows.tolist()
    ]
    return torch.stack(parts) if parts else queries.new_zeros(0, queries.shape[1], dtype=dtype)


def regression(predicted: torch.Tensor, targets: torch.Tensor, radius: float) -> torch.Tensor:
    """|| z^ - e ||^2 / R^2 per position (Eq. 6), shape (batch, length).

    Args:
        predicted: z^, shape (batch, length, d). targets: e, or whatever z^ shall be near to, same shape.
    """
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    return ((predicted.to(dtype) - targets.to(dtype)) / radius).square().sum(-1)
