# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Every block of code in docs/, the cards and CONTRIBUTING.md runs, tiny models in place of large ones. What cannot
run is named with its reason, and its flags are checked. (tests/test_readme.py runs README.md and docs/SETTINGS.md.)"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import invoke
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[1]
PAGES = [path for folder in ("docs", "checkpoints", "hub_cards") for path in sorted((ROOT / folder).rglob("*.md"))]
PAGES = [str(path.relative_to(ROOT)) for path in [*PAGES, ROOT / "CONTRIBUTING.md"]]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n)+)")

# What stands in a document, and what is run instead.
SMALLER = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "source",
    "checkpoints/smollm2-135m-instruct-tail": "tail",
    "checkpoints/smollm2-135m-instruct-argmax": "worn",
    "path/to/tokmat-model": "checkpoints/tokmat-stories",
    "path/to/maturation_generate": "hub_cards/maturation_generate",
    "MODEL": "my-model",
    "BEFORE": "my-model",
}
FEW = {
    "own-text": "--texts 8 --max-new-tokens 24 --dtype float32",
    "train": "--max-steps 2 --block-size 32 --per-device-train-batch-size 2 --loop-share 1",
    "generate": "--max-new-tokens 4",
    "card": "--no-sample",
    "picture": "--tail-length 3 --max-new-tokens 20",
    "picture drift": "",
    "picture losses": "",
}
NOT_RUN = {
    "tokmat push my-model me/my-model --private": "asks the Hub; tests/test_hub_push.py pushes to a server of its own",
    "tokmat push hub_cards/space me/tokmat": "asks the Hub",
    "tokmat reproduce lessons ": "hours; tests/test_studies.py runs it on a small budget",
    "tokmat demo --page": "a server; tests/test_space.py asks it",
    "transformers chat ": "asks a server; tests/test_serve.py loads a model in it",
    "jupyter execute ": "minutes; tests/test_notebook.py runs it",
    "lm_eval ": "a package of its own; tests/test_lm_eval.py has the tasks",
    "pip install ": "asks a package index",
    "python examples/serve.py ": "a server; tests/test_serve.py loads a model in it",
    "curl ": "asks that server",
    "make ": "hours, or this very suite; the target is looked up",
    "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 make ": "this very suite",
    "python -m pytest ": "this very suite; the file is looked up",
    "python benchmarks/": "for an idle machine; tests/test_benchmarks.py runs them, the flags are looked up",
}


def blocks(page):
    """(language, text) of each block of a page that is code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    indented = [("sh", block) for block in INDENTED.findall(FENCED.sub("", text))]
    return [(language, block) for language, block in FENCED.findall(text) if language] + indented


def commands(pages):
    """The shell commands of some pages, one line each."""
    found = [block for page in pages for language, block in blocks(page) if language in ("sh", "bash")]
    lines = re.sub(r"\\\n\s*", "", "\n".join(found)).splitlines()
    return [line.strip() for line in lines if line.strip()]


def reason(line):
    return next((NOT_RUN[start] for start in NOT_RUN if line.startswith(start)), None)


@pytest.fixture(scope="module")
def folder(models, story_file, tmp_path_factory):
    """What the documents speak of: a source, a model, texts; and the checkout's own folders."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("checkpoints", "hub_cards", "benchmarks", "examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(models[2], folder / "source")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (folder / "source" / "chat_template.jinja").write_text(template, encoding="utf-8")
    adapted = AutoModelForCausalLM.from_pretrained(folder / "source")
    get_peft_model(adapted, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")).save_pretrained(
        folder / "worn"
    )
    shutil.copytree(models[0], folder / "my-model")
    logged = {"log_history": [{"step": step, "loss": 3.0 / step} for step in (1, 2, 3)]}
    (folder / "my-model" / "trainer_state.json").write_text(json.dumps(logged), encoding="utf-8")
    stories = story_file.read_text(encoding="utf-8")
    (folder / "stories.txt").write_text(stories, encoding="utf-8")
    (folder / "results").mkdir()
    results = (ROOT / "docs" / "results" / "stories-50.json").read_text(encoding="utf-8")
    results = json.dumps(json.loads(results) | {"models": ["my-model"]})
    (folder / "results" / "results.json").write_text(results, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(folder):
    """What the commands of all pages make, in their order."""
    lines = [line for line in commands(PAGES) if not reason(line)]
    assert len(lines) >= 8 and all(line.startswith("tokmat ") for line in lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # The tail is made where its own page says so, before the card that attaches it.
        for line in sorted(lines, key=lambda line: "attach" in line or " generate " in line):
            for name, instead in SMALLER.items():
                line = line.replace(name, instead)
            _, verb, *arguments = shlex.split(line, comments=True)
            if verb == "attach":
                shutil.rmtree(arguments[2], ignore_errors=True)  # several pages attach one
            fewer = FEW.get(f"{verb} {arguments[0]}", FEW.get(verb, ""))
            result = invoke(verb, *arguments, *fewer.split())
            assert result.exit_code == 0, f"{line}\n{result.output[-2000:]}"
    return folder


def test_commands_run_in_the_order_of_their_page(made):
    assert (made / "smol" / "model.safetensors").is_file() and (made / "my-model" / "README.md").is_file()


@pytest.mark.parametrize("page", [page for page in PAGES if any(language == "python" for language, _ in blocks(page))])
def test_python_blocks_run(request, monkeypatch, page):
    if page == "docs/SETTINGS.md":
        return  # goes on with what README.md loads: tests/test_readme.py
    blocks_of_page = "".join(block for _, block in blocks(page))
    # Commands run once per process of tests, and only where a page needs what they make.
    monkeypatch.chdir(request.getfixturevalue("made" if '"smol"' in blocks_of_page else "folder"))
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "checkpoints" / "tokmat-stories")
    inputs = tokenizer("Once", return_tensors="pt", return_token_type_ids=False)
    inputs["input_ids"] = inputs["input_ids"] % 300  # of the tiny model's vocabulary
    for language, block in blocks(page):
        for name, instead in {**SMALLER, "me/my-model": "my-model"}.items():
            block = block.replace(name, instead)
        if language == "python":
            exec(compile(block, page, "exec"), {"AutoModelForCausalLM": AutoModelForCausalLM, "inputs": inputs})


@pytest.mark.parametrize("line", [line for line in commands(PAGES) if reason(line)])
def test_what_is_not_run_could_run(line):
    command = [word for word in shlex.split(line, comments=True) if not re.match(r"^[A-Z_]+=", word)]
    flags = [word for word in command if word.startswith("--")]
    if command[0] == "make":
        made = subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
    elif command[0] == "tokmat":
        assert all(flag in invoke(command[1], "--help").output for flag in flags)
    elif command[0] == "python" and command[1].startswith("benchmarks/"):
        told = subprocess.run(
            [sys.executable, *command[1:2], "--help"], cwd=ROOT, capture_output=True, text=True
        ).stdout
        assert all(flag in told for flag in flags), told
    elif command[0] == "curl":
        assert json.loads(command[command.index("-d") + 1])["messages"]
    for word in command:
        if re.match(r"(tests|benchmarks|examples)/", word):
            assert (ROOT / word).exists(), word


def test_each_exception_is_met():
    lines = commands(PAGES)
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []


def test_the_first_page_begins_as_the_readme_does():
    found = [block for _, block in FENCED.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert all(block in found for _, block in blocks("docs/index.md"))
