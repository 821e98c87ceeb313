# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks of pretrained models run on a tiny one, and the last line on stdout is what it should be."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import average
import draft_costs
import pytest
import ship
import spec_bench
import tail_rank
import torch
from safetensors.torch import load_file

from trainer.checkpoints import load_model, load_tokenizer
from trainer.conversion import from_autoregressive
from trainer.models import make_baseline
from trainer.recipes import SOURCE_TAIL

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A source, a model with an untrained tail beside it, chat questions, texts, and answers of the source."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    source = make_baseline(None, "tiny", tokenizer).eval()
    for name, model in (
        ("source", source),
        ("tail", from_autoregressive(source, **SOURCE_TAIL | {"tail_adapter_rank": 2, "parallel_tails": 4})),
    ):
        model.save_pretrained(folder / name)
        tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
        tokenizer.save_pretrained(folder / name)
        tokenizer.chat_template = None
    kinds = ("writing", "math", "coding", "stem", "extraction", "roleplay", "translation", "translation", "rag")
    questions = [{"category": kind, "turns": [f"Once upon a time, {number}"]} for number, kind in enumerate(kinds)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    animals = ("fox", "cat", "dog")  # no prompt is taken twice
    texts = [f"The {animal} lived in a green wood. " * 40 for animal in animals]
    (folder / "texts.txt").write_text("\n<|endoftext|>\n".join(texts) + "\n")
    ids = tokenizer("Once upon a time there was a small fox.")["input_ids"]
    answer = {"prompt_ids": ids[:4], "answer_ids": ids * 2, "text": "", "kind": "texts", "rep3": 0.0, "loops": False}
    (folder / "own.jsonl").write_text((json.dumps(answer) + "\n") * 3)
    return folder


def run(folder, name, *arguments):
    command = [sys.executable, BENCHMARKS / f"{name}.py", *arguments, "--output", folder / f"{name}.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed == json.loads((folder / f"{name}.json").read_text()) and printed["benchmark"] == name
    assert printed["command"].startswith(f"python benchmarks/{name}.py ")
    return printed


@pytest.mark.slow  # processes of its own
def test_spec_bench(folder):
    sizes = ("--per-category", "5", "--new-tokens", "12", "--threads", "1", "--keep-environment")
    given = ("--source", "source", "--model", "tail", "--spec-bench", "questions.jsonl", "--data", "texts.txt")
    names = ["greedy, compiled", "prompt lookup", "K = 1", "tail", "tail + lookup"]
    groups = run(folder, "spec_bench", *given, *sizes, "--decoders", *names)["groups"]
    # Of MT-bench's kinds together as many as of each other category.
    numbers = {kind: found["greedy"]["prompts"] for kind, found in groups.items() if not kind.startswith("all ")}
    assert numbers == {"mt_bench": 5, "translation": 2, "rag": 1, "texts": 3, "all": 11}
    for decoders in groups.values():
        assert list(decoders) == ["greedy", *names]
        for name, found in decoders.items():
            assert found["same_text"] == found["prompts"], name  # float32
            least = 0.9 if name in ("prompt lookup", "tail", "tail + lookup") else 1
            assert found["tokens_per_forward"] >= least and found["speed"] > 0
        assert decoders["greedy"]["tokens_per_forward"] == decoders["greedy"]["accepted"] == 1


@pytest.mark.slow  # processes of its own
def test_tail_accuracy(folder):
    result = run(folder, "tail_accuracy", "tail", "own.jsonl", "--answers", "2")
    assert result["answers"] == 2 and len(result["rows"]) == 8
    for row in result["rows"]:
        assert len(row["accuracy"]) == 4 and all(0 <= share <= 1 for share in row["accuracy"])
        assert 1 <= row["tokens_per_forward"] <= 5 and row["places"] > 0


@pytest.mark.slow  # a process per arm, each of which imports everything
def test_tail_ablations(folder):
    given = ("source", "ablations", "--data", "texts.txt", "--held-out", "texts.txt", "--texts", "6", "--steps", "4")
    given += (
        "--batch-size",
        "2",
        "--block-size",
        "64",
        "--new-tokens",
        "24",
        "--loop-share",
        "1",
        "--held-out-texts",
        "4",
    )
    arms = ["fresh embryos", "no successor head", "real text"]
    result = run(folder, "tail_ablations", *given, "--arms", ",".join(arms))
    assert [row["name"] for row in result["rows"]] == arms
    for row in result["rows"]:
        for held in ("carried", "fresh"):
            assert len(row[held]["accuracy"]) == 4 and row[held]["places"] > 0
            assert 1 <= row[held]["tokens_per_forward"] <= 5
        assert row["cpu_ms_per_token"] > 0 and row["peak_memory_mb"] > 0
    fresh, without, real = (row["parameters"] for row in result["rows"])
    assert without < fresh == real
    saved = [
        json.loads((folder / "ablations" / name / "config.json").read_text())
        for name in ("fresh-embryos", "real-text")
    ]
    assert [values["rollout_passes"] for values in saved] == [0, 1]
    # What is finished is kept, and only under the same settings.
    (folder / "ablations" / "real-text" / "config.json").unlink()
    assert run(folder, "tail_ablations", *given, "--arms", "real text")["rows"] == result["rows"][2:]
    with pytest.raises(AssertionError, match="other settings"):
        run(folder, "tail_ablations", *given, "--learning-rate", "1")


@pytest.mark.slow  # a process per stage, each of which imports everything
def test_convert(folder):
    result = run(folder, "convert", "source", "--repeats", "1", "--tail-adapter-rank", "2")
    # Their order is no test: on a busy machine importing alone may take longer than importing and converting.
    for stage in ("import", "convert"):
        assert all(result[stage][key] > 0 for key in ("cpu_seconds", "seconds", "peak_memory_mb"))


@pytest.mark.slow  # the same
def test_train(folder):
    sizes = "--batch-size 2 --block-size 24 --steps 2 --repeats 1 --warmup 1 --rank 2 --dtype fp32"
    lora, tail = run(folder, "train", "--source", "source", *sizes.split())["variants"]
    assert (lora["variant"], tail["variant"]) == ("lora", "tail") and lora["speed_ratio"] == 1
    assert tail["target_memory"] == 0.6 and tail["target_speed"] == pytest.approx(1 / 0.6, rel=1e-5)
    assert all(row["tokens_per_second"] > 0 and row["peak_memory_mb"] > 50 for row in (lora, tail))


@pytest.mark.slow  # processes of its own
def test_wide_pass(folder):
    result = run(
        folder, "wide_pass", "source", "--positions", "1,3", "--prefix", "5", "--repeats", "1", "--threads", "1"
    )
    found = {(row["of"], row["kernel"]): row["milliseconds"] for row in result["rows"]}
    for of in ("linear layers", "whole model"):
        for kernel in ("plain", "transposed", "swapped", "int8"):
            assert len(found[of, kernel]) == 2 and min(found[of, kernel]) > 0


def test_what_drafts_cost_is_found_from_the_seconds_of_steps():
    fed = [(1, False), (10, False), (5, True), (8, True), (20, True)]
    steps = [(0.05 * (1 + 0.4 + 0.2 * slots + 0.03 * positions), positions, slots) for positions, slots in fed]
    held_up, plain = (9.0, 3, True), (0.05, 0, False)
    found = draft_costs.explained([*steps, held_up, plain], base=0.05)
    assert found == pytest.approx({"drafting": 0.4, "slots": 0.2, "position": 0.03}, abs=1e-5)
    widths = {(row["slots"], row["positions"]): row["steps"] for row in draft_costs.by_width([*steps, plain], 0.05)}
    assert widths == {(False, 1): 1, (False, 8): 1, (True, 4): 1, (True, 8): 1, (True, 16): 1}


@pytest.mark.slow  # a process of its own
def test_draft_costs(folder):
    result = run(folder, "draft_costs", "tail", "--new-tokens", "24")
    assert result["milliseconds"] > 0 and {row["slots"] for row in result["widths"]} == {False, True}
    assert result["prices"] == {"drafting": 0.3, "slots": 0.15, "position": 0.02}


@torch.no_grad()
def test_every_way_of_a_wide_pass_is_the_same_product(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    wide_pass = importlib.import_module("wide_pass")
    weight, vectors = torch.randn(48, 32), torch.randn(1, 3, 32)
    for name, kernel in wide_pass.KERNELS.items():
        loss = 0.02 if name in ("int8", "bf16") else 1e-5
        expected = vectors @ weight.t()
        torch.testing.assert_close(
            kernel(weight, 3)(vectors), expected, rtol=0, atol=loss * expected.abs().max().item()
        )


def test_average_keeps_what_the_first_has_alone(folder, tokenizer, tmp_path):
    first = load_model(str(folder / "tail"))
    torch.manual_seed(1)
    other = from_autoregressive(make_baseline(None, "tiny", tokenizer))
    other.save_pretrained(tmp_path / "other")
    average.average(str(folder / "tail"), str(tmp_path / "other"), tmp_path / "mean", 0.75)
    mean, rest = load_model(str(tmp_path / "mean")).state_dict(), other.state_dict()
    assert any("tail_adapters" in name for name in mean.keys() - rest.keys())
    for name, tensor in first.state_dict().items():
        wanted = 0.75 * tensor + 0.25 * rest[name] if name in rest and tensor.is_floating_point() else tensor
        torch.testing.assert_close(mean[name], wanted)
    with pytest.raises(ValueError, match="--weight is 1.5"):
        average.average(str(folder / "tail"), str(tmp_path / "other"), tmp_path / "no", 1.5)
    with pytest.raises(ValueError, match="is no model of the shape of"):
        average.average(str(tmp_path / "other"), str(folder / "tail"), tmp_path / "no", 0.5)
    assert not (tmp_path / "no").exists()


def test_speed_is_of_tokens_where_texts_end_at_different_places():
    row = {"prompt": 0, "passes": 5, "same_text": False, "drafts_taken": None}
    rows = [
        row | {"decoder": "greedy", "tokens": 40, "seconds": 4.0},
        row | {"decoder": "tail", "tokens": 10, "seconds": 0.5},
    ]
    assert spec_bench.summary(rows)["tail"]["speed"] == 2.0


def test_a_tail_of_another_rank_does_what_it_did_and_ships_in_half_precision(folder, tmp_path):
    narrow = load_model(str(folder / "tail"))
    for name, weight in narrow.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    wide = tail_rank.with_rank(narrow, 5)
    assert wide.config.tail_adapter_rank == 5 and narrow.config.tail_adapter_rank == 2
    ids, maturity = torch.arange(2, 14)[None], torch.full((1, 12), 0.4)
    given = {"input_ids": ids, "maturity": maturity, "tail_length": 4}
    with torch.no_grad():
        predicted = narrow(**given).predicted_embeds
        torch.testing.assert_close(wide(**given).predicted_embeds, predicted)
        assert not torch.allclose(narrow(ids).predicted_embeds, predicted)
        torch.testing.assert_close(tail_rank.with_rank(wide, 2)(**given).predicted_embeds, predicted)
    fewer = tail_rank.with_rank(narrow, 2, ".*(?<!k_proj)")
    assert len(fewer.tail_adapters) == len(narrow.tail_adapters) * 6 // 7
    for name, adapter in narrow.tail_adapters.items():
        adapter.lora_B.data.mul_(not name.endswith("k_proj"))
    with torch.no_grad():
        torch.testing.assert_close(fewer(**given).predicted_embeds, narrow(**given).predicted_embeds)
    a, b = torch.randn(6, 30), torch.randn(20, 6)
    nearest = [low @ high for high, low in (tail_rank.narrowed(a, b, rank) for rank in (3, 6))]
    lost = torch.linalg.svdvals(b @ a)[3:6].square().sum().sqrt()
    torch.testing.assert_close((nearest[0] - b @ a).norm(), lost)
    torch.testing.assert_close(nearest[1], b @ a)
    with pytest.raises(ValueError, match="rank is 0, of a model with 2; allowed: both at least 1"):
        tail_rank.with_rank(narrow, 0)
    wide.save_pretrained(tmp_path / "wide")
    load_tokenizer(str(folder / "tail")).save_pretrained(tmp_path / "wide")
    ship.ship(str(tmp_path / "wide"), tmp_path / "shipped")
    saved = load_file(tmp_path / "shipped" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert load_model(str(tmp_path / "shipped")).dtype == torch.float32
