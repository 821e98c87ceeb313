# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The built wheel, in a virtual environment of its own; the source distribution makes the same one."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # builds with the package index, as users do
def test_the_wheel_imports_and_runs_in_a_clean_environment(tmp_path, story_file):
    def run(*command, **kwargs):
        result = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, cwd=tmp_path, **kwargs
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("tokmat-*.whl")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, ROOT)
    (source,) = tmp_path.glob("tokmat-*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "again", source)
    (again,) = (tmp_path / "again").glob("tokmat-*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()
    run(sys.executable, "-m", "venv", tmp_path / "clean")
    scripts = tmp_path / "clean" / "bin"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HOME"] = str(tmp_path / "hf")
    run(scripts / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel, env=environment)
    # The dependencies come from here; an editable install of ours is not seen through a path file.
    (site,) = (tmp_path / "clean" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    code = "import modeling_tokmat, trainer, trainer.commands.train; print(modeling_tokmat.__file__, trainer.__file__)"
    for path in run(scripts / "python", "-c", code, env=environment).split():
        assert Path(path).is_relative_to(tmp_path / "clean"), path
    small = "--backbone tiny --max-steps 2 --vocab-size 300 --block-size 32 --output-dir model".split()
    run(scripts / "tokmat", "train", "--data", story_file, *small, env=environment)
    text = run(scripts / "tokmat", "generate", "model", "The fox", "--max-new-tokens", "4", env=environment)
    assert text.startswith("The fox")
    run(scripts / "tokmat", "card", "model", "--prompt", "The fox", env=environment)  # the template is in the wheel
    assert "It printed:" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    text = run(scripts / "tokmat", "generate", "stories", "Once upon a time", "--max-new-tokens", "4", env=environment)
    assert text.startswith("Once upon a time")  # the model in the box, from the wheel alone
