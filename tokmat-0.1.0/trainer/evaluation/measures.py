# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What continuations are measured by, per prompt and with intervals, and what a judge thinks of them."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from . import metrics
from .bits import TextJudge
from .decoders import Continuations
from .prompts import Prompts


@torch.no_grad()
def judge_nll(judge, prompts: torch.Tensor, continuation: torch.Tensor, batch_size: int = 16) -> torch.Tensor:
    """Mean negative log-likelihood per token of each continuation after its prompt, in nats, shape (n,)."""
    found = []
    for ids, start in ((torch.cat(pair, dim=1), pair[0].shape[1]) for pair in zip(
        prompts.split(batch_size), continuation.split(batch_size)
    )):  # fmt: skip
        ids = ids.to(judge.device)
        logits = judge(ids, use_cache=False).logits[:, start - 1 : -1].float()
        found.append(F.cross_entropy(logits.transpose(1, 2), ids[:, start:], reduction="none").mean(dim=1).cpu())
    return torch.cat(found)


def per_prompt(runs: list[torch.Tensor], prompts: Prompts, judge=None) -> dict[str, np.ndarray]:
    """Each metric per prompt, the mean over the runs of it, shape (n,): tokens are the model's, prompts left out."""
    functions = {
        "dist_1": lambda row: metrics.dist_n([row], 1),
        "dist_2": lambda row: metrics.dist_n([row], 2),
        "rep_2": lambda row: metrics.rep_n([row], 2),
        "rep_3": lambda row: metrics.rep_n([row], 3),
        "rep_4": lambda row: metrics.rep_n([row], 4),
        "loop": lambda row: metrics.loop_share([row], 3),
    }
    found = {}
    for name, function in functions.items():
        found[name] = np.mean([[function(row) for row in run.tolist()] for run in runs], axis=0)
    if judge is not None:
        found["judge_nll"] = np.mean([judge_nll(judge, prompts.ids, run).numpy() for run in runs], axis=0)
    return found


def interval(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and its 95 % bootstrap interval over prompts, (prompts,); of (training seeds, prompts) over both, each
    resample drawing seeds and prompts anew."""
    draw, prompts = np.random.default_rng(seed), values.shape[-1]
    drawn = draw.integers(0, prompts, (resamples, prompts))
    if values.ndim == 1:
        means = values[drawn].mean(axis=1)
    else:
        seeds = draw.integers(0, len(values), (resamples, len(values)))
        means = values[seeds[:, :, None], drawn[:, None]].mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def scores(row: Continuations, prompts: Prompts, judge) -> dict:
    """Every metric of one decoder as (mean, low, high), and its mean in the run of each seed.

    Args:
        judge: a model of the same tokenizer, for perplexity; a `TextJudge`, for bits per byte; or None.
    """
    texts = judge if isinstance(judge, TextJudge) else None
    judge = None if texts else judge
    runs = [per_prompt([run], prompts, judge) for run in row.runs]
    if texts is not None:
        runs = [run | {"judge_bits": texts.bits(prompts.ids, ids)} for run, ids in zip(runs, row.runs)]
    found, by_seed = {}, {}
    for name in runs[0]:
        values = np.array([run[name] for run in runs])  # (seeds, prompts)
        found[name], by_seed[name] = interval(values.mean(axis=0)), values.mean(axis=1).tolist()
    if judge is not None:
        mean, low, high = found.pop("judge_nll")
        found["judge_perplexity"] = math.exp(mean), math.exp(low), math.exp(high)
        by_seed["judge_perplexity"] = [math.exp(value) for value in by_seed.pop("judge_nll")]
    speed = float(np.median(row.tokens_per_second)) if row.tokens_per_second else None
    return {"name": row.name, **found, "by_seed": by_seed, "tokens_per_second": speed}


def held_out_perplexity(model, prompts: Prompts) -> tuple[float, float, float]:
    """What people's text after the prompts is to a model itself, at committed positions: the exponential of its nats
    per token, with the ends of the interval over prompts."""
    mean, low, high = interval(judge_nll(model, prompts.ids, prompts.human).numpy())
    return math.exp(mean), math.exp(low), math.exp(high)
