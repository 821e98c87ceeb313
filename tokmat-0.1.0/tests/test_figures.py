# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The tables of README.md and docs/ are those of the committed result files, each of which names its command."""

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import tables

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))


def script(name):
    """A module of benchmarks/, which is no package."""
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = script("figures")


@pytest.mark.parametrize("path", tables.documents(), ids=lambda path: path.name)
def test_documents_hold_what_the_result_files_say(path):
    text = path.read_text(encoding="utf-8")
    assert tables.rewritten(text) == text, "run `make figures`"


def test_a_changed_figure_is_found_and_mended():
    text = (ROOT / "docs" / "SPEED.md").read_text(encoding="utf-8")
    changed = text.replace("| 27.4 |", "| 17.4 |")
    assert changed != text and tables.rewritten(changed) == text


def test_a_changed_result_changes_the_table(monkeypatch):
    result = json.loads((ROOT / "docs" / "results" / "train.json").read_text(encoding="utf-8"))
    result["variants"][0]["seconds_per_step"] = 9.125
    before = tables.block("train")
    monkeypatch.setattr(figures, "load", lambda name: result)
    after = tables.block("train")
    assert "| 1.748 |" in before and before.replace("| 1.748 |", "| 9.125 |") == after


def test_every_number_of_a_table_is_in_its_result_file():
    """Without the code that formats them: each number is one of the file's, rounded."""
    for name in ("decode", "train", "lm-eval", "look-ahead", "repetition"):
        _, sources = tables.TABLES[name]
        texts = [(ROOT / "docs" / "results" / f"{source}.json").read_text(encoding="utf-8") for source in sources]
        if sources == ("studies",):
            texts = [(ROOT / "docs" / "studies" / name / "results.csv").read_text(encoding="utf-8")]
        known = [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", " ".join(texts))]
        lines = [line for line in tables.block(name).splitlines() if line.startswith("|")][2:]
        cells = [cell for line in lines for cell in line.split("|")[2:-1]]
        shown = re.findall(r"\d+(?:\.\d+)?", " ".join(cells))
        assert len(shown) > 10
        for number in shown:
            half = 0.5001 * 10 ** -len(number.partition(".")[2])
            near = (abs(float(number) - value) for value in known + [1000 * value for value in known])
            assert min(near) <= half, (name, number)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- figures: no-such -->\n<!-- /figures -->", "'no-such' is no table"),
        ("<!-- figures: train -->\n| a |\n", "needs a <!-- /figures -->"),
        ("<!-- figures: train -->\n<!-- figures: decode -->\n<!-- /figures -->", "needs a <!-- /figures -->"),
    ],
)
def test_broken_markers_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        tables.rewritten(text)


def test_every_table_is_shown_and_every_result_file_is_used():
    shown = {name for path in tables.documents() for _, name, _ in tables.BLOCK.findall(path.read_text())}
    assert shown == set(tables.TABLES)
    assert {path.stem for path in RESULTS} == {source for _, sources in tables.TABLES.values() for source in sources}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_file_names_a_command_that_makes_it(path, monkeypatch):
    result = json.loads(path.read_text(encoding="utf-8"))
    program, *arguments = shlex.split(result["command"])
    if program == "python":
        assert (ROOT / arguments[0]).is_file()
    if "benchmark" not in result:
        return
    assert arguments[0] == f"benchmarks/{result['benchmark']}.py"
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # train.py imports decode
    monkeypatch.setattr(sys, "argv", arguments)
    given = vars(script(result["benchmark"]).parse_arguments())
    given["model"] = given.get("model") and Path(given["model"]).name
    for name in ("new_tokens", "repeats", "attention", "tail_lengths", "model", "preset", "steps", "dtype"):
        if name in result:
            assert result[name] == given[name], name
