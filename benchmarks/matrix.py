# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The declared ranges of pyproject.toml at both ends, on every Python: versions, and what the tests say there.

    python benchmarks/matrix.py --output docs/results/matrix.json        (make matrix)
    python benchmarks/matrix.py --pythons 3.12 --ends oldest

uv makes each environment (.matrix/): of every dependency the oldest release that is declared, or the newest that
resolves. torch is the CPU build of PyTorch's own index; where UV_INDEX is set, what lies there goes first instead. The
tests are those of TESTS: the commands, loading, generation, training. Where uv neither finds nor can fetch a Python,
the row says so. The last line on stdout is one JSON object.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

from decode import machine_facts, report

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python benchmarks/matrix.py --output docs/results/matrix.json"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ENDS = ("oldest", "newest")
SHOWN = ("torch", "transformers", "peft", "huggingface-hub", "datasets", "accelerate")
TESTS = "cli configuration loading generation trainer"


def uv(*arguments, **options) -> subprocess.CompletedProcess:
    environment = dict(os.environ)
    if "UV_INDEX" not in environment:
        environment["UV_TORCH_BACKEND"] = "cpu"
    command = ["uv", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, **options)


def dependencies(end: str) -> list[str]:
    """What pyproject.toml asks for; for the oldest end exactly the lower bounds."""
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\ndependencies = [")[2].partition("]")[0]
    found = re.findall(r'"(([\w-]+)>=([\d.]+).*)"', listed)
    return [f"{name}=={low}" if end == "oldest" else line for line, name, low in found]


def make_environment(python: str, end: str) -> Path:
    """The interpreter of a new environment with the package's dependencies at one end of their ranges.

    Raises:
        RuntimeError: what uv says of a Python that is not to be had, or of ranges that do not resolve.
    """
    folder = ROOT / ".matrix" / f"{python}-{end}"
    interpreter = folder / "bin" / "python"
    install = ("pip", "install", "--python", interpreter)
    for step in (
        ("venv", "--clear", "--python", python, folder),
        (*install, *dependencies(end)),
        (*install, "--no-deps", "--editable", "."),
        (*install, "pytest", "pytest-timeout", "hypothesis", "matplotlib"),
    ):
        done = uv(*step)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
    return interpreter


def tested(interpreter: Path, tests: list[str]) -> dict:
    """The versions in an environment, and what the tests count there.

    Raises:
        RuntimeError: pytest did not come to its end.
    """
    listed = json.loads(uv("pip", "list", "--format", "json", "--python", interpreter, check=True).stdout)
    versions = {package["name"]: package["version"] for package in listed}
    report = interpreter.parents[1] / "tests.xml"
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    files = [f"tests/test_{name}.py" for name in tests]
    done = subprocess.run(
        [*command, *files], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=2
    )  # stderr
    if not report.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}, without a report")
    (suite,) = xml.etree.ElementTree.parse(report).getroot().iter("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    row = {"packages": {name: versions[name] for name in SHOWN}}
    row |= {"passed": counts["tests"] - failed - counts["skipped"], "failed": failed, "skipped": counts["skipped"]}
    return row | {"seconds": round(float(suite.get("time")))}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", choices=PYTHONS, default=PYTHONS)
    parser.add_argument("--ends", nargs="+", choices=ENDS, default=ENDS)
    parser.add_argument("--tests", nargs="+", default=TESTS.split(), help="names of test files: modeling, cli, ...")
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file; other rows of it stay")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    machine = {name: value for name, value in machine_facts().items() if name in ("cpu", "cores")}
    result = {"benchmark": "matrix", "command": COMMAND, "machine": machine, "tests": args.tests, "rows": []}
    if args.output and args.output.exists():  # rows of environments that are not asked for now stay
        result |= json.loads(args.output.read_text(encoding="utf-8"))
    result["tests"] = args.tests
    rows = {(row["python"], row["end"]): row for row in result["rows"]}
    for python in args.pythons:
        for end in args.ends:
            row = {"python": python, "end": end}
            try:
                row |= tested(make_environment(python, end), args.tests)
            except RuntimeError as error:
                row |= {"error": str(error)}
            rows[python, end] = row
            result["rows"] = [
                rows[key] for key in sorted(rows, key=lambda key: (PYTHONS.index(key[0]), key[1] == "newest"))
            ]
            report(result, args.output)
    sys.exit(any(row.get("failed", 1) for row in result["rows"]))


if __name__ == "__main__":
    main()
