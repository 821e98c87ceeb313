# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Tail length against diversity, embryo noise being the only difference between continuations (paper 5.3)."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from ..evaluation import metrics
from ..evaluation.decoders import continue_prompts
from ..evaluation.measures import interval, judge_nll
from .lab import Finding, Lab, with_ends

LENGTHS = (1, 4, 16, 64)
EMBRYO_NORMS = (0.1, 1.0)
PROMPTS = 4


@torch.no_grad()
def study(lab: Lab) -> Finding:
    model = lab.load_tokmat(lab.tokmat())
    prompts, count = lab.prompts(50, count=PROMPTS), lab.budget.continuations
    rows, distinct = [], {}
    for norm in EMBRYO_NORMS:
        for length in LENGTHS:
            values = {"distinct_2": [], "different": [], "self_bleu": [], "rep_2": [], "loop": [], "judge_nll": []}
            for ids in prompts.ids:
                output = continue_prompts(
                    model,
                    ids[None].to(lab.device),
                    50,
                    tail_length=length,
                    embryo_norm=norm,
                    num_return_sequences=count,
                )
                written = output.sequences[:, len(ids) :].cpu()
                texts = written.tolist()
                values["distinct_2"].append(metrics.dist_n(texts, 2, pooled=True))
                values["different"].append(len(set(map(tuple, texts))) / count)
                values["self_bleu"].append(metrics.self_bleu(texts, max_hypotheses=20))
                values["rep_2"].append(metrics.rep_n(texts, 2))
                values["loop"].append(metrics.loop_share(texts))
                nll = judge_nll(lab.judge, ids.expand(count, -1), written)
                values["judge_nll"].append(float(nll.mean()))
            row = {"embryo_norm": norm, "tail_length": length, "continuations": count}
            for name, found in values.items():
                ends = interval(np.array(found))
                if name == "judge_nll":
                    name, ends = "judge_perplexity", tuple(np.exp(ends).tolist())
                row |= with_ends(name, ends)
            distinct[norm, length] = np.array(values["distinct_2"])
            rows.append(row)
            lab.say(f"embryo norm {norm}, K = {length}: {row['different']:.0%} different")
    changes = {norm: interval(distinct[norm, 64] - distinct[norm, 4]) for norm in EMBRYO_NORMS}  # paired by prompt
    grows = [change[1] > 0 for change in changes.values()]
    told = "; ".join(
        f"embryo norm {norm:g}: different continuations "
        + ", ".join(f"{row['different']:.0%}" for row in rows if row["embryo_norm"] == norm)
        + f" at K = 1, 4, 16, 64, pooled Dist-2 from K = 4 to 64 {change[0]:+.3f} [{change[1]:+.3f}, {change[2]:+.3f}]"
        for norm, change in changes.items()
    )
    return Finding(
        claim="Longer tails give more diverse continuations of one prompt, embryo noise being their only difference.",
        finding=told + ".",
        verdict=lab.verdict(grows),
        rows=rows,
        figure=_draw(rows),
    )


def _draw(rows):
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    names = {
        "distinct_2": "pooled Dist-2",
        "different": "share of different texts",
        "judge_perplexity": "judge perplexity",
    }
    for axis, (name, label) in zip(axes, names.items()):
        for norm in EMBRYO_NORMS:
            chosen = [row for row in rows if row["embryo_norm"] == norm]
            middle = np.array([row[name] for row in chosen])
            low, high = (np.array([row[f"{name}_{end}"] for row in chosen]) for end in ("low", "high"))
            axis.errorbar(LENGTHS, middle, (middle - low, high - middle), marker="o", capsize=3,
                          label=f"embryo norm {norm:g}")  # fmt: skip
        axis.set(xlabel="tail length K", ylabel=label)
        axis.set_xscale("log", base=2)
        axis.set_xticks(LENGTHS, LENGTHS)
    axes[0].legend()
    return figure
