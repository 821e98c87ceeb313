# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""How far embeddings move when they are learned (paper 5.4, Fig. 3)."""

import numpy as np
import torch
import torch.nn.functional as F

from .. import pictures
from ..data import load_documents
from .lab import Finding, Lab

NEIGHBOURS = 10


@torch.no_grad()
def study(lab: Lab) -> Finding:
    before, after = (_rows(lab, path) for path in (lab.start(), lab.tokmat()))
    drift = pictures.drifts(before, after)
    kept = (_nearest(before)[:, :, None] == _nearest(after)[:, None, :]).any(-1).float().mean(-1).numpy()
    counts = np.zeros(len(drift))
    for text in load_documents(str(lab.texts["train"]))["text"]:
        np.add.at(counts, lab.tokenizer(text, verbose=False)["input_ids"], 1)
    names = [repr(lab.tokenizer.decode([token]))[1:-1] for token in range(len(drift))]
    order = np.argsort(drift)
    rows = [
        {"token": token, "text": names[token], "count": int(counts[token]), "drift": float(drift[token]),
         "neighbours_kept": float(kept[token])}
        for token in order[::-1].tolist()
    ]  # fmt: skip
    seen = counts > 0
    ranks = [np.argsort(np.argsort(values)) for values in (np.log1p(counts[seen]), drift[seen])]
    correlation = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    median, largest = float(np.median(drift)), float(drift.max())
    share = float((drift > 2 * median).mean())

    return Finding(
        claim="Learned embeddings drift from where they began; the paper shows by how much, and which.",
        finding=f"Between the autoregressive start and the trained model the median drift (1 - cosine) is "
        f"{median:.3f}, the largest {largest:.3f}; {share:.0%} of tokens drift more than twice the median. "
        f"{float(kept.mean()):.0%} of the {NEIGHBOURS} nearest neighbours stay. Rank correlation of drift "
        f"with frequency: {correlation:+.2f}.",
        verdict=lab.verdict("measured"),
        rows=rows,
        figure=pictures.drift(drift, names, counts),
        text=_lists(names, drift, kept, counts, order, before, after),
    )


def _rows(lab: Lab, path) -> torch.Tensor:
    return F.normalize(lab.load_tokmat(path).token_embeddings().float().cpu(), dim=-1)


def _nearest(table: torch.Tensor) -> torch.Tensor:
    """(V, NEIGHBOURS): ids of the nearest other rows."""
    cosines = table @ table.T
    return cosines.fill_diagonal_(-2).topk(NEIGHBOURS, dim=-1).indices


def _lists(names, drift, kept, counts, order, before, after) -> str:
    def line(tokens):
        return ", ".join(f"`{names[token]}` ({drift[token]:.3f}, {int(counts[token])} times)" for token in tokens)

    frequent = [token for token in order if counts[token] >= 20]
    changed = min(frequent, key=lambda token: kept[token]) if frequent else int(order[-1])
    near = [", ".join(f"`{names[token]}`" for token in _nearest(table)[changed].tolist()) for table in (before, after)]
    return (
        f"Among tokens that occur at least 20 times - most drifted: {line(frequent[::-1][:10])}.\n\n"
        f"Least drifted: {line(frequent[:10])}.\n\n"
        f"Neighbours of `{names[changed]}`, the most changed: before {near[0]}; after {near[1]}."
    )
