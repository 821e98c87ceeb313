# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""MAUVE (Pillutla et al. 2021) of continuations, by the package mauve-text, on features of a local language model."""

import os
import statistics
from contextlib import contextmanager

import numpy as np
import torch

KMEANS_SEEDS = (0, 1, 2)
LEAST = 20  # mauve-text makes a cluster of every ten continuations, and two are the fewest: in each half as well


def require_mauve() -> None:
    """Raises:
    ValueError: mauve-text, or something that it needs, is not installed.
    """
    try:
        import mauve  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'MAUVE needs the package mauve-text ({error}): pip install "tokmat[eval]", or leave MAUVE out with '
            "--mauve-continuations 0"
        ) from error


@torch.no_grad()
def features(judge, prompts: torch.Tensor, continuation: torch.Tensor, batch_size: int = 16) -> np.ndarray:
    """The judge's last hidden state at the last token of prompt and continuation, shape (n, hidden): what mauve-text
    itself takes of a text.

    Args:
        prompts: ids, shape (n, prompt tokens). continuation: ids, shape (n, new tokens).
    """
    found = []
    for ids in torch.cat([prompts, continuation], dim=1).split(batch_size):
        output = judge(ids.to(judge.device), use_cache=False, output_hidden_states=True, logits_to_keep=1)
        found.append(output.hidden_states[-1][:, -1].float().cpu())
    return torch.cat(found).numpy()


def mauve_scores(human: np.ndarray, written: np.ndarray, seeds=KMEANS_SEEDS) -> list[float]:
    """MAUVE in (0, 1], 1 for the same distribution, once per seed of the k-means clustering.

    Args:
        human, written: features, shape (n, hidden).
    """
    from mauve import compute_mauve

    with _quiet_faiss():
        return [float(compute_mauve(p_features=human, q_features=written, seed=seed).mauve) for seed in seeds]


def between_halves(human: np.ndarray, seeds=KMEANS_SEEDS) -> list[float]:
    """What MAUVE gives people's own text: of the first half of the rows against the second."""
    half = len(human) // 2
    return mauve_scores(human[:half], human[half : 2 * half], seeds)


def clusters(count: int) -> int:
    """How many clusters mauve-text makes of `count` human and `count` written continuations."""
    return max(2, round(count / 10))


def summary(scores: list[float]) -> tuple[float, float, float]:
    """Mean, least and greatest: no confidence interval."""
    # Exact, then rounded once: a mean that sums in floating point may lie a last place outside of equal scores.
    return statistics.mean(scores), min(scores), max(scores)


def conventions(count: int, prompt_tokens: int, new_tokens: int, stride: int) -> str:
    """How the numbers were made, in a few sentences."""
    length = prompt_tokens + new_tokens
    overlap = "without overlap" if stride >= length else f"and overlap, {stride} tokens apart"
    return (
        f"MAUVE: {count} human continuations against as many of a decoder, one seed each, of windows of {length} "
        f"tokens ({prompt_tokens} given) that lie at all places of the held-out documents {overlap} (the paper "
        "compares 5,000 with 5,000; fewer vary more). Features: the judge's last hidden state at the last token of "
        f"prompt and continuation. {clusters(count)} clusters; in brackets the least and the greatest of "
        f"{len(KMEANS_SEEDS)} k-means seeds, which is no confidence interval. In the row human it compares two halves "
        f"of the human windows, from different documents: {count // 2} against {count // 2}, {clusters(count // 2)} "
        "clusters."
    )


@contextmanager
def _quiet_faiss():
    """Without faiss's warning, printed by C code, that clusters of ten are small: MAUVE is defined with them."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
