# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""One version, written down in pyproject.toml."""

import re
from pathlib import Path

import pytest

import modeling_tokmat
import trainer

ROOT = Path(__file__).resolve().parents[1]


def test_both_packages_and_the_citation_have_the_version_of_the_distribution():
    found = [
        re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
        for name, pattern in (("pyproject.toml", r'^version = "(.+)"$'), ("CITATION.cff", r"^version: (.+)$"))
    ]
    assert {modeling_tokmat.__version__, trainer.__version__, *found} == {found[0]}


def test_other_names_are_still_unknown():
    for package in (modeling_tokmat, trainer):
        with pytest.raises(AttributeError, match="no_such_name"):
            package.no_such_name  # noqa: B018
