# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Prompts from held-out text, what decoders make of them, what a judge thinks of it, and how it is written down."""

import math
import random
import time
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F

from . import metrics

COLUMNS = {
    "dist_1": "Dist-1",
    "dist_2": "Dist-2",
    "rep_2": "Rep-2",
    "rep_3": "Rep-3",
    "rep_4": "Rep-4",
    "loop": "Loop",
    "judge_perplexity": "judge ppl",
    "mauve": "MAUVE",
}


@dataclass
class Prompts:
    """Prompts (n, prompt_tokens), the first of them bos, and how people went on, (n, new_tokens)."""

    ids: torch.Tensor
    human: torch.Tensor


def _rows(documents, tokenizer):
    """The ids of each document, bos first."""
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    for text in documents["text"]:
        yield [bos, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def held_out_prompts(documents, tokenizer, count: int, prompt_tokens: int, new_tokens: int, seed: int = 0) -> Prompts:
    """The beginnings of documents that are long enough, drawn without repetition, the same for the same `seed`.

    Raises:
        ValueError: fewer than `count` documents are long enough.
    """
    length = prompt_tokens + new_tokens
    rows = [ids[:length] for ids in _rows(documents, tokenizer) if len(ids) >= length]
    if len(rows) < count:
        raise ValueError(f"--prompts {count}: only {len(rows)} held-out documents have {length} tokens or more")
    ids = torch.tensor(random.Random(seed).sample(rows, count))
    return Prompts(ids[:, :prompt_tokens], ids[:, prompt_tokens:])


def windows(
    documents, tokenizer, count: int, prompt_tokens: int, new_tokens: int, seed: int = 0
) -> tuple[Prompts, int]:
    """`count` prompts from all places of the documents, and how many tokens apart the windows that they open start.

    The windows of a document, prompt and human continuation, do not overlap where that gives enough of them; otherwise
    they start as far apart as does, but never nearer than a prompt is long: no token is in two prompts. Documents are
    shuffled and their windows stay together, so that two halves of the rows share one document at most.

    Raises:
        ValueError: there are fewer windows.
    """
    length = prompt_tokens + new_tokens
    texts = [ids for ids in _rows(documents, tokenizer) if len(ids) >= length]
    draw = random.Random(seed)
    draw.shuffle(texts)

    def starts(stride):
        return [(ids, start) for ids in texts for start in range(0, len(ids) - length + 1, stride)]

    for stride in range(length, prompt_tokens - 1, -1):
        places = starts(stride)
        if len(places) >= count:
            break
    else:
        raise ValueError(
            f"--mauve-continuations {count}: the held-out documents have only {len(places)} windows of {length} "
            f"tokens that start {prompt_tokens} tokens apart; give more text, or 0 to leave MAUVE out"
        )
    chosen = sorted(draw.sample(range(len(places)), count))
    ids = torch.tensor([text[start : start + length] for text, start in (places[place] for place in chosen)])
    return Prompts(ids[:, :prompt_tokens], ids[:, prompt_tokens:]), stride


@dataclass
class Continuations:
    """What one decoder wrote: ids (n, new_tokens) per seed, and the tokens per second of each run."""

    name: str
    runs: list[torch.Tensor]
    tokens_per_second: list[float]
    forwards: list[float]  # tokens per forward, where the decoder counts them


@torch.no_grad()
def continue_prompts(model, input_ids: torch.Tensor, new_tokens: int, **settings):
    """`generate`'s output for prompts of one length, (batch, length), none ending early."""
    return model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        return_dict_in_generate=True,
        **settings,
    )


def write(name: str, model, prompts: Prompts, new_tokens: int, batch_size: int, seeds, advance=None, **settings):
    """Continue all prompts once per seed, no continuation ending early.

    Args:
        seeds: values of `maturation_seed` for a TokMat model, of torch's generator for sampling; [None] for decoders
            without chance.
        settings: of `generate`.
    """
    runs, speeds, forwards = [], [], []
    tokmat = hasattr(model, "implied_logits")
    for seed in seeds:
        chosen = dict(settings)
        if tokmat and seed is not None:
            chosen["maturation_seed"] = seed
        if not tokmat:
            torch.manual_seed(0 if seed is None else seed)
        parts, seconds, counted = [], 0.0, []
        for ids in prompts.ids.split(batch_size):
            ids = ids.to(model.device)
            start = time.perf_counter()
            output = continue_prompts(model, ids, new_tokens, **chosen)
            seconds += time.perf_counter() - start
            parts.append(output.sequences[:, ids.shape[1] :].cpu())
            if tokmat:
                counted.append(output.tokens_per_forward)
            if advance is not None:
                advance(len(ids))
        runs.append(torch.cat(parts))
        speeds.append(len(prompts.ids) * new_tokens / seconds)
        forwards.append(sum(counted) / len(counted) if counted else math.nan)
    return Continuations(name, runs, speeds, forwards)


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
    """Mean, and its 95 % bootstrap interval over prompts."""
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


# -- to be read -------------------------------------------------------------------------------------------------------


def cell(row: dict, name: str) -> str:
    """A result of a row as text: "mean [low, high]" where it has an interval, "-" where it has none."""
    value, digits = row.get(name), 1 if name == "judge_perplexity" else 3
    if isinstance(value, tuple):
        mean, low, high = value
        halves = " (halves)" if (row.get("name"), name) == ("human", "mauve") else ""
        return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{halves}"
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def columns(result: dict) -> dict[str, str]:
    """Those of COLUMNS that any row has."""
    return {name: title for name, title in COLUMNS.items() if any(name in row for row in result["decoders"])}


def pieces(tokenizer, ids: list[int]) -> list[tuple[str, bool]]:
    """The text of `ids` cut where repetition starts and ends: (text, whether it repeats a trigram)."""
    text, cut, start, found = tokenizer.decode(ids), 0, 0, []
    for repeated, group in groupby(metrics.repeated_ngrams(ids)):
        cut += len(list(group))
        # A token may end in the middle of a character, which then belongs to the next piece.
        end = len(text) if cut == len(ids) else len(tokenizer.decode(ids[:cut]).rstrip("\N{REPLACEMENT CHARACTER}"))
        found.append((text[start:end], repeated))
        start = max(start, end)
    return found
