# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A text while it matured: the trace of one run of `generate`, as numbers and lists, and what it comes to by slot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .streamers import render_tail


def plain_trace(output, prompt_length: int) -> dict:
    """The first text of `generate`'s output, and its trace, as numbers and lists: what `Run` is made of."""
    rows = ("token_ids", "distance", "displacement", "entropy", "entropy_scaled")
    steps = []
    for step in output.maturation:
        found = {"position": int(step.position[0]), "committed": int(step.committed[0])}
        found |= {name: getattr(step, name)[0].tolist() for name in rows}
        steps.append(found | {"maturity": step.maturity.tolist()})
    return {"ids": output.sequences[0].tolist(), "prompt_length": prompt_length, "steps": steps}


@dataclass
class Run:
    """A text while it matured, as `plain_trace` and `watch` give it.

    Args:
        tokenizer: of the model. ids: of prompt and text. prompt_length: tokens of the prompt.
        steps: per step `position`, `committed` and, by slot, `token_ids`, `maturity`, `distance`, `displacement`,
            `entropy`, `entropy_scaled`, as in [`MaturationStep`]. commit: the rule.
    """

    tokenizer: Any
    ids: list[int]
    prompt_length: int
    steps: list[dict]
    commit: str

    def committed(self, step: dict) -> list[int]:
        """The ids that were committed before a step."""
        return self.ids[: self.prompt_length + step["position"]]

    def later(self, step: dict) -> list[int | None]:
        """By slot the token that was committed there in the end, None where the text ended before."""
        rest: list[int | None] = [*self.ids[self.prompt_length + step["position"] :]]
        slots = len(step["token_ids"])
        return (rest + [None] * slots)[:slots]

    def frame(self, step: dict) -> list[tuple[str, float | None]]:
        """Pieces of text with their maturity, as `render_tail` gives them."""
        slots = len(step["maturity"])
        return render_tail(self.committed(step), step["token_ids"][:slots], step["maturity"], self.tokenizer)


@torch.no_grad()
def watch(model, tokenizer, prompt: str | Sequence[int], max_new_tokens: int, **settings) -> Run:
    """Let a model continue a prompt, a text or its ids, and keep what its tail held at every step.

    Args:
        settings: of `generate`.

    Raises:
        ValueError: a prompt of no tokens, or wrong settings.
    """
    ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
    if not ids:
        raise ValueError("the prompt is empty, but the text begins with at least one token")
    inputs = torch.tensor([ids], device=model.device)
    asked: dict[str, Any] = {"return_dict_in_generate": True, "output_maturation": True}
    output = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=max_new_tokens, **settings | asked
    )
    return Run(
        tokenizer, **plain_trace(output, len(ids)), commit=settings.get("commit", model.generation_config.commit)
    )


def by_slot(runs: list[Run], slots: int) -> list[dict]:
    """Means over the steps of `runs`, which commit one token a step, a row per age: updates since the embryo.

    The first steps are left out, whose vectors began nearer to the front.

    Args:
        slots: the tail length of the runs.

    Raises:
        ValueError: no vector passed through the whole tail.
    """
    whole = [(run, step) for run in runs for step in run.steps[slots - 1 :] if len(step["token_ids"]) == slots]
    if not whole:
        raise ValueError(f"no vector passed through all {slots} slots of the tail: write more tokens than that")
    names = {"entropy_temperature_1": "entropy", "entropy_logit_scale": "entropy_scaled"}
    names |= {"displacement": "displacement", "distance": "distance"}
    found = []
    for age in range(slots):
        slot = slots - 1 - age
        row: dict[str, float] = {"age": age, "slot": slot + 1}
        row |= {name: float(np.mean([step[key][slot] for _, step in whole])) for name, key in names.items()}
        ends = [(step["token_ids"][slot], run.later(step)[slot]) for run, step in whole]
        known = [token == later for token, later in ends if later is not None]
        found.append(row | {"top_is_committed": float(np.mean(known)) if known else math.nan})
    return found
