# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The README's commands run, in order, in an empty directory; so do the examples. What documents name is there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# What a test can wait for; everything else of a command is as the README has it.
SMALLER = ["--backbone", "tiny", "--max-steps", "3", "--vocab-size", "300", "--block-size", "32", "--eval-steps", "3"]


GOING_ON = ["--max-steps", "2", "--block-size", "32", "--eval-steps", "2"]  # where the model is given
DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
FEW = "--prompts 4 --prompt-tokens 6 --new-tokens 8 --seeds 1 --verified-prompts 1 --mauve-continuations 20".split()


def blocks(language, page="README.md"):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, story_file):
    """An empty directory but for a text file, and the models in the box where a checkout has them."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "stories.txt").write_text(story_file.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    return folder


def run(folder, command):
    scripts = Path(sys.executable).parent
    command = [str(scripts / command[0]) if command[0] in ("tokmat", "python") else command[0], *command[1:]]
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, f"{command}\n{result.stdout[-1500:]}\n{result.stderr[-3000:]}"
    return result.stdout


def test_python_blocks_run_one_after_the_other(directory):
    # The settings' page goes on with the model that the README loads, before the README makes another one.
    load, *further = blocks("python")
    assert len(further) == 1 and len(load.strip().splitlines()) == 6
    code = "\n".join([load, *blocks("python", "docs/SETTINGS.md"), *further])
    assert "AutoModelForCausalLM" in code and "TokMatTrainer" in code and "output_maturation" in code
    assert "Once upon a time" in run(directory, ["python", "-c", code])
    assert (directory / "my-other-model" / "modeling_tokmat.py").is_file()


def test_shell_blocks_run_one_after_the_other(directory):
    commands = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    commands = [command for command in commands if command]
    assert [command for command in commands if command[0] == "make"] == [["make", "demo"], ["make", "test"]]
    for command in commands:
        if command[0] == "make":
            dry = subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, capture_output=True, text=True)
            assert dry.returncode == 0 and {"demo": "tokmat demo", "test": "pytest"}[command[1]] in dry.stdout
        elif command[:2] == ["tokmat", "train"]:
            run(directory, [*command, *(GOING_ON if "--model" in command else SMALLER)])
        elif command[:2] == ["tokmat", "generate"]:
            assert "Once upon a time" in run(directory, command)
        elif command[:2] == ["tokmat", "evaluate"]:
            assert "tail_acc_2" in run(directory, [*command, *FEW])
        elif command[:2] == ["tokmat", "reproduce"]:  # tests/test_studies.py runs them; here the flags are checked
            assert "--held-out" in run(directory, [*command, "--help"])
        elif command[:2] == ["tokmat", "own-text"]:
            assert "8 of 8 answers" in run(directory, [*command, "--texts", "8", "--max-new-tokens", "24"])
        else:
            run(directory, command)
    for folder in ("my-model", "ar", "start", "base", "seeing"):
        assert (directory / folder / "model.safetensors").is_file()
    assert (directory / "results" / "results.md").is_file()


def test_what_the_page_of_settings_is_made_of_has_the_fields_of_the_committed_file(directory):
    usage = (ROOT / "examples" / "show_settings.py").read_text(encoding="utf-8")
    command = shlex.split(re.search(r"^ *(python examples/.*)$", usage, flags=re.MULTILINE)[1])
    run(directory, ["python", str(ROOT / "examples" / "show_settings.py"), *command[2:]])
    found, committed = (
        json.loads((folder / "settings.json").read_text()) for folder in (directory, ROOT / "docs/results")
    )
    assert found.keys() == committed.keys() and found["rows"][0].keys() == committed["rows"][0].keys()
    assert [row["changed"] for row in found["rows"]] == [row["changed"] for row in committed["rows"]]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS])
def test_links_and_files_that_a_page_names_exist(page):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"`((?:docs|tests|benchmarks|examples|modeling_tokmat|trainer|hub_cards)/[\w./]*)`", text):
        assert (ROOT / name).exists() or page == "CHANGELOG.md", name
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in anchors, anchor


def test_every_picture_of_docs_is_shown():
    shown = {
        (path.parent / link).resolve()
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    }
    pictures = [path for kind in ("png", "gif", "svg") for path in (ROOT / "docs").rglob(f"*.{kind}")]
    assert {path.resolve() for path in pictures} == shown


def test_checks_before_a_commit_and_on_a_server_are_those_of_make():
    (pinned,) = re.findall(r"^(ruff==\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == ["ruff check --force-exclude", "ruff format --force-exclude"]
    assert all(hook["additional_dependencies"] == [pinned] for hook in hooks)
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert "ruff check ." in subprocess.run(["make", "-n", "lint"], cwd=ROOT, capture_output=True, text=True).stdout
