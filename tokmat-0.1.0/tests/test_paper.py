# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""docs/PAPER.md names functions that exist, and names every equation and every study."""

import importlib
import re
from pathlib import Path

import pytest

from trainer.studies import STUDIES

TEXT = (Path(__file__).parents[1] / "docs" / "PAPER.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`((?:\w+_tokmat|trainer)(?:\.\w+)+)`", TEXT)))


def resolve(name: str):
    """What a dotted name stands for: the longest part of it that is a module, then attributes.

    Raises:
        ImportError, AttributeError: it stands for nothing.
    """
    parts = name.split(".")
    parts = parts if parts[0] == "trainer" else ["modeling_tokmat", *parts]
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError(f"{name} is no module")


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_exists(name):
    assert callable(resolve(name))


@pytest.mark.parametrize("name", ["maturation_tokmat.no_such", "no_such_tokmat.decode", "trainer.no_such.study"])
def test_what_does_not_exist_is_found_out(name):
    with pytest.raises((ImportError, AttributeError)):
        resolve(name)


def test_the_page_is_whole():
    assert all(f"Eq. {number}" in TEXT for number in range(1, 9))
    assert {f"trainer.studies.{name}.study" for name in STUDIES} <= set(NAMES)
    assert len(NAMES) > 40
