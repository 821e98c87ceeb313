# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""How far the liquid tail sees ahead."""

import torch

from .samples import continue_prompts


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
