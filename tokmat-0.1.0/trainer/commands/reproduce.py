# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat reproduce`: run studies."""

import dataclasses
import importlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..arguments import OneLineParser, argument
from ..checkpoints import check_folder
from ..studies import PRETRAINED, STUDIES, require_packages
from ..studies.findings import claim_folder, is_done, print_findings, save, write_index
from ..studies.lab import BUDGETS, Lab


@dataclass
class ReproduceArguments:
    _argument_group_name = "studies"

    budget: str = argument(
        "small: the whole machinery on a tiny model, nothing is judged; full: hours on two CPU cores", "small"
    )
    data: list[str] = dataclasses.field(
        default_factory=lambda: ["builtin"],
        metadata={"help": "training text, as for tokmat train", "metavar": "SOURCE"},
    )
    held_out: list[str] | None = argument("held-out text (default: a twentieth of --data)", metavar="SOURCE")
    dialogue: str | None = argument("text of dialogues, for the study of structured text", metavar="SOURCE")
    pretrained: str | None = argument(
        f"ask a pretrained model instead, in the studies {', '.join(PRETRAINED)}", metavar="MODEL"
    )
    judged_by: str | None = argument("the judge of its texts (default: the lab's)", metavar="MODEL")
    output: str = argument("folder for models and findings; what is finished there is not done again", "runs/studies")


def run(arguments: list[str]) -> int:
    parser = OneLineParser(
        [ReproduceArguments],
        prog="tokmat reproduce",
        usage="tokmat reproduce [STUDY ...] [--budget small|full] [--data SOURCE] [--output FOLDER]",
        description="The studies: " + "; ".join(f"{name} ({text})" for name, text in STUDIES.items()) + ".",
    )
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="which studies; default: all")
    values = parser.parse(arguments)
    possible = [name for name in STUDIES if name in PRETRAINED or values["pretrained"] is None]
    names = values["studies"] or possible
    unknown = [name for name in names if name not in possible]
    if unknown:
        where = "" if len(possible) == len(STUDIES) else " where --pretrained is given"
        raise ValueError(f"STUDY is {unknown[0]!r}, but it must be among {', '.join(possible)}{where}")
    if values["budget"] not in BUDGETS:
        raise ValueError(f"`budget` is {values['budget']!r}, but it must be among {', '.join(BUDGETS)}")
    folder, console = Path(values["output"]), Console(stderr=True, soft_wrap=not sys.stderr.isatty())
    require_packages([name for name in names if not is_done(folder / name)])
    os.environ.setdefault("MPLBACKEND", "Agg")
    made = Lab
    if values["pretrained"] is not None:
        from ..studies.pretrained_lab import PretrainedLab as made  # which draws, and so needs what is checked above
    lab = made(
        folder,
        BUDGETS[values["budget"]],
        _one_or_all(values["data"]),
        _one_or_all(values["held_out"]),
        values["dialogue"],
        values["pretrained"],
        values["judged_by"],
        say=lambda text: console.print(f"  {text}", style="dim", highlight=False),
    )
    check_folder(values["output"])
    if not all(is_done(folder / name) for name in names):
        lab.check_sources()
    claim_folder(folder, lab)
    for number, name in enumerate(names, start=1):
        if is_done(folder / name):
            console.print(f"{number}/{len(names)} {name}: done before", highlight=False)
            continue
        console.print(f"{number}/{len(names)} {name}: {STUDIES[name]}", highlight=False)
        start = time.perf_counter()
        finding = importlib.import_module(f"trainer.studies.{name}").study(lab)
        save(finding, name, folder / name)
        write_index(folder)
        minutes = (time.perf_counter() - start) / 60
        console.print(f"  {finding.verdict}: {finding.finding} ({minutes:.1f} min)", highlight=False)
    write_index(folder)
    print_findings(folder, names)
    return 0


def _one_or_all(sources: list[str] | None):
    return sources[0] if sources and len(sources) == 1 else sources
