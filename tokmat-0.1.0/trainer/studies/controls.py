# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What each control of decoding does to a pretrained model's text, by its dose (paper v3, "Projected Autoregression").

K = 1 and alpha_max = 1, the immediate projection: undisturbed it is the model's own greedy text, so whatever changes
is the control's doing. `guidance_scale` is left out, as without a tail there is nothing to guide. Beside them the
baseline of token space with as much computing: of 16 samples the one that repeats least, and the likeliest one.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from ..evaluation.decoders import continue_prompts, write
from ..evaluation.measures import interval, judge_nll, per_prompt
from ..evaluation.prompts import Prompts
from .lab import Finding, Lab, with_ends
from .pretrained import PROMPT_TOKENS, Bench

DOSES = {
    "history_noise": (0.1, 0.2, 0.4, 0.8, 1.6),
    "history_smoothing": (0.05, 0.1, 0.2, 0.4),
    "dynamics_noise": (0.1, 0.2, 0.4, 0.8, 1.6),
    "direction_rate": (0.95, 0.8, 0.6, 0.4),
}
NUCLEUS = {"do_sample": True, "top_p": 0.95, "top_k": 0}
IMMEDIATE = {"tail_length": 1, "alpha_max": 1.0}
SAMPLES = 16


@torch.no_grad()
def study(lab: Lab) -> Finding:
    bench, new_tokens = Bench(lab), lab.budget.lengths[0]
    prompts = bench.prompts(max(bench.size.prompts * 3 // 4, 3), new_tokens)
    model = bench.load()

    def written(**settings):
        return continue_prompts(model, prompts.ids.to(lab.device), new_tokens, **IMMEDIATE | settings).sequences[
            :, PROMPT_TOKENS:
        ].cpu()  # fmt: skip

    undisturbed = written()
    rows = [measured(bench, "none", 0.0, undisturbed, undisturbed, prompts)]
    rows.append(measured(bench, "human", 0.0, prompts.human, undisturbed, prompts))
    for name, doses in DOSES.items():
        for dose in doses:
            rows.append(measured(bench, name, dose, written(**{name: dose}), undisturbed, prompts))
            lab.say(f"{name} {dose:g}: {rows[-1]['changed']:.0%} changed, {rows[-1]['bits']:.2f} bits per byte")
    for name, ids in best_of(lab.load(Path(bench.source)), prompts, new_tokens).items():
        rows.append(measured(bench, name, SAMPLES, ids, undisturbed, prompts))
    return concluded(lab, rows)


def measured(bench: Bench, name: str, dose: float, ids, undisturbed, prompts: Prompts) -> dict:
    found = per_prompt([ids], prompts)
    found = {measure: found[measure] for measure in ("rep_2", "rep_3")}
    found |= {"bits": bench.bits(prompts.ids, ids, [ids.shape[1]])[0][:, 0]}
    found |= {"changed": (ids != undisturbed).float().mean(dim=1).numpy()}
    row: dict = {"control": name, "dose": dose, "prompts": len(ids)}
    for measure, values in found.items():
        row |= with_ends(measure, interval(values))
    return row


def best_of(model, prompts: Prompts, new_tokens: int) -> dict[str, torch.Tensor]:
    """Per prompt, of `SAMPLES` nucleus samples the one that repeats least (Rep-2) and the likeliest."""
    torch.manual_seed(0)
    found: dict[str, list] = {f"least repeated of {SAMPLES}": [], f"likeliest of {SAMPLES}": []}
    for ids in prompts.ids:
        given = Prompts(ids.expand(SAMPLES, -1), ids.expand(SAMPLES, -1))
        written = write("samples", model, given, new_tokens, SAMPLES, [0], **NUCLEUS).runs[0]
        repeats = per_prompt([written], given)["rep_2"]
        likely = judge_nll(model, given.ids, written)
        for parts, place in zip(found.values(), (int(np.argmin(repeats)), int(likely.argmin()))):
            parts.append(written[place])
    return {name: torch.stack(parts) for name, parts in found.items()}


# -- what is concluded ------------------------------------------------------------------------------------------------


def ranges(rows: list[dict]) -> dict[str, float | None]:
    """By control, the strongest dose up to which every text is coherent: people's bits per byte or fewer, up to the
    upper end of their interval; None where no dose is."""
    most = next(row["bits_high"] for row in rows if row["control"] == "human")
    found: dict[str, float | None] = {}
    for name, doses in DOSES.items():
        bits = {row["dose"]: row["bits"] for row in rows if row["control"] == name}
        found[name] = None
        for dose in doses:
            if bits[dose] > most:
                break
            found[name] = dose
    return found


def concluded(lab: Lab, rows: list[dict]) -> Finding:
    by_name = {row["control"]: row for row in rows}
    none, human = by_name["none"], by_name["human"]
    told = []
    for name, dose in ranges(rows).items():
        if dose is None:
            told.append(f"{name}: no dose leaves the text coherent")
            continue
        row = next(row for row in rows if (row["control"], row["dose"]) == (name, dose))
        told.append(
            f"{name} to {dose:g}: {row['changed']:.0%} of tokens changed, Rep-2 {row['rep_2']:.3f}, "
            f"{row['bits']:.2f} bits"
        )
    samples = [row for row in rows if row["dose"] == SAMPLES]
    told += [f"{row['control']}: Rep-2 {row['rep_2']:.3f}, {row['bits']:.2f} bits" for row in samples]
    helps = [
        row["rep_2"] < none["rep_2_low"] and row["bits"] <= human["bits_high"]
        for row in rows
        if row["control"] in DOSES
    ]
    return Finding(
        claim="Noise in what is committed, smoothing of it, noisy updates and slower turning are controls: up to some "
        "dose each changes the text, less repetition included, and leaves it coherent.",
        finding=f"Undisturbed: Rep-2 {none['rep_2']:.3f}, {none['bits']:.2f} bits per byte (people "
        f"{human['bits']:.2f}, to {human['bits_high']:.2f}). Coherent doses: {'; '.join(told)}.",
        verdict=lab.verdict(any(helps)),
        rows=rows,
        figure=draw(rows),
    )


def draw(rows: list[dict]):
    figure, axes = plt.subplots(3, len(DOSES), figsize=(3 * len(DOSES), 7), sharey="row", layout="constrained")
    by_name = {row["control"]: row for row in rows}
    labels = {"rep_2": "Rep-2", "bits": "bits per byte", "changed": "tokens changed"}
    for column, name in enumerate(DOSES):
        start = 1.0 if name == "direction_rate" else 0.0
        for axis, (measure, label) in zip(axes[:, column], labels.items()):
            chosen = [by_name["none"] | {"dose": start}, *(row for row in rows if row["control"] == name)]
            low, middle, high = ([row[measure + end] for row in chosen] for end in ("_low", "", "_high"))
            axis.plot([row["dose"] for row in chosen], middle, marker="o")
            axis.fill_between([row["dose"] for row in chosen], low, high, alpha=0.2)
            if measure != "changed":
                axis.axhspan(*(by_name["human"][measure + end] for end in ("_low", "_high")), color="gray", alpha=0.3)
            axis.set(xlabel=name if measure == "changed" else "", ylabel=label if column == 0 else "")
    return figure
