# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Tables between markers of a document, made of committed result files: what `figures.py` registers and writes."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
TABLES: dict[str, tuple[Callable[[], list[list[str]]], tuple[str, ...]]] = {}


def table(name: str, *sources: str):
    """Register a function that returns the rows of table `name`, heads first, with the result files it reads."""

    def register(function):
        TABLES[name] = function, sources
        return function

    return register


# -- reading and writing ----------------------------------------------------------------------------------------------


def load(name: str) -> dict:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def study(name: str, folder: str = "studies") -> list[dict]:
    with open(ROOT / "docs" / folder / name / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def machine_of(machine: dict) -> str:
    """One phrase out of what a result says of its machine."""
    shown = {"cores": "{} cores", "cpu": "{}", "cpu_capability": "{}", "dtype": "{}", "torch": "torch {}"}
    shown |= {"transformers": "transformers {}"}
    return ", ".join(text.format(machine[name]) for name, text in shown.items() if name in machine)


def origin(source: str) -> str:
    """Which command a result file came from, on what machine, and what else is to be known."""
    found = load(source)
    parts = [f"`{found['command']}`", machine_of(found["machine"])]
    return "; ".join(filter(None, parts)) + (f". {found['note']}" if "note" in found else "")


def block(name: str) -> str:
    """What stands between the markers of `name`.

    Raises:
        ValueError: there is no such table.
    """
    if name not in TABLES:
        raise ValueError(f"figures: {name!r} is no table, but it must be among {', '.join(sorted(TABLES))}")
    function, sources = TABLES[name]
    heads, *rows = function()
    numeric = [all(not row[place] or row[place][0] in "0123456789" for row in rows) for place in range(len(heads))]
    lines = ["| " + " | ".join(heads) + " |", "|" + "|".join("---:" if right else "---" for right in numeric) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    origins = list(dict.fromkeys(origin(source) for source in sources))
    return "\n".join(["", *lines, "", *(f"<sub>From {text}</sub>  " for text in origins), ""])


def rewritten(text: str) -> str:
    """A document with its tables made anew.

    Raises:
        ValueError: a marker without its other one, or a table that is not there.
    """
    blocks = BLOCK.findall(text)
    if not len(blocks) == text.count("<!-- figures: ") == text.count("<!-- /figures -->"):
        raise ValueError("figures: every <!-- figures: NAME --> needs a <!-- /figures --> before the next one")
    return BLOCK.sub(lambda found: found[1] + block(found[2]) + found[3], text)


def documents() -> list[Path]:
    cards = sorted((ROOT / "checkpoints").glob("*/README.md"))
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *cards]


def with_interval(measure: str, values) -> str:
    """A mean and the ends of its interval, with the digits that the measure is worth."""
    digits = 2 if measure in ("loop", "judge_perplexity", "mauve", "held_out_perplexity") else 3
    mean, low, high = (f"{float(value):.{digits}f}" for value in values)
    return f"{mean} [{low}, {high}]"


def lm_eval_rows(source: str) -> list[list[str]]:
    """What lm_eval said of each model: perplexity, and shares with their standard errors."""
    columns = {"endings_acc": "endings, acc", "endings_acc_mutual_info": "endings, acc_mutual_info"}
    columns |= {"words_acc": "last word"}
    rows = [["", "perplexity per word", *columns.values()]]
    for row in load(source)["models"]:
        shares = [f"{row[name]:.2f} ({row[f'{name}_stderr']:.2f})" for name in columns]
        rows.append([row["model"], f"{row['word_perplexity']:.1f}", *shares])
    return rows
