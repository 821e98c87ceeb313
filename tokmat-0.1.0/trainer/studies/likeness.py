# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""MAUVE of a pretrained model's texts: how like people's they are as a whole."""

import json

import matplotlib.pyplot as plt
import numpy as np
import torch

from ..evaluation.decoders import write
from ..evaluation.mauve import LEAST, between_halves, mauve_scores, summary
from ..evaluation.measures import per_prompt
from ..evaluation.prompts import Prompts
from .decoding import SAMPLING, decoders
from .lab import Finding, Lab, slug, with_ends
from .peers import SEQUENCE
from .pretrained import Bench

NEW_TOKENS = 50
WINDOWS = {"small": LEAST, "full": 200}


def study(lab: Lab) -> Finding:
    bench = Bench(lab)
    wanted = ("human", SEQUENCE, "greedy", "penalty 1.1", "penalty 1.2", *SAMPLING)
    prompts = bench.prompts(WINDOWS[lab.budget.name], NEW_TOKENS)
    people = features(bench, prompts, prompts.human)
    rows = []
    for name, model, settings in decoders(bench, most=True):
        if name in wanted:
            rows.append(compared(bench, name, model, settings, prompts, people))
            lab.say(f"{name}: MAUVE {rows[-1]['mauve']:.3f}, Rep-2 {rows[-1]['rep_2']:.3f}")
    return concluded(lab, rows)


def compared(bench: Bench, name: str, model, settings: dict, prompts: Prompts, people: np.ndarray) -> dict:
    """MAUVE (mean, least and greatest of the k-means seeds) and Rep-2 of one decoder's texts; kept."""
    path = bench.lab.path("written") / f"mauve-{slug(name)}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    if model is None:
        written, scores = prompts.human, between_halves(people)
    else:
        model.generation_config.temperature = model.generation_config.top_p = None  # the source may sample
        written = write(name, model, prompts, NEW_TOKENS, 40, [0], **settings).runs[0]
        scores = mauve_scores(people, features(bench, prompts, written))
    row = {"decoder": name, "texts": len(written)} | with_ends("mauve", summary(scores))
    row["rep_2"] = float(per_prompt([written], prompts)["rep_2"].mean())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row), encoding="utf-8")
    return row


@torch.no_grad()
def features(bench: Bench, prompts: Prompts, written: torch.Tensor) -> np.ndarray:
    """The judge's last hidden state at the end of each text, as mauve-text takes it; the judge has its own tokens."""
    judge, tokenizer = bench.judge
    found = []
    for ids in torch.cat([prompts.ids, written], dim=1):
        encoded = tokenizer(bench.tokenizer.decode(ids), return_tensors="pt", verbose=False)["input_ids"]
        output = judge(encoded.to(judge.device), use_cache=False, output_hidden_states=True, logits_to_keep=1)
        found.append(output.hidden_states[-1][0, -1].float().cpu())
    return torch.stack(found).numpy()


def concluded(lab: Lab, rows: list[dict]) -> Finding:
    by_name = {row["decoder"]: row for row in rows}
    ours, greedy = by_name[SEQUENCE], by_name["greedy"]
    rivals = [row for row in rows if row["decoder"].startswith("penalty")]
    nearest = max(rivals, key=lambda row: row["mauve"])
    verdict = "holds" if ours["mauve"] >= nearest["mauve"] else "partly" if ours["mauve"] > greedy["mauve"] else False
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        ends = [[row["mauve"] - row["mauve_low"]], [row["mauve_high"] - row["mauve"]]]
        color = "tab:green" if row is ours else "C0"
        axis.errorbar(row["mauve"], place, xerr=ends, marker="o", capsize=3, color=color)
    axis.set_yticks(range(len(rows)), [row["decoder"] for row in reversed(rows)])
    axis.set(xlabel=f"MAUVE, {rows[0]['texts']} texts of {NEW_TOKENS} tokens")
    return Finding(
        claim="Text of a model that has unlearned its loops is more like people's than greedy text with a penalty.",
        finding="; ".join(f"{row['decoder']} {row['mauve']:.3f} (Rep-2 {row['rep_2']:.3f})" for row in rows) + ".",
        verdict=lab.verdict(verdict),
        rows=rows,
        figure=figure,
        text="MAUVE by mauve-text on the judge's last hidden state; ends are the least and the greatest of three "
        "k-means seeds, no confidence interval; people: one half of the passages against the other. So few texts "
        "(its paper takes 5,000) cannot tell decoders some hundredths apart.",
    )
