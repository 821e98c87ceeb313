# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Where does diversity come from? Each cause alone, in what it changes of repetition and of quality."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from modeling_tokmat.maturation_tokmat import low_norm_noise

from ..evaluation.measures import interval, per_prompt
from .ablations import arm
from .lab import TAIL_LENGTH, Finding, Lab, with_ends

PLAIN = {"tail_length": 1, "alpha_max": 1.0}  # nearest neighbour of z^: greedy decoding of the implied distribution
TAIL = {"tail_length": TAIL_LENGTH, "alpha_max": 0.9, "embryo_norm": 0.0}
NOISE = [
    {"tail_length": 1, "alpha_max": alpha, "embryo_norm": norm}
    for alpha in (0.9, 0.7, 0.5)
    for norm in (0.5, 1.0, 2.0)
]
# cause: (settings, settings of what it is compared with)
CAUSES: dict[str, list[tuple[dict, dict]]] = {
    "embryo noise": [(settings, PLAIN) for settings in NOISE],
    "blending over the tail": [
        ({"tail_length": length, "embryo_norm": 0.0, "alpha_max": alpha, "rate": rate}, PLAIN)
        for length in (4, 8, 16)
        for rate, alpha in (("paper", 0.9), ("consistent", 1.0))
    ],
    "guidance": [(TAIL | {"guidance_scale": scale}, TAIL) for scale in (1.5, 2.0, 3.0)],
    "history noise": [(PLAIN | {"history_noise": noise}, PLAIN) for noise in (0.1, 0.3, 0.6)]
    + [(PLAIN | {"history_smoothing": 0.3}, PLAIN)],
}
NEGATIVES = {
    "context negatives 0": "all (likelihood)",
    "uniform negatives, no context": "uniform (likelihood)",
    "unigram negatives, no context": "unigram (mutual information)",
    "batch negatives, no context": "batch (mutual information)",
    "context negatives 1.5": "all + past, 1.5 nats",
    "reference": "all + past, 3 nats",
    "context negatives 6": "all + past, 6 nats",
}
SOURCE = "negative source"
PLAIN_ARM = "context negatives 0"  # likelihood alone: the weights that loop, against which every cause is measured
METRICS = ("loop", "rep_2", "judge_nll")


def derived_temperature(settings: dict, logit_scale: float, dim: int, predicted_norm: float) -> float:
    """Temperature of Gumbel (that is, of ordinary) sampling whose noise has the spread of the embryo's.

    A vector committed by a tail of one slot is a z^ + (1 - a) n with |n| = embryo_norm in units of R. Along any
    embedding n has standard deviation embryo_norm / sqrt(d), so that relative to logits l cos(z^, e) the noise of the
    scores has s = l (1 - a) embryo_norm / (a |z^| sqrt(d)); sampling at T adds Gumbel noise of standard deviation
    T pi / sqrt(6).

    Args:
        settings: alpha_max (a) and embryo_norm. predicted_norm: mean |z^| / R.
    """
    alpha, norm = settings["alpha_max"], settings["embryo_norm"]
    noise = logit_scale * (1 - alpha) * norm / (alpha * predicted_norm * math.sqrt(dim))
    return noise * math.sqrt(6) / math.pi


@torch.no_grad()
def predictions(model, ids: torch.Tensor) -> torch.Tensor:
    """z^ at every position of `ids`, (positions, d), in units of R."""
    predicted = model(ids, use_cache=False, logits_to_keep=torch.empty(0, dtype=torch.long)).predicted_embeds
    return predicted.flatten(0, 1).float() / model.embedding_radius


@torch.no_grad()
def changed_by_noise(model, predicted: torch.Tensor, settings: dict, draws: int = 4) -> float:
    """Share of positions whose nearest token embryo noise changes."""
    alpha, norm = settings["alpha_max"], settings["embryo_norm"]
    plain, changed = model.implied_logits(predicted).argmax(-1), []
    for seed in range(draws):
        count, dim = predicted.shape
        noise = low_norm_noise(count, dim, norm, seed).to(predicted)
        changed.append(
            (model.implied_logits(alpha * predicted + (1 - alpha) * noise).argmax(-1) != plain).float().mean()
        )
    return float(torch.stack(changed).mean())


@torch.no_grad()
def measured_temperature(model, predicted: torch.Tensor, share: float) -> float:
    """Temperature at which sampling leaves the argmax of `predicted` in `share` of the positions, by bisection of
    1 - mean p_max(T)."""
    logits = model.implied_logits(predicted).double()
    low, high = 1e-3, 10.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        left = 1 - float(torch.softmax(logits / middle, -1).amax(-1).mean())
        low, high = (middle, high) if left < share else (low, middle)
    return middle


def study(lab: Lab) -> Finding:
    prompts = lab.prompts(50)
    model = lab.load_tokmat(arm(lab, PLAIN_ARM))

    def values(decoder, settings):
        return per_prompt(lab.continuations(decoder, prompts, [0], **settings), prompts, lab.judge)

    rows, known = [], {}
    predicted = predictions(model, prompts.ids.to(lab.device))
    size = float(predicted.norm(dim=-1).mean())
    for cause, pairs in CAUSES.items():
        for settings, against in pairs:
            key = str(against)
            known.setdefault(key, values(model, against))
            row = {"cause": cause, "setting": _name(settings, against)} | compared(values(model, settings), known[key])
            if cause == "embryo noise":
                share = changed_by_noise(model, predicted, settings)
                row["temperature_derived"] = derived_temperature(
                    settings, model.config.logit_scale, model.config.hidden_size, size
                )
                row["temperature_measured"] = measured_temperature(model, predicted, share)
                row["tokens_changed"] = share
            rows.append(row)
            lab.say(f"{cause}, {row['setting']}: Loop {row['loop']:.2f}, judge {row['judge_perplexity']:.2f}")
    plain = known[str(PLAIN)]
    for name, label in NEGATIVES.items():
        found = plain if name == PLAIN_ARM else values(lab.load_tokmat(arm(lab, name)), PLAIN)
        rows.append({"cause": SOURCE, "setting": label} | compared(found, plain))
    recipe = values(lab.load_tokmat(lab.base()), PLAIN)
    rows.append({"cause": "whole recipe", "setting": "tokmat, K = 1"} | compared(recipe, plain))
    human = per_prompt([prompts.human], prompts, lab.judge)
    rows.append({"cause": "human", "setting": "human"} | compared(human, plain))
    return Finding(
        claim="Beyond the paper: how much of Loop and of the judge's perplexity is each cause's?",
        finding=told(rows),
        verdict=lab.verdict("measured"),
        rows=rows,
        figure=draw(rows),
        text="Changes are paired by prompt, with 95 % bootstrap intervals: everything against weights of "
        "likelihood alone (`all` negatives, a short fine-tune), decoded at K = 1 without noise (guidance: at K = 8 "
        "without guidance). temperature_derived: from the norms (`derived_temperature`); "
        "temperature_measured: at which sampling leaves the argmax as often as embryo noise does.",
    )


def _name(settings: dict, against: dict) -> str:
    changed = {name: value for name, value in settings.items() if against.get(name) != value}
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "plain"


def compared(found: dict, against: dict) -> dict:
    """Means, and the paired changes with their intervals; the judge's in nats per token."""
    row = {"loop": float(found["loop"].mean()), "rep_2": float(found["rep_2"].mean())}
    row["judge_perplexity"] = math.exp(float(found["judge_nll"].mean()))
    for name in METRICS:
        ends = interval(found[name] - against[name])
        row |= with_ends(f"{name}_change", ends)
    return row


def told(rows: list[dict]) -> str:
    """The strongest setting of each cause, by what it takes from Loop."""
    parts = []
    for cause in [*CAUSES, SOURCE]:
        chosen = [row for row in rows if row["cause"] == cause]
        best = min(chosen, key=lambda row: row["loop_change"])
        parts.append(
            f"{cause}: at most {best['loop_change']:+.2f} Loop [{best['loop_change_low']:+.2f}, "
            f"{best['loop_change_high']:+.2f}] at {best['judge_nll_change']:+.2f} nats ({best['setting']})"
        )
    temperatures = [row for row in rows if "temperature_derived" in row]
    ratio = np.median([row["temperature_measured"] / row["temperature_derived"] for row in temperatures])
    return "; ".join(parts) + f". Embryo noise acts like sampling at a temperature {ratio:.2f} times the derived one."


def draw(rows: list[dict]):
    colors = dict(zip([*CAUSES, SOURCE, "whole recipe", "human"], map(plt.get_cmap("tab10"), range(10))))
    figure, axes = plt.subplot_mosaic([["loop", "nll"], ["loop", "nll"], ["noise", "noise"]], layout="constrained",
                                      figsize=(11, 0.21 * len(rows) + 5))  # fmt: skip
    places = np.arange(len(rows))[::-1]
    for panel, name, label in (
        ("loop", "loop_change", "change of Loop (left: less repetition)"),
        ("nll", "judge_nll_change", "change of the judge's nats (left: better)"),
    ):
        axis = axes[panel]
        for place, row in zip(places, rows):
            spread = [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]
            axis.errorbar(row[name], place, xerr=spread, fmt="o", ms=4, capsize=2, color=colors[row["cause"]])
        axis.axvline(0, color="gray", lw=0.8)
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
    axes["loop"].set_yticks(places, [f"{row['cause']}: {row['setting']}" for row in rows], fontsize=7)
    axes["nll"].set_yticks(places, [])
    noise = [row for row in rows if "temperature_derived" in row]
    derived, measured = ([row[f"temperature_{kind}"] for row in noise] for kind in ("derived", "measured"))
    axes["noise"].scatter(derived, measured)
    largest = max(*derived, *measured)
    axes["noise"].plot([0, largest], [0, largest], color="gray", lw=0.8)
    axes["noise"].set(xlabel="temperature derived from the norms", ylabel="measured", title="embryo noise as sampling")
    return figure
