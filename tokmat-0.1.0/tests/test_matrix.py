# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""benchmarks/matrix.py, with a uv that makes environments of this one: what it counts, and what it says."""

import json
import os
import sys
from pathlib import Path

import pytest
from tables import block
from test_figures import figures, script

ROOT = Path(__file__).parents[1]
UV = f"""#!{sys.executable}
import os, sys
arguments = sys.argv[1:]
with open("{{log}}", "a") as file:
    print(os.environ.get("UV_TORCH_BACKEND"), *arguments, file=file)
if arguments[0] == "venv":
    if "3.12" in arguments:
        sys.exit("No interpreter found for Python 3.12")
    os.makedirs(arguments[-1] + "/bin", exist_ok=True)
    with open(arguments[-1] + "/bin/python", "w") as file:
        file.write('#!/bin/sh\\nexec {sys.executable} "$@"')
    os.chmod(file.name, 0o755)
elif arguments[:2] == ["pip", "list"]:
    names = ["torch", "transformers", "peft", "huggingface-hub", "datasets", "accelerate"]
    print([dict(name=name, version="1.0+cpu") for name in names].__repr__().replace("'", '"'))
"""


@pytest.fixture
def matrix(tmp_path, monkeypatch, capsys):
    """matrix(*arguments): exit status and what is written, run over two test files of its own."""
    (tmp_path / "uv").write_text(UV.replace("{log}", str(tmp_path / "log")))
    (tmp_path / "uv").chmod(0o755)
    declared = '[project]\ndependencies = [\n    "torch>=2.5,<9",\n    "numpy>=1.0",\n]\n[a]\nb = ["ruff>=1"]\n'
    (tmp_path / "pyproject.toml").write_text(declared)
    (tmp_path / "tests").mkdir()
    counted = "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip\ndef test_c(): pass\n"
    (tmp_path / "tests" / "test_counted.py").write_text(counted)
    (tmp_path / "tests" / "test_crash.py").write_text("import os\ndef test_a(): os._exit(7)\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("UV_INDEX", raising=False)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = script("matrix")
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["matrix.py", *arguments, "--output", str(tmp_path / "matrix.json")])
        with pytest.raises(SystemExit) as ended:
            module.main()
        written = json.loads((tmp_path / "matrix.json").read_text(encoding="utf-8"))
        assert written == json.loads(capsys.readouterr().out.splitlines()[-1])
        return ended.value.code, written

    return run


def test_rows_count_what_the_tests_say_and_others_stay(matrix, tmp_path, monkeypatch):
    status, found = matrix("--pythons", "3.11", "--tests", "counted")
    assert status == 1 and [row["end"] for row in found["rows"]] == ["oldest", "newest"]
    assert all((row["passed"], row["failed"], row["skipped"]) == (1, 1, 1) for row in found["rows"])
    log = (tmp_path / "log").read_text()
    assert "cpu pip install" in log and " torch==2.5 numpy==1.0" in log and " torch>=2.5,<9 numpy>=1.0" in log
    status, found = matrix("--pythons", "3.12", "3.10", "--ends", "oldest", "--tests", "crash")
    rows = [(row["python"], row["end"], row.get("error")) for row in found["rows"]]
    crash = "pytest ended with 7, without a report"
    missing = "No interpreter found for Python 3.12"
    assert status == 1 and rows == [
        ("3.10", "oldest", crash), ("3.11", "oldest", None), ("3.11", "newest", None), ("3.12", "oldest", missing)
    ]  # fmt: skip
    monkeypatch.setattr(figures, "load", lambda name: found)
    table = block("versions")
    assert "| 3.11 | oldest | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1 | 1 | 1 |" in table
    assert "| 3.12 | oldest |  |  |  |  |  |  | not run |  |  |" in table
