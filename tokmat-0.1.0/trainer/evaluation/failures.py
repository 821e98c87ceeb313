# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Signs of four ways to fail: mode collapse, divergence, premature commitment and poor diversity.

Each detector returns its signals; it fires if one of them does. Thresholds follow from what a value means, as said
where they stand; none was fitted to a model.
"""

import math
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import metrics

# Vectors whose mean cosine is c share a part of squared length c (of 1): from one half on, what the context decides is
# the smaller part.
SAME_DIRECTION = 0.5
# One token answers most contexts. In English text the most frequent token (a full stop, "the") has less than a tenth.
SAME_TOKEN = 0.5
# A vector longer than 2 R is farther from every embedding than the zero vector, which says nothing.
LONG = 2.0
# Changes that double within one text have no bound in longer ones.
GROWTH = 2.0
# Unrelated embeddings are about orthogonal, sqrt(2) R apart: a vector as far away as that from its own token...
FAR = math.sqrt(2)
# ... and half of it is the way from an embedding to the border with another one's cell.
STILL_TO_GO = math.sqrt(2) / 2
# One commit in eight that refinement would overturn is, with the tails of 8 slots trained here, one in every tail.
OVERTURNED = 1 / 8
# Twice the repetition that people allow themselves; where they hardly repeat, twice one bigram in every second text of
# 50 tokens.
REPETITION, LEAST_REPETITION = 2.0, 0.01
# Different prompts are continued differently by people; one copy in ten is beyond prompts that ask for the same.
COPIES = 0.1


@dataclass(frozen=True)
class Signal:
    """A value that should stay at or below its threshold; one that is not finite fires."""

    name: str
    value: float
    threshold: float

    @property
    def fired(self) -> bool:
        return not self.value <= self.threshold


def fires(signals: list[Signal]) -> bool:
    return any(signal.fired for signal in signals)


def mean_cosine(vectors: torch.Tensor) -> float:
    """Mean cosine of all pairs of different rows, (n, d) with n of at least 2."""
    unit = F.normalize(vectors.double(), dim=-1)
    count = len(unit)
    return float((unit.sum(dim=0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def top_share(ids: torch.Tensor) -> float:
    """Share of the most frequent id, in (0, 1]."""
    return Counter(ids.flatten().tolist()).most_common(1)[0][1] / ids.numel()


@torch.no_grad()
def mode_collapse(model, ids: torch.Tensor) -> list[Signal]:
    """Predicted vectors that are nearly equal whatever the context.

    - "same direction": mean cosine of the predicted vectors of different contexts; fires above `SAME_DIRECTION`.
    - "same token": share of the most frequent nearest token; fires above `SAME_TOKEN`.

    Args:
        model: a `TokMatForContinuousLM`. ids: text that people wrote, (n, length); every position is a context.
    """
    output = model(ids.to(model.device), use_cache=False)
    vectors = output.predicted_embeds.flatten(0, 1)
    return [
        Signal("same direction", mean_cosine(vectors), SAME_DIRECTION),
        Signal("same token", top_share(output.logits.argmax(dim=-1)), SAME_TOKEN),
    ]


def divergence(steps) -> list[Signal]:
    """Vectors that leave the space of embeddings, or move ever more.

    - "norm": the largest mean over prompts, among steps and slots, of a tail vector's norm, in units of R; fires above
      `LONG`.
    - "growth": slot 1's mean displacement in the last quarter of the steps over that in the first quarter, the steps
      whose front was an embryo within the prompt's own tail left out; fires above `GROWTH`.

    Args:
        steps: the trace of a generation under front commits, of more steps than slots (`MaturationStep`).
    """
    largest = torch.cat([step.norm.mean(dim=0) for step in steps])
    moved = torch.stack([step.displacement[:, 0].mean() for step in steps[steps[0].norm.shape[1] :]])
    quarter = max(1, len(moved) // 4)
    growth = moved[-quarter:].mean() / moved[:quarter].mean()
    still = not bool(moved.any())  # nothing moves, so nothing grows
    return [
        # Not `max`, which would pass over a nan.
        Signal("norm", float(largest.max() if bool(largest.isfinite().all()) else math.inf), LONG),
        Signal("growth", 0.0 if still else float(growth), GROWTH),
    ]


@torch.no_grad()
def premature_commitment(model, sequences: torch.Tensor, steps, tail_length: int) -> list[Signal]:
    """Vectors that are committed while the model would still move them.

    Slot 1's prediction reads committed positions alone, so further updates would lead it to that prediction, z^_1: one
    forward pass over the finished text gives it for every commit.

    - "distance": mean || z~_1 - e || to the nearest embedding at the commit, in units of R; fires above `FAR`.
    - "to go": mean || z^_1 - z~_1 ||, in units of R; fires above `STILL_TO_GO`.
    - "overturned": share of commits whose token is not the nearest of z^_1; fires above `OVERTURNED`.

    Args:
        model: a `TokMatForContinuousLM`. sequences: prompts of one length and what was committed under front commits
            without history noise or smoothing, (n, length). steps: the trace, with `output_maturation="vectors"`.
        tail_length: K it was generated with.
    """
    fronts = torch.stack([step.vectors[:, 0] for step in steps], dim=1).to(model.device)
    sequences, count = sequences.to(model.device), fronts.shape[1]
    settled = model(sequences, tail_length=tail_length, use_cache=False).predicted_embeds[:, -count - 1 : -1]
    overturned = model.implied_logits(settled).argmax(dim=-1) != sequences[:, -count:]
    distance = torch.stack([step.distance[:, 0] for step in steps])
    to_go = (settled.float() - fronts.float()).norm(dim=-1) / model.embedding_radius
    return [
        Signal("distance", float(distance.mean()), FAR),
        Signal("to go", float(to_go.mean()), STILL_TO_GO),
        Signal("overturned", float(overturned.float().mean()), OVERTURNED),
    ]


def poor_diversity(written: torch.Tensor, prompts: torch.Tensor, human: torch.Tensor) -> list[Signal]:
    """Text that repeats itself, or that is the same after different prompts.

    - "repetition": Rep-2 over that of the human continuations (at least `LEAST_REPETITION`); fires above `REPETITION`.
    - "copies": share of the different prompts whose continuation is a copy of another's, beyond the share among the
      human ones; fires above `COPIES`.

    Args:
        written, human: continuations, (n, new tokens). prompts: (n, length).
    """
    ours, theirs = written.tolist(), human.tolist()
    first = {tuple(prompt): place for place, prompt in reversed(list(enumerate(prompts.tolist())))}
    places = sorted(first.values())  # a prompt that occurs twice is continued alike, rightly

    def copies(texts) -> float:
        return 1 - len({tuple(texts[place]) for place in places}) / len(places)

    repetition = metrics.rep_n(ours, 2) / max(metrics.rep_n(theirs, 2), LEAST_REPETITION)
    return [
        Signal("repetition", repetition, REPETITION),
        Signal("copies", max(0.0, copies(ours) - copies(theirs)), COPIES),
    ]
