# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The models in the box: they load anywhere, write what they wrote, and a tail changes no token."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import invoke
from peft import PeftConfig
from safetensors import safe_open

from trainer.checkpoints import AR_STORIES, STORIES, in_the_box, load_model, load_tokenizer

ROOT = Path(__file__).parents[1]
MOST_MB = 16
# Forty tokens, the likeliest logit of each more than 0.05 above the next: no machine rounds that away.
TEXTS = {
    "Tom": (
        " and Lily were playing in the park. They liked to run and jump and slide. But they did not see a big dog. The"
        " dog was big and brown and had a long tail.\n\n"
    ),
    "Sara had a": (
        " big box in her room. She wanted to open it and see what was inside. But she was too small and she could not"
        " open it.\n\n\"No, I don't want to open"
    ),
    "Max liked to": (
        " play with his toy cars. He had a big red car that he liked very much. Max was a little boy. He liked to run"
        " and jump and play with his cars.\n\nOne day"
    ),
    "Once upon a time": (
        ", there was a little girl named Lily. She loved to play outside in the sun. One day, she saw a big, red"
        " ball in her yard. It was so pretty and had a lot"
    ),
}
BEGINNINGS = [
    f"{who} {what}"
    for who in ("Once upon a time, a cat", "Lily", "One day, Tom", "The big bear", "A bird")
    for what in ("was", "went to the", "saw a", "wanted")
]


@pytest.fixture(scope="module")
def stories():
    return load_model(STORIES).eval(), load_tokenizer(STORIES)


@pytest.mark.parametrize("name", [STORIES, AR_STORIES])
def test_a_model_in_the_box_is_small_and_whole(name):
    folder = Path(in_the_box(name))
    assert folder.parent == ROOT / "checkpoints"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_MB * 1e6
    assert {"README.md", "config.json", "generation_config.json", "tokenizer.json"} <= set(os.listdir(folder))
    assert load_model(name).dtype == torch.float32  # on any machine; the file holds bfloat16


def test_the_tail_of_smollm2_is_at_most_20_megabytes():
    folder = ROOT / "checkpoints" / "smollm2-135m-instruct-tail"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20e6
    assert {"README.md", "tail_adapter.safetensors", "tail_adapter_config.json"} <= set(os.listdir(folder))


def test_the_adapter_of_smollm2_is_small_and_names_its_source():
    folder = ROOT / "checkpoints" / "smollm2-135m-instruct-argmax"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12e6
    config = PeftConfig.from_pretrained(folder)
    assert config.base_model_name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct" and config.r == 16
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
        assert all(file.get_tensor(name).dtype == torch.bfloat16 for name in names)
    assert len(names) == 2 * 7 * 30 and all(name.startswith("base_model.model.model.layers.") for name in names)


def test_its_code_is_the_package_s():
    """After a change of the code: `cp modeling_tokmat/*_tokmat.py checkpoints/tokmat-stories`."""
    copies = sorted(Path(in_the_box(STORIES)).glob("*_tokmat.py"))
    assert [path.name for path in copies] == sorted(
        path.name for path in (ROOT / "modeling_tokmat").glob("*_tokmat.py")
    )
    for path in copies:
        assert path.read_bytes() == (ROOT / "modeling_tokmat" / path.name).read_bytes(), path.name


def test_it_writes_what_it_wrote(stories):
    model, tokenizer = stories
    assert len(TEXTS) >= 3
    for prompt, text in TEXTS.items():
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=40)
        assert tokenizer.decode(ids[0], skip_special_tokens=True) == prompt + text


def test_the_tail_changes_no_token_and_saves_passes(stories):
    model, tokenizer = stories
    passes = tokens = 0
    for prompt in BEGINNINGS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        one = model.generate(**inputs, max_new_tokens=60, tail_length=1, commit="front")
        verified = model.generate(**inputs, max_new_tokens=60, return_dict_in_generate=True)
        assert verified.sequences.tolist() == one.tolist(), prompt
        tokens += one.shape[1] - inputs["input_ids"].shape[1]
        passes += (one.shape[1] - inputs["input_ids"].shape[1]) / verified.tokens_per_forward
    assert tokens / passes > 1.5


def test_it_loads_with_the_code_in_its_folder_alone(tmp_path):
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; folder = sys.argv[1]\n"
        "model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)\n"
        "assert 'modeling_tokmat' not in sys.modules and 'trainer' not in sys.modules\n"
        "inputs = tokenizer('Once upon a time', return_tensors='pt', return_token_type_ids=False)\n"
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=8)[0], skip_special_tokens=True))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HOME"] = str(tmp_path / "hf")
    command = [sys.executable, "-c", script, in_the_box(STORIES)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Once upon a time") and len(result.stdout) > 25


def test_the_short_name_works_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("generate", STORIES, "Once upon a time", "--max-new-tokens", 8)
    assert result.exit_code == 0 and result.output.startswith("Once upon a time"), result.output
