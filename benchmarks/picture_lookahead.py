# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Tables and pictures of docs/LOOKAHEAD.md, from what `tokmat evaluate --output` saved.

    python benchmarks/picture_lookahead.py runs/lookahead --reference paper --output docs

Each folder below the first argument holds one model's results.json. Prints a Markdown table, draws a picture per model
beside the reference.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SLOTS = 8


def load(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/results.json"))}


def tail(result: dict, name: str = "tail_acc") -> list[list[float]]:
    return [result["look_ahead"][f"{name}_{slot}"] for slot in range(1, SLOTS + 1)]


def row_of(name: str, result: dict) -> str:
    def percent(value):
        mean, low, high = value
        return f"{100 * mean:.1f} ±{100 * (high - low) / 2:.1f}"

    decoded = {row["name"]: row for row in result["decoders"]}["tokmat"]
    ahead = result["look_ahead"]
    cells = [percent(ahead[f"tail_acc_{slot}"]) for slot in (2, 3, 4)]
    cells += [f"{100 * ahead[f'tail_acc_{slot}'][0]:.0f}" for slot in (5, 6, 7, 8)]
    cells += [percent(ahead["guided_tail_acc_2"]), f"{ahead['verified_tokens_per_forward']:.2f}"]
    cells += [percent(decoded["rep_2"]), percent(decoded["loop"]), f"{decoded['judge_perplexity'][0]:.2f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def draw(name: str, result: dict, reference: dict, reference_name: str, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 3), dpi=110)
    for offset, color, label, values in (
        (-0.2, "#b0b7c3", reference_name, tail(reference)),
        (0.2, "#2f6fde", name, tail(result)),
    ):
        means = [value[0] for value in values]
        errors = [[mean - low for mean, low, _ in values], [high - mean for mean, _, high in values]]
        places = [slot + offset for slot in range(1, SLOTS + 1)]
        axis.bar(places, means, width=0.38, color=color, label=label, yerr=errors, ecolor="#555", error_kw={"lw": 0.8})
    axis.set_xlabel("slot k of the tail")
    axis.set_ylabel("holds what is committed later")
    axis.set_ylim(0, 1.02)
    axis.set_xticks(range(1, SLOTS + 1))
    axis.set_title(name, fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--reference", default="paper")
    parser.add_argument("--output", type=Path, help="folder for the pictures")
    args = parser.parse_args()
    results = load(args.results)
    if args.reference not in results:
        parser.error(f"{args.results} has no {args.reference}/results.json")
    heads = ["", *(f"tail_acc_{slot} %" for slot in (2, 3, 4)), "5", "6", "7", "8", "guided 2: tail_acc_2 %"]
    heads += ["tokens/forward", "Rep-2 %", "Loop %", "judge ppl"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name, result in results.items():
        print(row_of(name, result))
        if args.output and name != args.reference:
            draw(name, result, results[args.reference], args.reference, args.output / f"lookahead-{name}.png")


if __name__ == "__main__":
    main()
