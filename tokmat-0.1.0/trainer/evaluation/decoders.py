# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Ways of continuing prompts, and what they write."""

import functools
import math
import time
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor

from modeling_tokmat.losses_tokmat import phrases, without_phrases

from .prompts import Prompts

PENALTIES = (1.1, 1.2, 1.3, 1.5)


@dataclass
class Decoder:
    """A way of continuing prompts: a model with settings of `generate`, run once per seed."""

    name: str
    model: torch.nn.Module
    seeds: list
    settings: dict


@dataclass
class Continuations:
    """What one decoder wrote: ids (n, new_tokens) per seed, and the tokens per second of each run."""

    name: str
    runs: list[torch.Tensor]
    tokens_per_second: list[float]
    forwards: list[float]  # tokens per forward, where the decoder counts them


class PhrasePenalty(LogitsProcessor):
    """Takes nats from what completes a phrase of the row: what `phrase_penalty` teaches, at decoding."""

    def __init__(self, nats: float):
        self.nats = nats

    def __call__(self, ids, scores):
        last = torch.full((len(ids), 1), ids.shape[1] - 1)
        repeats = phrases(ids, torch.zeros_like(ids), self.nats, last)
        return without_phrases(scores[:, None], repeats)[:, 0]


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


def decoders(options, tokmats: dict, baselines: dict, given: dict) -> list[Decoder]:
    """Every TokMat model with the settings `given`, and every decoding of every baseline, models by name."""
    seeds = list(range(options.seeds))
    plans = [Decoder(name, model, seeds, given) for name, model in tokmats.items()]
    for name, model in baselines.items():
        greedy = {"do_sample": False}
        plans.append(Decoder(f"{name} greedy", model, [None], greedy))
        for penalty in PENALTIES:
            plans.append(
                Decoder(f"{name} penalty {penalty}", model, [None], {**greedy, "repetition_penalty": penalty})
            )
        plans.append(Decoder(f"{name} nucleus 0.95", model, seeds, {"do_sample": True, "top_p": 0.95, "top_k": 0}))
        plans.append(Decoder(f"{name} top-k 50", model, seeds, {"do_sample": True, "top_k": 50}))
    return plans


def continuations(options, prompts: Prompts, plans: list[Decoder], advance, note: str = "") -> list[Continuations]:
    """What every decoder wrote. `advance(count, description)` hears of progress."""
    rows = []
    for plan in plans:
        tell = functools.partial(advance, description=plan.name + note)
        rows.append(
            write(
                plan.name,
                plan.model,
                prompts,
                options.new_tokens,
                options.batch_size,
                plan.seeds,
                tell,
                **plan.settings,
            )
        )
    return rows
