# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""How far the liquid tail sees ahead."""

import functools
from typing import Any

import torch

from ..arguments import EvaluateArguments
from .decoders import continue_prompts, write
from .measures import interval
from .prompts import Prompts


def agreement_with_commits(steps, sequences: torch.Tensor) -> torch.Tensor:
    """The share of steps in which slot k, after the update and before the shift, projects to the token that is later
    committed there; shape (batch, slots), nan where a slot is never followed by its commit.

    Args:
        steps: the trace of a generation under front commits (`TokMatGenerateOutput.maturation`).
        sequences: the generated ids alone, shape (batch, new tokens).
    """
    slots = max(step.token_ids.shape[1] for step in steps)
    hits, counts = torch.zeros(len(sequences), slots), torch.zeros(slots)
    for place, step in enumerate(steps):  # each step commits one token in every row
        nearest = step.token_ids[:, : sequences.shape[1] - place]
        hits[:, : nearest.shape[1]] += nearest == sequences[:, place : place + nearest.shape[1]].cpu()
        counts[: nearest.shape[1]] += 1
    return hits / torch.where(counts > 0, counts, torch.nan)


def tail_agreement(model, input_ids: torch.Tensor, new_tokens: int, **settings) -> torch.Tensor:
    """`agreement_with_commits` of a model that continues prompts under front commits, none ending early.

    Args:
        model: a `TokMatForContinuousLM`. input_ids: prompts of one length, shape (batch, length).
        settings: generation settings, `tail_length` among them.
    """
    settings = {"commit": "front", "use_cache": True} | settings
    output = continue_prompts(model, input_ids, new_tokens, output_maturation=True, **settings)
    return agreement_with_commits(output.maturation, output.sequences[:, input_ids.shape[1] :])


def tail_accuracy(model, input_ids: torch.Tensor, new_tokens: int, **settings) -> dict[str, float]:
    """`tail_acc_1` ... `tail_acc_K`: means of `tail_agreement` over the prompts."""
    shares = tail_agreement(model, input_ids, new_tokens, **settings).mean(dim=0)
    return {f"tail_acc_{slot}": share for slot, share in enumerate(shares.tolist(), start=1)}


def what_the_tail_knows(model, prompts: Prompts, options: EvaluateArguments, settings: dict, advance) -> dict:
    """tail_acc_k over all prompts, without guidance and with guidance 2, as (mean, low, high); and what verified
    commits gain over one token per forward, one prompt at a time."""
    shared = {name: value for name, value in settings.items() if name not in ("tail_length", "commit")}
    found: dict[str, Any] = {}
    tell = functools.partial(advance, description="the tail")
    for name, changed in (("tail_acc", {}), ("guided_tail_acc", {"guidance_scale": 2.0})):
        run = {**shared, "tail_length": options.look_ahead, **changed}
        parts = []
        for ids in prompts.ids.split(options.batch_size):
            parts.append(tail_agreement(model, ids.to(model.device), options.new_tokens, **run))
            tell(len(ids))
        for slot, shares in enumerate(torch.cat(parts).numpy().T, start=1):
            found[f"{name}_{slot}"] = interval(shares)
    few = Prompts(prompts.ids[: options.verified_prompts], prompts.human[: options.verified_prompts])
    run = {"commit": "verified", "tail_length": options.look_ahead}
    verified = write("", model, few, options.new_tokens, 1, [0], tell, **run)
    run = {"commit": "front", "tail_length": 1, "alpha_max": 1.0}
    reference = write("", model, few, options.new_tokens, 1, [0], tell, **run)
    found["verified_tokens_per_forward"] = verified.forwards[0]
    found["verified_speed"] = verified.tokens_per_second[0] / reference.tokens_per_second[0]
    found["verified_same_text"] = bool(torch.equal(verified.runs[0], reference.runs[0]))
    return found
