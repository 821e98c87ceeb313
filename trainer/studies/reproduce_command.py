# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat reproduce`: runs studies, and writes for each a CSV, a picture and a verdict."""

import csv
import importlib.util
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..argument_parser import OneLineParser
from . import STUDIES
from .lab import BUDGETS, NOT_JUDGED, Finding, Lab

FILES = ("results.csv", "picture.png", "finding.md")


def _argument(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class ReproduceArguments:
    _argument_group_name = "studies"

    budget: str = _argument(
        "small: the whole machinery on a tiny model, nothing is judged; full: hours on two CPU cores", "small"
    )
    data: str = _argument("training text, as for tokmat train", "builtin", metavar="SOURCE")
    held_out: str | None = _argument("held-out text (default: a twentieth of --data)", metavar="SOURCE")
    dialogue: str | None = _argument("text of dialogues, for the study of structured text", metavar="SOURCE")
    output: str = _argument("folder for models and findings; what is finished there is not done again", "runs/studies")


def reproduce(arguments: list[str]) -> int:
    parser = OneLineParser(
        [ReproduceArguments],
        prog="tokmat reproduce",
        usage="tokmat reproduce [STUDY ...] [--budget small|full] [--data SOURCE] [--output FOLDER]",
        description="The studies: " + "; ".join(f"{name} ({text})" for name, text in STUDIES.items()) + ".",
    )
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="which studies; default: all")
    values = parser.parse(arguments)
    names = values["studies"] or list(STUDIES)
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        raise ValueError(f"STUDY is {unknown[0]!r}, but it must be among {', '.join(STUDIES)}")
    if values["budget"] not in BUDGETS:
        raise ValueError(f"`budget` is {values['budget']!r}, but it must be among {', '.join(BUDGETS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the studies draw pictures with matplotlib: pip install 'tokmat[demo]'")
    os.environ.setdefault("MPLBACKEND", "Agg")
    folder = Path(values["output"])
    console = Console(stderr=True)
    lab = Lab(
        folder,
        BUDGETS[values["budget"]],
        values["data"],
        values["held_out"],
        values["dialogue"],
        say=lambda text: console.print(f"  {text}", style="dim", highlight=False),
    )
    claim_folder(folder, lab)
    for number, name in enumerate(names, start=1):
        if is_done(folder / name):
            console.print(f"{number}/{len(names)} {name}: done before", highlight=False)
            continue
        console.print(f"{number}/{len(names)} {name}: {STUDIES[name]}", highlight=False)
        start = time.perf_counter()
        study = importlib.import_module(f".{name}", __package__).study
        finding = study(lab)
        save(finding, name, folder / name)
        write_index(folder)
        minutes = (time.perf_counter() - start) / 60
        console.print(f"  {finding.verdict}: {finding.finding} ({minutes:.1f} min)", highlight=False)
    write_index(folder)
    show(folder, names)
    return 0


def claim_folder(folder: Path, lab: Lab) -> None:
    """Note what the folder is made of.

    Raises:
        ValueError: it was made of something else.
    """
    path = folder / "lab.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, value in lab.identity().items():
            if found[name] != value:
                was, now = (part["name"] if name == "budget" else part for part in (found[name], value))
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


def show(folder: Path, names: list[str]) -> None:
    table = Table("study", "finding", "verdict", title=None)
    for name in names:
        found = read_finding(folder / name)
        style = {"holds": "green", "does not hold": "red", NOT_JUDGED: "dim"}.get(found["verdict"])
        table.add_row(name, found["finding"], found["verdict"], style=style)
    Console().print(table)
    print(f"Saved in {folder}: README.md, and for each study results.csv, picture.png and finding.md")
