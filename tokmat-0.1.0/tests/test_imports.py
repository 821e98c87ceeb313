# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Imports point downward and run in no circle, read from the source; and `trainer` is ours."""

import ast
import graphlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_tokmat", "trainer")
# What each layer may import of ours, beside itself; the first that a name begins with is its layer.
LAYERS = {
    "modeling_tokmat": (),
    "trainer.cli": ("trainer.commands",),
    "trainer.commands": ("trainer.studies", "trainer.evaluation", "trainer", "modeling_tokmat"),
    "trainer.studies": ("trainer.evaluation", "trainer", "modeling_tokmat"),
    "trainer.evaluation": ("trainer", "modeling_tokmat"),
    "trainer": ("trainer.evaluation", "modeling_tokmat"),  # the trainer reports what a tail knows
}
# What travels inside a checkpoint must find nothing but these where it is loaded.
TRAVELS_WITH = {"torch", "transformers"} | sys.stdlib_module_names


@cache
def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, source: str, is_package: bool) -> set[str]:
    """What a module imports, wherever in it: dotted names, ours as far as they are modules."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            inside = {f"{base}.{alias.name}" for alias in node.names}
            submodules = inside & modules().keys()
            found |= submodules | ({base} if len(submodules) < len(inside) else set())
    return found


@cache
def imports() -> dict[str, set[str]]:
    return {
        name: imported(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")
        for name, path in modules().items()
    }


def layer(name: str) -> str:
    return next(key for key in LAYERS if name == key or name.startswith(f"{key}."))


def test_reading_imports_finds_every_form():
    source = "import os\nfrom . import lab\nfrom ..data import END_OF_TEXT\ndef f():\n    from .lab import Lab\n"
    found = imported("trainer.studies.drift", source, False)
    assert found == {"os", "trainer.studies.lab", "trainer.data"}
    assert imported("trainer.studies", "from .lab import Lab", True) == {"trainer.studies.lab"}
    assert imports()["trainer.training_run"] >= {"trainer.models", "trainer.data", "modeling_tokmat", "transformers"}


def test_imports_point_downward():
    wrong = []
    for name, found in imports().items():
        for other in found & modules().keys():
            if layer(other) != layer(name) and layer(other) not in LAYERS[layer(name)]:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_circle():
    graph = {name: found & modules().keys() - {name} for name, found in imports().items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")
    assert order.index("trainer.data") < order.index("trainer.training_run") < order.index("trainer.commands.train")


def test_what_travels_with_a_checkpoint_needs_torch_and_transformers_alone():
    for name, found in imports().items():
        if name.startswith("modeling_tokmat"):
            outside = {other.partition(".")[0] for other in found} - {"modeling_tokmat"} - TRAVELS_WITH
            assert not outside, (name, outside)


def test_the_packages_are_named_one_by_one():
    """A wheel holds every sub-package, and nothing else of the repository."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11 on
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert set(named) == packages | {"trainer.shipped"}  # the models in the box, which lie in checkpoints/


def test_trainer_is_ours(tmp_path):
    """Another distribution may bring a `trainer` too; from anywhere, and with nothing set, ours is found."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import trainer; print(trainer.__file__); print(trainer.TokMatDataCollator.__module__)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    path, home = result.stdout.split()
    assert Path(path).parts[-2:] == ("trainer", "__init__.py") and home == "trainer.collator"
    from importlib.metadata import packages_distributions

    assert set(packages_distributions()["trainer"]) == {"tokmat"}
