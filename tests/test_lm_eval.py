# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""benchmarks/lm_eval: its files are consistent, and lm_eval's numbers are those of the model's own logits and text."""

import importlib.util
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "lm_eval"
NAMES = ["tokmat_story_endings", "tokmat_story_perplexity", "tokmat_story_words"]
BATCH = 8


@pytest.fixture(scope="module")
def utils():
    spec = importlib.util.spec_from_file_location("utils", FOLDER / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tasks():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    tasks = [yaml.load(path.read_text(encoding="utf-8"), Loader) for path in FOLDER.glob("*.yaml")]
    return {task["task"]: task for task in tasks}


def test_each_task_reads_fields_that_its_data_have(tasks, utils):
    assert sorted(tasks) == NAMES
    for task in tasks.values():
        module, function = task["custom_dataset"].split(".")
        assert module == "utils" and task["tag"] == "tokmat_stories"
        rows = getattr(utils, function)(version=1.0, pretrained="a folder")[task["test_split"]]
        assert len(rows) >= 12
        for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
            field = task.get(key, "").strip("{}")  # "{{story}}", or the name alone
            assert field in ("", *rows.column_names), key


def test_each_ending_is_right_for_one_story_of_three(utils):
    rows = utils.endings()["test"].to_list()
    assert len({row["story"] for row in rows}) == len(rows) == 60
    groups = [rows[start : start + 3] for start in range(0, 60, 3)]
    for group in groups:
        assert [row["label"] for row in group] == [0, 1, 2]
        assert all(row["choices"] == group[0]["choices"] for row in group) and len(set(group[0]["choices"])) == 3
    assert len({choice for group in groups for choice in group[0]["choices"]}) == 60
    for text in [row["story"] for row in rows] + [choice for row in rows for choice in row["choices"]]:
        assert text == " ".join(text.split()) and text[0].isupper() | (text[0] == '"') and text[-1] in '.!?"'


def test_each_last_word_has_been_read_before(utils):
    rows = utils.words()["test"].to_list()
    assert len({row["story"] for row in rows}) == len(rows) == 24
    for row in rows:
        assert row["word"] in re.findall(r"\w+", row["story"]) and not row["story"].endswith(row["word"])
        assert row["story"] == " ".join(row["story"].split())


def test_stories_are_documents_and_may_be_the_users_own(utils, tmp_path):
    texts = utils.stories()["test"]["text"]
    assert len(set(texts)) == 12 and all(80 < len(text.split()) < 130 and text == text.strip() for text in texts)
    (tmp_path / "my.txt").write_text("One.\n<|endoftext|>\nTwo\nlines.\n<|endoftext|>\n", encoding="utf-8")
    assert utils.stories(text=tmp_path / "my.txt")["test"]["text"][:] == ["One.", "Two\nlines."]


@pytest.fixture
def command():
    """The command that the documents give, in a block of its own kind: other blocks run where lm_eval is not."""
    page = (ROOT / "docs/RESULTS.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(lm_eval .*?)```", page, re.DOTALL)
    command = shlex.split(block.replace("\\\n", " "))
    assert command[command.index("--batch_size") + 1] == str(BATCH)
    command[command.index("--include_path") + 1] = str(ROOT / command[command.index("--include_path") + 1])
    return [sys.executable, "-m", *command]


def test_the_documents_give_the_command_that_the_slow_test_runs(command):
    assert command[command.index("--tasks") + 1] == "tokmat_stories"


def log_likelihood(model, context, target):
    """Of the target after the last part of the context for which there are positions."""
    ids = torch.tensor([context + target])[:, -model.config.max_position_embeddings - 1 :]
    with torch.no_grad():
        scores = model(ids[:, :-1]).logits[0, -len(target) :].log_softmax(-1)
    return scores.gather(1, ids[0, -len(target) :, None]).sum().item()


@pytest.mark.slow  # lm_eval's own imports take most of the time
@pytest.mark.parametrize("kind", ["tokmat", "autoregressive"])
def test_lm_eval_measures_what_the_model_computes(command, kind, make_model, tokenizer, utils, tmp_path):
    # Not `lm_eval`: without the package that is the folder of tasks in benchmarks/.
    pytest.importorskip("lm_eval.evaluator", reason='needs lm-eval: pip install -e ".[eval]"')
    if kind == "tokmat":
        model = make_model("llama", vocab_size=len(tokenizer))
        model.generation_config.update(tail_length=4)
    else:  # the same command, but that there is no code to trust
        command = [part.replace(",trust_remote_code=True", "") for part in command]
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "max_position_embeddings": 64}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **special)).eval()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "demo-model")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command += ["--log_samples", "--output_path", "out"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    (report,) = tmp_path.glob("out/*/results_*.json")
    report = json.loads(report.read_text(encoding="utf-8"))
    assert sorted(report["results"]) == NAMES

    def samples(task):
        (path,) = tmp_path.glob(f"out/*/samples_{task}_*.jsonl")
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [line["doc"] for line in lines], [line["resps"] for line in lines]

    def encode(text):
        return tokenizer(text)["input_ids"]

    # Rolling: each window scores as many tokens as the model has positions, after as much as still fits.
    window, total, words = model.config.max_position_embeddings, 0.0, 0
    for text in utils.stories()["test"]["text"]:
        ids = [tokenizer.bos_token_id] + encode(text)
        for start in range(1, len(ids), window):
            total += log_likelihood(model, ids[:start], ids[start : start + window])
        words += len(text.split())
    measured = report["results"]["tokmat_story_perplexity"]["word_perplexity,none"]
    assert measured == pytest.approx(math.exp(-total / words), rel=1e-4)

    hits = informed = 0
    documents, answers = samples("tokmat_story_endings")
    assert documents == utils.endings()["test"].to_list()
    for row, answer in zip(documents, answers, strict=True):
        story, endings = encode(row["story"]), [encode(" " + choice) for choice in row["choices"]]
        assert all(encode(f"{row['story']} {choice}") == story + end for choice, end in zip(row["choices"], endings))
        scores = torch.tensor([log_likelihood(model, story, ending) for ending in endings])
        alone = torch.tensor([log_likelihood(model, [tokenizer.bos_token_id], ending) for ending in endings])
        theirs = torch.tensor([float(score) for ((score, _),) in answer])
        torch.testing.assert_close(theirs, torch.cat([scores, alone]), rtol=1e-5, atol=1e-3)
        hits += scores.argmax().item() == row["label"]
        informed += (scores - alone).argmax().item() == row["label"]
    measured = report["results"]["tokmat_story_endings"]
    assert measured["acc,none"] == pytest.approx(hits / 60)
    assert measured["acc_mutual_info,none"] == pytest.approx(informed / 60)

    # Generation, one by one here and in left-padded batches there, up to the first stop string.
    for row, (((text,),)) in zip(*samples("tokmat_story_words"), strict=True):
        ids = torch.tensor([encode(row["story"])])[:, 8 - window :]
        new = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=1)[0, ids.shape[1] :]
        assert text == re.split(r"[.!?,]", tokenizer.decode(new, skip_special_tokens=True))[0]
