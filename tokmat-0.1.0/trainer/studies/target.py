# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The target that `pretrained` states: what studies of a real model's repetition reach of it, and their picture."""

import matplotlib.pyplot as plt

TUNED = "argmax, phrases unlearned"


def judged_at_every_length(rows: list[dict], lengths, name: str = TUNED) -> tuple[list[str], list[bool]]:
    """A sentence per length on the decoder `name`, and what of the target it reaches."""
    told, holds = [], []
    for length in lengths:
        text, reached = judged([row for row in rows if row["new_tokens"] == length], name)
        told.append(f"{length} tokens: {text}")
        holds += reached
    return told, holds


def perplexity_rows(perplexities: dict[str, float]) -> list[dict]:
    """Of held-out text, under each model by name."""
    return [{"decoder": f"held-out text, {name}", "perplexity": value} for name, value in perplexities.items()]


def judged(rows: list[dict], name: str = TUNED) -> tuple[str, list[bool]]:
    """What rows of one length say of a decoder, and which parts of the target it reaches: repetition, the judge."""
    by_name = {row["decoder"]: row for row in rows}
    human, tuned = by_name["human"], by_name[name]
    repeats = all(tuned[name] <= human[f"{name}_high"] for name in ("rep_2", "rep_3", "loop"))
    repeats = repeats and tuned["dist_2"] >= human["dist_2_low"]
    rivals = [row for row in rows if row["decoder"].startswith("penalty")]
    as_little = [row for row in rivals if row["rep_2"] <= tuned["rep_2"]]
    rival = max(as_little or rivals, key=lambda row: row["rep_2"])
    text = (
        f"Rep-2 {tuned['rep_2']:.3f} (greedy {by_name['greedy']['rep_2']:.3f}, people {human['rep_2']:.3f}, to "
        f"{human['rep_2_high']:.3f}), Rep-3 {tuned['rep_3']:.3f} (people to {human['rep_3_high']:.3f}), Loop "
        f"{tuned['loop']:.2f} (to {human['loop_high']:.2f}), {tuned['bits']:.3f} bits per byte; {rival['decoder']}: "
        f"Rep-2 {rival['rep_2']:.3f}, {rival['bits']:.3f} bits."
    )
    return text, [repeats, tuned["bits"] <= rival["bits"]]


def draw(rows: list[dict], lengths, tuned: str = TUNED):
    size = (4.2 * len(lengths) + 2, 4.2)
    figure, (axes,) = plt.subplots(1, len(lengths), figsize=size, layout="constrained", squeeze=False)
    names = list(dict.fromkeys(row["decoder"] for row in rows))
    for axis, length in zip(axes, lengths):
        for row in (row for row in rows if row["new_tokens"] == length):
            place = names.index(row["decoder"])
            ends = [[[abs(row[name] - row[f"{name}_{end}"])] for end in ("low", "high")] for name in ("bits", "rep_2")]
            color = {"human": "black", tuned: "tab:green"}.get(row["decoder"], plt.get_cmap("Blues")(0.3 + place / 20))
            axis.errorbar(row["rep_2"], row["bits"], *ends, color=color, marker="osD^vP*X<>p"[place % 11],
                          elinewidth=0.7, linestyle="none", label=row["decoder"])  # fmt: skip
        axis.set(xlabel="Rep-2", title=f"{length} new tokens")
    axes[0].set_ylabel("bits per byte under the judge")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
