# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What makes a tail know what comes next: each idea trained alone, from one base (docs/LOOKAHEAD.md)."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ..arguments import EvaluateArguments
from ..data import load_documents
from ..evaluation.look_ahead import what_the_tail_knows
from ..evaluation.prompts import Prompts
from ..own_text import document_prompts, draw_batches, write_own_text
from .lab import TAIL_LENGTH, Finding, Lab, with_ends, write_documents

NEW_TOKENS = 50
BASE: dict[str, Any] = {"context_negatives": 2.0, "film_scope": "tail"}
OWN_TEXTS = {"small": 64, "full": 4096}  # by budget
LONG, ON = 3.2, 1.12  # times the steps of the other arms
ENDS = ("", "_low", "_high")
LENGTHS = (4, 16)  # the other tail lengths that a tail is trained for and judged at
VERIFIED_PROMPTS = 20


@dataclass(frozen=True)
class Arm:
    """
    Args:
        values: of the training run. length: of it, in the budget's look-ahead steps.
        own: share of the rows in which the model's own text trains the tails; "mixed": half of the text is the
            model's own, as ordinary text. after: the arm whose model is trained on, instead of the base.
    """

    values: dict[str, Any] = field(default_factory=dict)
    own: float | str | None = None
    length: float = 1.0
    after: str | None = None


LOOK_AHEAD: dict[str, Any] = {"look_ahead": True}
SIXTEEN = LOOK_AHEAD | {"rollout_passes": 2, "parallel_tails": 16, "parallel_slots": 0}
JUMP = LOOK_AHEAD | {"rollout_jump": 2}
MANY = JUMP | {"parallel_tails": 64}
REFERENCE, WRITER = "paper", "rollout-16"
ARMS = {
    REFERENCE: Arm({"clean_probability": 0.5}),
    "parallel": Arm(SIXTEEN | {"maturation": "simulated"}),
    WRITER: Arm(SIXTEEN),
    "rollout": Arm(LOOK_AHEAD),
    "rollout-2": Arm(LOOK_AHEAD | {"rollout_passes": 2}),
    "own-mixed": Arm(SIXTEEN, own="mixed"),
    "own-half": Arm(SIXTEEN, own=0.5),
    "own-quarter": Arm(LOOK_AHEAD, own=0.25),
    "own-quarter-jump": Arm(JUMP, own=0.25),
    "paper-long": Arm({"clean_probability": 0.5}, length=LONG),
    "own-long": Arm(MANY, own=0.4, length=LONG),
    "own-long-on": Arm(MANY, own=0.15, length=ON, after="own-long"),
} | {f"rollout-K{k}": Arm(LOOK_AHEAD | {"min_tail_length": k, "max_tail_length": k}) for k in LENGTHS}


def train_arm(lab: Lab, name: str) -> Path:
    """The folder of an idea's model."""
    arm, values = ARMS[name], dict(BASE)
    data: str | list[str] = "train"
    if arm.own == "mixed":
        data, values["validation_data"] = mixed_text(lab), [str(lab.texts["held-out"])]
    elif arm.own is not None:
        values |= {"tail_data": [str(own_text(lab))], "tail_share": arm.own}
    start = base(lab) if arm.after is None else train_arm(lab, arm.after)
    steps = max(round(arm.length * lab.budget.look_ahead_steps), 1)
    return lab.fit(f"ahead-{name}", steps, 4e-4, data=data, model=str(start), **values | arm.values)


def base(lab: Lab) -> Path:
    """Repelled by its past; its tail has not been trained."""
    values = BASE | {"model": str(lab.start()), "clean_probability": 1.0}
    return lab.fit("ahead-base", lab.budget.base_steps, 6e-4, **values)


def own_text(lab: Lab) -> Path:
    """What the model of `WRITER` writes after beginnings of the training text; a killed writing goes on."""
    path, texts = lab.folder / "data" / "own.jsonl", OWN_TEXTS[lab.budget.name]
    model, documents = lab.load_tokmat(train_arm(lab, WRITER)), load_documents(str(lab.texts["train"]))
    prompts = document_prompts(documents, lab.tokenizer, "train", seed=0, add_bos=True)
    batches = draw_batches([("the training text", prompts)], [1.0], batch_size=64, texts=texts, seed=0)
    write_own_text(model, lab.tokenizer, batches, path, {"max_new_tokens": 160, "stop_loops": False})
    return path


def mixed_text(lab: Lab) -> list[str]:
    """The model's own text, and as much of the training text."""
    own, characters, kept = own_text(lab), 0, []
    limit = sum(map(len, load_documents(str(own))["text"]))
    for text in lab.documents[0]["text"]:
        kept.append(text)
        characters += len(text)
        if characters >= limit:
            break
    return [str(write_documents(lab.folder / "data" / "some.txt", kept)), str(own)]


def measure_arm(lab: Lab, name: str, prompts: Prompts, judge, tail_length: int = TAIL_LENGTH) -> dict:
    """A row of the table: what the tail knows at K = `tail_length`, and the text."""
    path = train_arm(lab, name)
    model = lab.load_tokmat(path)
    options = EvaluateArguments(data=[], look_ahead=tail_length, new_tokens=NEW_TOKENS)
    options.verified_prompts = VERIFIED_PROMPTS
    settings = {"tail_length": tail_length}
    known = what_the_tail_knows(model, prompts, options, settings, lambda count, description: None)
    row: dict[str, Any] = {"model": name, "tail_length": tail_length}
    for key, value in known.items():
        row |= with_ends(key, value) if isinstance(value, tuple) else {key: value}
    row |= lab.measure(lab.continuations(model, prompts, **settings), prompts, judge)
    state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    seconds = [entry["train_runtime"] for entry in state["log_history"] if "train_runtime" in entry]
    return row | lab.held_out_loss(path) | {"minutes": seconds[-1] / 60}


def study(lab: Lab) -> Finding:
    prompts, judge, rows = lab.prompts(NEW_TOKENS), lab.load(lab.baseline()), []
    for name in ARMS:
        own_length = next((k for k in LENGTHS if name == f"rollout-K{k}"), TAIL_LENGTH)
        rows.append(measure_arm(lab, name, prompts, judge, own_length))
        if own_length != TAIL_LENGTH:
            rows.append(measure_arm(lab, "rollout", prompts, judge, own_length))
        lab.say(f"{name}: slot 2 foresees {rows[-1]['tail_acc_2']:.0%}")
    found = {row["model"]: row for row in rows if row["tail_length"] == TAIL_LENGTH}
    reference, best = found[REFERENCE], max(found.values(), key=lambda row: row["tail_acc_2"])
    parts = [
        f"{row['model']} {row['tail_acc_2']:.0%} [{row['tail_acc_2_low']:.0%}, {row['tail_acc_2_high']:.0%}]"
        for row in (reference, found["rollout"], found["own-quarter"], best)
    ]
    held_out = f"{reference['eval_perplexity']:.2f} of {REFERENCE}, {best['eval_perplexity']:.2f} of {best['model']}"
    return Finding(
        claim="The tail of the paper's recipe foresees little; one that is trained on what decoding leaves in its "
        "slots knows what comes next, and more so on text that the model wrote.",
        finding=f"Slot 2 holds what is committed there later in these shares of steps: {', '.join(parts)}. Verified "
        f"commits of {best['model']} take {best['verified_tokens_per_forward']:.2f} tokens per forward. Held-out "
        f"perplexity {held_out}.",
        verdict=lab.verdict(
            found["rollout"]["tail_acc_2_low"] > reference["tail_acc_2_high"]
            and found["own-quarter"]["tail_acc_2_low"] > found["rollout"]["tail_acc_2_high"]
        ),
        rows=rows,
        figure=draw(list(found.values()), reference),
        pictures={name: draw([row], reference) for name, row in found.items() if name != REFERENCE},
        text=table(rows) + "\n\nFront commits; the judge is the autoregressive model that all of them come from, so "
        "its perplexities compare these rows with one another and nothing else.",
    )


def draw(rows: list[dict], reference: dict):
    """A panel per model: what every slot knows, beside the reference."""
    rows = [row for row in rows if row is not reference]
    across = min(len(rows), 3)
    down = -(-len(rows) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(6 * across, 3 * down), squeeze=False, sharey=True, layout="constrained"
    )
    slots = np.arange(1, TAIL_LENGTH + 1)
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for axis, row in zip(axes.flat, rows):
        for shown, offset, color in ((reference, -0.2, "#b0b7c3"), (row, 0.2, "#2f6fde")):
            middle, low, high = (np.array([shown[f"tail_acc_{slot}{end}"] for slot in slots]) for end in ENDS)
            bars = {"color": color, "label": shown["model"], "ecolor": "#555", "error_kw": {"lw": 0.8}}
            axis.bar(slots + offset, middle, 0.38, yerr=(middle - low, high - middle), **bars)
        axis.set(title=row["model"], xlabel="slot k of the tail", ylabel="holds what is committed later")
        axis.set(ylim=(0, 1.02), xticks=slots)
        axis.legend(frameon=False, fontsize=8)
    return figure


def table(rows: list[dict]) -> str:
    heads = ["", "K", "tail_acc_2 %", "3 %", "4 %", "with guidance 2: 2 %", "tokens per forward", "Rep-2 %", "Loop %"]
    heads += ["judge ppl", "held-out ppl", "minutes"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        names = ["tail_acc_2", "tail_acc_3", "tail_acc_4", "guided_tail_acc_2"]
        shares = {name: _percent(row, name) for name in (*names, "rep_2", "loop")}
        cells = [row["model"], str(row["tail_length"]), *(shares[name] for name in names)]
        cells += [f"{row['verified_tokens_per_forward']:.2f}", shares["rep_2"], shares["loop"]]
        cells += [f"{row[name]:.2f}" for name in ("judge_perplexity", "eval_perplexity")]
        lines.append("| " + " | ".join([*cells, f"{row['minutes']:.1f}"]) + " |")
    return "\n".join(lines)


def _percent(row: dict, name: str) -> str:
    """A share and half of its interval."""
    return f"{100 * row[name]:.1f} ±{50 * (row[f'{name}_high'] - row[f'{name}_low']):.1f}"
