# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a study leaves behind: a CSV, a picture and a verdict in a folder, and the index of all folders."""

import csv
import json
import os
import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import STUDIES
from .lab import NOT_JUDGED, Finding, Lab

FILES = ("results.csv", "picture.png", "finding.md")


def claim_folder(folder: Path, lab: Lab) -> None:
    """Note what the folder is made of.

    Raises:
        ValueError: it was made of something else.
    """
    path = folder / "lab.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, value in lab.identity().items():
            if found.get(name) != value:
                was, now = (part["name"] if name == "budget" else part for part in (found.get(name), value))
                what = f"other numbers in --budget {now}" if was == now else f"--{name.replace('_', '-')} {was}"
                raise ValueError(f"--output {folder} was made with {what}, not {now}: choose another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(lab.identity(), indent=2) + "\n")


def is_done(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def save(finding: Finding, name: str, folder: Path) -> None:
    """Write a study's files; the folder appears whole."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    columns = list(dict.fromkeys(column for row in finding.rows for column in row))
    with open(part / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: _short(value) for key, value in row.items()} for row in finding.rows)
    finding.figure.savefig(part / "picture.png", dpi=150, bbox_inches="tight")
    for title, figure in finding.pictures.items():
        figure.savefig(part / f"{title}.png", dpi=110)
    parts = [f"# {name}: {STUDIES[name]}", f"**Claim.** {finding.claim}", f"**Finding.** {finding.finding}"]
    parts += [f"**Verdict: {finding.verdict}.**", "![](picture.png)", finding.text]
    (part / "finding.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def _short(value):
    return f"{value:.5g}" if isinstance(value, float) else value


def read_finding(folder: Path) -> dict[str, str]:
    lines = (folder / "finding.md").read_text(encoding="utf-8").split("\n\n")
    found = {}
    for line in lines:
        for key, mark in (("claim", "**Claim.** "), ("finding", "**Finding.** "), ("verdict", "**Verdict: ")):
            if line.startswith(mark):
                found.setdefault(key, line.removeprefix(mark).removesuffix(".**"))
    return found


def write_index(folder: Path) -> None:
    """README.md of the folder: every finished study with its verdict and picture."""
    lab = json.loads((folder / "lab.json").read_text(encoding="utf-8"))
    lines = [
        f"# Studies, budget {lab['budget']['name']}",
        "",
        "| study | claim | finding | verdict |",
        "|---|---|---|---|",
    ]
    done = [name for name in STUDIES if is_done(folder / name)]
    for name in done:
        found = read_finding(folder / name)
        cells = (found[key].replace("|", "\\|").replace("\n", " ") for key in ("claim", "finding", "verdict"))
        lines.append(f"| [{name}]({name}/finding.md) | {' | '.join(cells)} |")
    for name in done:
        lines += ["", f"## {name}", "", f"![]({name}/picture.png)"]
    _write(folder / "README.md", "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def print_findings(folder: Path, names: list[str]) -> None:
    table = Table("study", "finding", "verdict", title=None)
    for name in names:
        found = read_finding(folder / name)
        style = {"holds": "green", "does not hold": "red", NOT_JUDGED: "dim"}.get(found["verdict"])
        table.add_row(name, found["finding"], found["verdict"], style=style)
    Console().print(table)
    print(f"Saved in {folder}: README.md, and for each study results.csv, picture.png and finding.md")
