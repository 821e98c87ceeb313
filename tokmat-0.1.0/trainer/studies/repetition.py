# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The repetition table (METHOD section 6: Dist, Rep, Loop) at 50 new tokens, and beyond, with the quality it omits."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ..evaluation.decoders import PENALTIES
from ..evaluation.prompts import Prompts
from .lab import CONTEXT_NEGATIVES, RECIPE, TAIL_LENGTH, Finding, Lab

COLUMNS = ("dist_1", "dist_2", "rep_2", "rep_3", "loop", "judge_perplexity")
GREEDY = {"do_sample": False}


def study(lab: Lab) -> Finding:
    rows = []
    for place, length in enumerate(lab.budget.lengths):
        long = place == len(lab.budget.lengths) - 1  # more tokens than documents have
        count = (lab.budget.prompts, lab.budget.prompts // 4, lab.budget.prompts // 8)[place]
        prompts = lab.prompts(length, count=max(count, 4), long=long)
        for name, runs in texts(lab, prompts, long):
            rows.append({"new_tokens": length, "prompts": len(prompts.ids), "decoder": name, "runs": len(runs)}
                        | lab.measure(runs, prompts))  # fmt: skip
            lab.say(f"{length} tokens, {name}: Loop {rows[-1]['loop']:.2f}, judge {rows[-1]['judge_perplexity']:.2f}")
    return concluded(lab, rows)


def concluded(lab: Lab, rows: list[dict]) -> Finding:
    first = [row for row in rows if row["new_tokens"] == lab.budget.lengths[0]]
    finding, holds = judge_claim(first)
    for length in lab.budget.lengths[1:]:
        finding += f" {beyond(rows, length)}"
    return Finding(
        claim="At 50 new tokens pure argmax repeats no more than people do, and is judged no worse than greedy "
        "decoding with a penalty that achieves as much. (The paper: Dist-2 1.000, Rep-2 0.000, Loop 0 %, where greedy "
        "decoding loops in 90 %. On this text people themselves repeat, so zero is not the aim.)",
        finding=finding,
        verdict=lab.verdict(holds),
        rows=rows,
        figure=draw(rows, lab.budget.lengths),
        text=tables(rows)
        + f"\n\ntokmat: from the baseline, context_negatives {CONTEXT_NEGATIVES:g}, pure argmax, no penalty at "
        f"decoding, K = {TAIL_LENGTH}; look-ahead: its tail trained as well. Seeds are of the training that follows "
        "the baseline. ar: the same backbone with as many steps in all, of the same text. Intervals: 95 %, bootstrap "
        "over prompts. Judge: an autoregressive model trained apart, of another seed, on rows of "
        f"{lab.budget.block} tokens: of longer texts its perplexity compares rows, and no more.",
    )


def texts(lab: Lab, prompts: Prompts, long: bool):
    """(name, runs) of people, of TokMat models of every training seed, and of the baseline's decodings; of long texts
    one run each."""
    chances = [0] if long else range(lab.budget.embryo_seeds)
    yield "human", [prompts.human]
    for seed in range(1 if long else lab.budget.training_seeds):
        for kind, path in (("tokmat", lab.base), ("tokmat look-ahead", lab.tokmat)):
            model = lab.load_tokmat(long_context(lab, path(), kind) if long else path(seed))
            yield f"{kind}, seed {seed}", lab.continuations(model, prompts, chances)
            if kind == "tokmat":
                yield (
                    f"tokmat K = 1, seed {seed}",
                    lab.continuations(model, prompts, [0], tail_length=1, alpha_max=1.0),
                )
    baseline = lab.load(long_context(lab, lab.longer_baseline(), "ar") if long else lab.longer_baseline())
    plans: list[tuple[str, Any, dict]] = [("ar greedy", [None], GREEDY)]
    plans += [(f"ar penalty {penalty}", [None], GREEDY | {"repetition_penalty": penalty}) for penalty in PENALTIES]
    plans.append(("ar nucleus 0.95", chances, {"do_sample": True, "top_p": 0.95, "top_k": 0}))
    for name, chance, settings in plans:
        yield name, lab.continuations(baseline, prompts, chance, **settings)


def long_context(lab: Lab, source: Path, kind: str) -> Path:
    """A model taught to read documents as long as the long context."""
    budget = lab.budget
    values: dict[str, Any] = {"model": str(source)}
    if kind == "ar":
        values |= {"objective": "ar"}
    else:
        values |= RECIPE | ({"look_ahead": True} if "look-ahead" in kind else {"clean_probability": 1.0})
    batch = max(budget.batch * budget.block // budget.long_block, 1)
    values |= {"block_size": budget.long_block, "per_device_train_batch_size": batch}
    name = kind.replace(" ", "-") + "-long"
    return lab.fit(name, budget.long_steps, 4e-4, data="train-long", **values)


def judge_claim(rows: list[dict]) -> tuple[str, str]:
    """Repetition of people is the bar (their 95 % interval), and the judge's opinion of the best penalty."""
    by_name = {row["decoder"]: row for row in rows}
    human, greedy = by_name["human"], by_name["ar greedy"]
    tokmat = [row for name, row in by_name.items() if name.startswith("tokmat, seed")]
    penalties = [row for name, row in by_name.items() if name.startswith("ar penalty")]
    repeats = [
        all(row[name] <= human[f"{name}_high"] for name in ("rep_2", "rep_3", "loop"))
        and row["dist_2"] >= human["dist_2_low"]
        for row in tokmat
    ]
    loop = max(row["loop"] for row in tokmat)
    rivals = [row for row in penalties if row["loop"] <= loop] or penalties
    best = min(rivals, key=lambda row: row["judge_perplexity"])
    coherent = [row["judge_perplexity"] <= best["judge_perplexity"] for row in tokmat]
    text = "; ".join(
        f"seed {seed}: Rep-2 {row['rep_2']:.3f}, Rep-3 {row['rep_3']:.3f}, Loop {row['loop']:.0%}, judge "
        f"perplexity {row['judge_perplexity']:.2f}"
        for seed, row in enumerate(tokmat)
    )
    text += (
        f". Human text: Rep-2 {human['rep_2']:.3f} (interval to {human['rep_2_high']:.3f}), Rep-3 to "
        f"{human['rep_3_high']:.3f}, Loop {human['loop']:.0%} (to {human['loop_high']:.0%}). Greedy: Rep-2 "
        f"{greedy['rep_2']:.3f}, Loop {greedy['loop']:.0%}, judge {greedy['judge_perplexity']:.2f}. Best penalty "
        f"that repeats no more than TokMat: {best['decoder']}, Loop {best['loop']:.0%}, judge "
        f"{best['judge_perplexity']:.2f}. At or below human repetition: "
        f"{_of(repeats)}; judged no worse than that penalty: {_of(coherent)}."
    )
    if all(repeats) and all(coherent):
        return text, "holds"
    return text, "partly" if any(repeats) or any(coherent) or loop < greedy["loop"] / 2 else "does not hold"


def beyond(rows: list[dict], length: int) -> str:
    """Rep-2 and the judge's perplexity of longer texts, in which people repeat trigrams too."""
    shown = ("human", "tokmat, seed 0", "ar greedy", "ar penalty 1.2", "ar nucleus 0.95")
    parts = [
        f"{row['decoder']} {row['rep_2']:.3f} at {row['judge_perplexity']:.2f}"
        for row in rows
        if row["new_tokens"] == length and row["decoder"] in shown
    ]
    return f"At {length} tokens, Rep-2 and judge perplexity: {', '.join(parts)}."


def _of(values: list[bool]) -> str:
    return f"{sum(values)} of {len(values)} models"


def draw(rows: list[dict], lengths):
    names = list(dict.fromkeys(row["decoder"] for row in rows))
    colors: dict[str, Any] = {"human": "black", "tokmat": plt.get_cmap("Greens"), "ar": plt.get_cmap("Blues")}
    kinds = {name: name.replace(",", "").split(" ")[0] for name in names}
    figure, axes = plt.subplots(1, len(lengths), figsize=(4.2 * len(lengths) + 2, 4.2), layout="constrained")
    for axis, length in zip(axes, lengths):
        for row in (row for row in rows if row["new_tokens"] == length):
            kind = kinds[row["decoder"]]
            siblings = [name for name in names if kinds[name] == kind]
            place = siblings.index(row["decoder"])
            color = colors[kind] if kind == "human" else colors[kind](0.4 + 0.6 * place / len(siblings))
            x, y = row["rep_2"], row["judge_perplexity"]
            axis.errorbar(
                x, y, [[y - row["judge_perplexity_low"]], [row["judge_perplexity_high"] - y]],
                [[x - row["rep_2_low"]], [row["rep_2_high"] - x]], color=color, elinewidth=0.7, linestyle="none",
                marker="osD^vP*X"[place % 8], label=row["decoder"], markersize=7,
            )  # fmt: skip
        axis.set(xlabel="Rep-2", title=f"{length} new tokens")  # Loop is 1 for everyone in long texts, people too
        axis.set_yscale("log")
        for level in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            level("{x:g}")
    axes[0].set_ylabel("perplexity under the judge")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def tables(rows: list[dict], columns=COLUMNS) -> str:
    """A table per length of the texts, intervals in brackets."""
    lines = []
    for length in dict.fromkeys(row["new_tokens"] for row in rows):
        chosen = [row for row in rows if row["new_tokens"] == length]
        lines += [f"{length} new tokens, {chosen[0]['prompts']} prompts:", ""]
        lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for row in chosen:
            cells = (f"{row[name]:.3f} [{row[name + '_low']:.3f}, {row[name + '_high']:.3f}]" for name in columns)
            lines.append(f"| {row['decoder']} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
