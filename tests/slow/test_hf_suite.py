# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Hugging Face's own test classes over TokMat (hf_suite.py), out of the source distribution of the installed
transformers: fetched with pip, unpacked beside the repository's caches, never committed. `make hf-suite` runs it.

A distribution lacks some of the modules that these classes import; what these would hold is then left out.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".hf-suite"
SKIPS = json.loads(Path(__file__).with_name("hf_suite_skips.json").read_text(encoding="utf-8"))
LEFT_OUT = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: ...\n",
    "generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


@pytest.fixture(scope="module")
def suite() -> Path:
    """A folder to import `transformers_tests` from."""
    if importlib.util.find_spec("parameterized") is None:
        pytest.fail("transformers' tests need the package parameterized: pip install parameterized")
    wanted = f"transformers=={importlib.metadata.version('transformers')}"
    folder = CACHE / wanted
    if folder.is_dir():
        return folder
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        fetch += ["--no-binary", "transformers", "--dest", temporary, wanted]
        subprocess.run(fetch, check=True, timeout=600)
        (archive,) = Path(temporary).glob("transformers-*.tar.gz")
        package = Path(temporary, "whole", "transformers_tests")
        with tarfile.open(archive) as file:
            for member in file.getmembers():
                _, _, name = member.name.partition("/tests/")
                if member.isfile() and name.endswith(".py") and member.name.count("/tests/") == 1:
                    place = package / name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(file.extractfile(member).read())
        for name, text in LEFT_OUT.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            if not (package / name).exists():
                (package / name).write_text(text, encoding="utf-8")
        package.parent.rename(folder)
    return folder


@pytest.mark.parametrize("model", ["GPT2", "Llama", "Qwen3", "Converted"])
def test_transformers_own_tests_pass(suite, model, tmp_path):
    command = [sys.executable, "-m", "pytest", f"{Path(__file__).with_name('hf_suite.py')}::Test{model}", "-q"]
    command += ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:warnings", "--tb=short", "--timeout", "600"]
    command += ["-rfE", "--junitxml", str(tmp_path / "report.xml")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(suite)])}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]

    cases = list(ElementTree.parse(tmp_path / "report.xml").iter("testcase"))
    skipped = {case.get("name") for case in cases if case.find("skipped") is not None}
    assert len(cases) - len(skipped) > 90
    listed = {name for group, names in SKIPS.items() if group != "refused" for name in sum(names.values(), [])}
    assert skipped <= listed | set(SKIPS["refused"]), "skipped without a reason in hf_suite_skips.json"
    assert set(SKIPS["refused"]) <= skipped, "refused tests that the suite has no longer"
