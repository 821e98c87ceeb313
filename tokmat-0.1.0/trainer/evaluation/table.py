# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation found as tables, on the terminal and in Markdown."""

import os

from rich.console import Console
from rich.table import Table

COLUMNS = {
    "dist_1": "Dist-1",
    "dist_2": "Dist-2",
    "rep_2": "Rep-2",
    "rep_3": "Rep-3",
    "rep_4": "Rep-4",
    "loop": "Loop",
    "judge_perplexity": "judge ppl",
    "judge_bits": "judge bits/byte",
    "mauve": "MAUVE",
    "held_out_perplexity": "held-out ppl",
}


def cell(row: dict, name: str) -> str:
    """A result of a row as text: "mean [low, high]" where it has an interval, "-" where it has none."""
    value, digits = row.get(name), {"judge_perplexity": 1, "held_out_perplexity": 2}.get(name, 3)
    if isinstance(value, tuple | list):  # a list where it was read from a file
        mean, low, high = value
        halves = " (halves)" if (row.get("name"), name) == ("human", "mauve") else ""
        return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{halves}"
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def columns(result: dict) -> dict[str, str]:
    """Those of COLUMNS that any row has."""
    return {name: title for name, title in COLUMNS.items() if any(name in row for row in result["decoders"])}


def print_tables(result: dict) -> None:
    console, names = Console() if os.isatty(1) else Console(width=230), columns(result)
    title = f"{result['prompts']} prompts, {result['new_tokens']} tokens"
    table = Table("", *names.values(), "tokens/s", title=title)
    for row in result["decoders"]:
        speed = "-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.0f}"
        table.add_row(row["name"], *(cell(row, name).replace("[", "\\[") for name in names), speed)
    console.print(table)
    for line in result["conventions"]:
        console.print(line, style="dim", markup=False, highlight=False)
    for row in result["decoders"]:
        if "look_ahead" in row:
            table = Table("what the tail knows", row["name"])
            for name in row["look_ahead"]:
                table.add_row(name, cell(row["look_ahead"], name).replace("[", "\\["))
            console.print(table)


def markdown(result: dict) -> str:
    names = columns(result)
    lines = ["| | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for row in result["decoders"]:
        lines.append(f"| {row['name']} | " + " | ".join(cell(row, name) for name in names) + " |")
    for row in result["decoders"]:
        if "look_ahead" in row:
            lines += ["", f"| {row['name']} | |", "|---|---|"]
            lines += [f"| {name} | {cell(row['look_ahead'], name)} |" for name in row["look_ahead"]]
    return "\n".join([*lines, "", "\n\n".join(result["conventions"])])
