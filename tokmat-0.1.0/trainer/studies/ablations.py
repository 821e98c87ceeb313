# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Every choice of the recipe changed alone: short fine-tunes from one converted baseline."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from .lab import CONTEXT_NEGATIVES, Finding, Lab

CONSISTENT = {"rate": "consistent", "alpha_max": 1.0}
PAPER = {"rate": "paper", "alpha_max": 0.9}


def _frozen(*names: str):
    """Conditioning stays what it is at the start: none (its last weights are zero)."""

    def prepare(model):
        for name in names:
            for weight in getattr(model, name).parameters():
                weight.requires_grad_(False)

    return prepare


MATURITY, FILM = "maturity_embedding", "tail_length_film"
# name: (arguments of the training run, what is done to the model before)
ARMS: dict[str, tuple[dict, Callable | None]] = {
    "reference": ({}, None),
    "reference, another seed": ({"seed": 1}, None),
    "without InfoNCE": ({"contrastive_weight": 0.0, "regression_weight": 1.0}, None),
    "without regression": ({"regression_weight": 0.0}, None),
    "lambda 0.3": ({"contrastive_weight": 0.3}, None),
    "lambda 3": ({"contrastive_weight": 3.0}, None),
    "logit scale 10": ({"logit_scale": 10.0}, None),
    "logit scale 40": ({"logit_scale": 40.0}, None),
    "context negatives 0": ({"context_negatives": 0.0}, None),
    "context negatives 1.5": ({"context_negatives": 1.5}, None),
    "context negatives 6": ({"context_negatives": 6.0}, None),
    "uniform negatives, no context": ({"negatives": "uniform", "context_negatives": 0.0}, None),
    "unigram negatives, no context": ({"negatives": "unigram", "context_negatives": 0.0}, None),
    "batch negatives, no context": ({"negatives": "batch", "context_negatives": 0.0}, None),
    "look-ahead, true future": ({"look_ahead": True, "maturation": "simulated"}, None),
    "look-ahead, rollout": ({"look_ahead": True}, None),
    "embryo norm 0": ({"embryo_norm": 0.0}, None),
    "embryo norm 0.5": ({"embryo_norm": 0.5}, None),
    "embryo norm 1": ({"embryo_norm": 1.0}, None),
    "cosine schedule": ({"schedule": "cosine"}, None),
    "geometric, gamma 0.6": ({"schedule": "geometric", "schedule_gamma": 0.6}, None),
    "geometric, gamma 0.8": ({"schedule": "geometric", "schedule_gamma": 0.8}, None),
    "geometric, gamma 0.95": ({"schedule": "geometric", "schedule_gamma": 0.95}, None),
    "power, beta 0.5": ({"schedule": "power", "schedule_beta": 0.5}, None),
    "power, beta 2": ({"schedule": "power", "schedule_beta": 2.0}, None),
    "no maturity embedding": ({}, _frozen(MATURITY)),
    "no FiLM": ({}, _frozen(FILM)),
    "no conditioning": ({}, _frozen(MATURITY, FILM)),
    "frozen embeddings": ({"freeze_embeddings": True}, None),
    "from scratch, same steps": ({}, None),
    "from scratch, 4 x the steps": ({}, None),
}
FAR_AWAY = [name for name in ARMS if name.startswith("from scratch")]  # would squeeze the others in the picture


def arm(lab: Lab, name: str) -> Path:
    """The folder of an ablation's model."""
    changed, prepare = ARMS[name]
    budget, steps, rate = lab.budget, lab.budget.ablation_steps, 6e-4
    if name in FAR_AWAY:
        start, rate = {"backbone": budget.backbone, "tokenizer": str(lab.baseline())}, 1e-3
        steps *= 4 if "4 x" in name else 1
    else:
        start = {"model": str(lab.start())}
    values = {"context_negatives": CONTEXT_NEGATIVES, "per_device_train_batch_size": budget.ablation_batch} | changed
    slug = "arm-" + name.replace(",", "").replace(" ", "-")
    return lab.fit(slug, steps, rate, prepare=prepare, **start, **values)


def study(lab: Lab) -> Finding:
    prompts = lab.prompts(50, count=max(lab.budget.prompts // 2, 4))
    rows = []
    for name in ARMS:
        path = arm(lab, name)
        model = lab.load_tokmat(path)
        for rate, settings in (("paper", PAPER), ("consistent", CONSISTENT)):
            if rate == "paper" or name in ("reference", "cosine schedule") or name.startswith(("geometric", "power")):
                runs = lab.continuations(model, prompts, [0], **settings)
                row = {"arm": name, "rate": rate} | lab.held_out_loss(path) | lab.measure(runs, prompts)
                rows.append(row)
        lab.say(
            f"{name}: held-out {row['eval_perplexity']:.1f}, Loop {row['loop']:.2f}, "
            f"judge {row['judge_perplexity']:.2f}"
        )
    return concluded(lab, rows)


def concluded(lab: Lab, rows: list[dict]) -> Finding:
    told, noise = summary([row for row in rows if row["rate"] == "paper"])
    return Finding(
        claim="Both loss terms, the conditioning and the choice of negatives matter.",
        finding=told,
        verdict=lab.verdict("measured"),
        rows=rows,
        figure=draw(rows),
        text=f"Noise between two training seeds of the reference: {noise}. Reference: all negatives, regression "
        f"weight 0.1, lambda 1, logit scale 20, context negatives {CONTEXT_NEGATIVES:g}, one simulated tail of 1 to "
        f"32 slots on half the rows, linear schedule, embryo norm 0.1; {lab.budget.ablation_steps} steps of "
        f"{lab.budget.ablation_batch} x {lab.budget.block} tokens from the converted baseline. Decoded at K = 8. "
        "Held-out perplexity is of the implied distribution, which context negatives and sampled negatives tilt on "
        "purpose and another logit scale rescales, so it compares only arms that share them; the judge compares all.",
    )


def summary(rows: list[dict]) -> tuple[str, str]:
    """Which arms leave the 95 % interval of the reference, in what."""
    reference, twin = rows[0], rows[1]
    names = {"judge_perplexity": "Judge perplexity", "loop": "Loop"}
    parts, moved = [], set()
    for name, label in names.items():
        low, high = (
            op(reference[f"{name}_{end}"], twin[f"{name}_{end}"]) for op, end in ((min, "low"), (max, "high"))
        )
        above = [f"{row['arm']} ({row[name]:.2f})" for row in rows[2:] if row[f"{name}_low"] > high]
        below = [f"{row['arm']} ({row[name]:.2f})" for row in rows[2:] if row[f"{name}_high"] < low]
        moved |= {row["arm"] for row in rows[2:] if row[f"{name}_low"] > high or row[f"{name}_high"] < low}
        parts.append(f"{label} of the reference {reference[name]:.2f}; clearly higher: {', '.join(above) or 'none'}; "
                     f"clearly lower: {', '.join(below) or 'none'}")  # fmt: skip
    noise = ", ".join(f"{label} {reference[name]:.2f} and {twin[name]:.2f}" for name, label in names.items())
    still = [row["arm"] for row in rows[2:] if row["arm"] not in moved]
    parts.append(f"Neither is changed clearly by: {', '.join(still) or 'none of them'}")
    return ". ".join(parts) + ".", noise


def draw(rows: list[dict]):
    names = [row["arm"] + ("" if row["rate"] == "paper" else " (consistent)") for row in rows]
    figure, axes = plt.subplots(1, 3, figsize=(12, 0.24 * len(rows) + 1), sharey=True, layout="constrained")
    places = np.arange(len(rows))[::-1]
    for axis, name, label in zip(axes, ("loop", "rep_2", "judge_perplexity"), ("Loop", "Rep-2", "judge perplexity")):
        middle, low, high = (np.array([row[name + end] for row in rows]) for end in ("", "_low", "_high"))
        axis.errorbar(middle, places, xerr=(middle - low, high - middle), fmt="o", ms=4, capsize=2)
        shown = [row["arm"] not in FAR_AWAY for row in rows]
        edge = 1.05 * high[shown].max()
        axis.set_xlim(0.95 * low.min(), edge)
        for place, value in zip(places[middle > edge], middle[middle > edge]):
            axis.text(edge, place, f"{value:.3g} \N{RIGHTWARDS ARROW} ", ha="right", va="center", fontsize=8)
        axis.axvspan(low[0], high[0], alpha=0.15, color="tab:green")
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_ylim(-1, len(rows))
    axes[0].set_yticks(places, names, fontsize=8)
    return figure
