# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Four failures and their detectors, tried on models made to fail and on one that was not."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from ..evaluation import failures
from ..evaluation.decoders import continue_prompts
from .lab import RECIPE, TAIL_LENGTH, Finding, Lab

NEW_TOKENS = 50
DETECTORS = ("mode collapse", "divergence", "premature commitment", "poor diversity")
HEALTHY = "healthy"
# What each model was made to do must be seen, and the healthy one must pass. True: must fire; False: must not. None:
# one failure may well bring another along (a model that says one word everywhere repeats itself): not judged.
EXPECTED = {
    HEALTHY: (False, False, False, False),
    "no contrastive term": (True, False, None, None),
    "learning rate 0.3": (None, True, None, None),
    "guidance 30": (False, True, None, None),
    "maturity at most 0.05": (False, False, True, None),
    "no context negatives": (False, False, False, True),
}


def made_to_fail(lab: Lab) -> dict[str, tuple]:
    """Folder of a model and generation settings for each name in `EXPECTED`.

    Three models are trained with one wrong setting each; two are the healthy one, decoded wrongly.
    """
    budget, healthy = lab.budget, lab.tokmat()
    given: dict[str, Any] = {
        "data": str(lab.texts["train"]),
        "validation_fraction": 0.0,
        "per_device_train_batch_size": budget.ablation_batch,
    }
    # Regression alone learns the mean of what may follow, first of all the mean of all text. The rate is high because
    # a fresh head is the identity, far from a constant.
    collapsed: dict[str, Any] = {"contrastive_weight": 0.0, "regression_weight": 1.0}
    collapsed |= {"backbone": budget.backbone, "tokenizer": str(lab.baseline())}
    repetitive: dict[str, Any] = {"model": str(lab.start()), "look_ahead": True, "context_negatives": 0.0}
    wild = {"model": str(lab.start())} | RECIPE
    steps = budget.ablation_steps
    return {
        HEALTHY: (healthy, {}),
        "no contrastive term": (lab.fit("failing-collapse", 100, 1e-2, **collapsed, **given), {}),
        "learning rate 0.3": (lab.fit("failing-divergence", 10, 0.3, **wild, **given), {}),
        "guidance 30": (healthy, {"guidance_scale": 30.0}),
        "maturity at most 0.05": (healthy, {"alpha_max": 0.05}),
        "no context negatives": (lab.fit("failing-diversity", steps, 6e-4, **repetitive, **given), {}),
    }


@torch.no_grad()
def examine(model, prompts, **settings) -> tuple[dict[str, list[failures.Signal]], torch.Tensor]:
    """The signals of every detector, and the continuations (n, new tokens)."""
    settings = {"tail_length": TAIL_LENGTH, "output_maturation": "vectors", **settings}
    output = continue_prompts(model, prompts.ids.to(model.device), prompts.human.shape[1], **settings)
    written = output.sequences[:, prompts.ids.shape[1] :].cpu()
    found = (
        failures.mode_collapse(model, torch.cat([prompts.ids, prompts.human], dim=1)),
        failures.divergence(output.maturation),
        failures.premature_commitment(model, output.sequences, output.maturation, settings["tail_length"]),
        failures.poor_diversity(written, prompts.ids, prompts.human),
    )
    return dict(zip(DETECTORS, found)), written


def study(lab: Lab) -> Finding:
    prompts = lab.prompts(NEW_TOKENS, count=min(lab.budget.prompts, 64))
    signals, samples = {}, []
    rows: list[dict[str, Any]] = []
    for name, (path, settings) in made_to_fail(lab).items():
        signals[name], written = examine(lab.load_tokmat(path), prompts, **settings)
        samples.append(f"{name}: {' '.join(lab.tokenizer.decode(written[0]).split())}")
    wrong = []
    for name, by_detector in signals.items():
        for (detector, found), expected in zip(by_detector.items(), EXPECTED[name]):
            fired = failures.fires(found)
            if expected is not None and fired != expected:
                wrong.append(f"{detector} on {name!r} ({'fired' if fired else 'silent'})")
            rows += [
                {
                    "model": name,
                    "detector": detector,
                    "signal": signal.name,
                    "value": signal.value,
                    "threshold": signal.threshold,
                    "signal_fired": signal.fired,
                    "fired": fired,
                    "should_fire": "" if expected is None else expected,
                }
                for signal in found
            ]
    asked = sum(expected is not None for row in EXPECTED.values() for expected in row)
    closest = max((row for row in rows if row["model"] == HEALTHY), key=lambda row: row["value"] / row["threshold"])
    raised = {row["signal"] for row in rows if row["signal_fired"]}
    silent = ", ".join(dict.fromkeys(row["signal"] for row in rows if row["signal"] not in raised))
    right = "each where it should" if not wrong else "wrong: " + ", ".join(wrong)
    prompt = lab.tokenizer.decode(prompts.ids[0], skip_special_tokens=True)
    return Finding(
        claim="Each of four failures can be told by its detector, which stays silent on a healthy model.",
        finding=f"{asked - len(wrong)} of {asked} expected answers of {len(DETECTORS)} detectors on {len(signals)} "
        f"models came, {right}. On the healthy model the signal nearest to its threshold is {closest['signal']}: "
        f"{closest['value']:.2f}, threshold {closest['threshold']:.2f}."
        + (f" Signals that no model raised: {silent}." if silent else ""),
        verdict=lab.verdict(not wrong),
        rows=rows,
        figure=_figure(rows),
        text="\n".join([f"What the models write after {prompt!r}:", "", "```", *samples, "```"]),
    )


def _figure(rows):
    models = list(EXPECTED)
    columns = list(dict.fromkeys((row["detector"], row["signal"], row["threshold"]) for row in rows))
    figure, axis = plt.subplots(figsize=(12, 4.4), layout="constrained")
    heat = np.zeros((len(models), len(columns)))
    for row in rows:
        place = models.index(row["model"]), columns.index((row["detector"], row["signal"], row["threshold"]))
        ratio = row["value"] / row["threshold"]
        heat[place] = np.clip(math.log2(ratio), -3, 3) if 0 < ratio < math.inf else -3 if ratio == 0 else 3
        axis.text(*place[::-1], f"{row['value']:.2g}", ha="center", va="center",
                  weight="bold" if row["signal_fired"] else "normal")  # fmt: skip
        if row["should_fire"] != "":
            mark = {True: "must fire", False: "must not"}[row["should_fire"]]
            if columns[place[1] - 1][0] != row["detector"] or place[1] == 0:
                axis.text(place[1] - 0.46, place[0] - 0.45, mark, fontsize=7, va="top", color="0.25")
    image = axis.imshow(heat, cmap="coolwarm", vmin=-4, vmax=4, aspect="auto")
    for place in range(1, len(columns)):
        if columns[place][0] != columns[place - 1][0]:
            axis.axvline(place - 0.5, color="black", linewidth=1.5)
    axis.set_yticks(range(len(models)), models)
    axis.set_xticks(range(len(columns)), [f"{name}\n> {threshold:.2g}" for _, name, threshold in columns], fontsize=9)
    heads = axis.secondary_xaxis("top")
    heads.set_xticks([np.mean([place for place, column in enumerate(columns) if column[0] == detector])
                      for detector in DETECTORS], DETECTORS)  # fmt: skip
    heads.tick_params(length=0)
    axis.set(xlabel="signal, and where it fires (bold: fired)", ylabel="model")
    figure.colorbar(image, ax=axis, label="log2(value / threshold)", ticks=range(-3, 4))
    return figure
