# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks run, and their last line on stdout is what it should be. Never how fast: machines differ."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DECODE = (
    "--tail-lengths 1,3 --rules verified --batches 1,2 --prefixes 8,48 --new-tokens 8 --repeats 2 --keep-environment"
)
TRAIN = "--variants cross_entropy,uniform --batch-size 2 --block-size 16 --steps 2 --repeats 2 --warmup 1"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Both at once, for most of their time goes into imports: {"decode": (JSON on stdout, JSON in the file), ...}."""
    folder, found = tmp_path_factory.mktemp("benchmarks"), {}
    processes = {}
    for name, sizes in (("decode", DECODE), ("train", TRAIN)):
        command = [sys.executable, BENCHMARKS / f"{name}.py", "--preset", "tiny", "--threads", "1", *sizes.split()]
        command += ["--output", folder / f"{name}.json"]
        processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for name, process in processes.items():
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        found[name] = json.loads(output.splitlines()[-1]), json.loads((folder / f"{name}.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["decode.json", "train.json"]
    return found


@pytest.mark.parametrize("name", ["decode", "train"])
def test_last_line_is_the_written_json(results, name):
    printed, written = results[name]
    assert printed == written
    assert printed["benchmark"] == name and printed["preset"] == "tiny"
    assert {"cpu", "cores", "threads", "torch", "transformers", "allocator_variables"} <= printed["machine"].keys()
    assert printed["machine"]["threads"] == 1


def test_decode(results):
    result = results["decode"][0]
    rows = {(r["dtype"], r["batch"], r["prefix"], r["decoder"]): r for r in result["measurements"]}
    assert len(rows) == len(result["measurements"]) == 2 * 2 * 2 * 4
    assert {name for *_, name in rows} == {"greedy", "K=1", "K=3", "K=3 verified"}
    for (dtype, _, _, name), row in rows.items():
        tail_length = row["tail_length"]
        assert dtype in ("bf16", "fp32")
        assert (name == "greedy") == (tail_length is None) == (row["bare"] is None)
        assert tail_length is None or (row["bare"] > 0 and row["tokens_per_forward"] > 0)
        assert row["ratio"] > 0 and row["call_ratio"] > 0
        assert len(row["seconds_of_calls"]) == len(row["seconds_of_tokens"]) == 1  # prompts
        assert row["same_text"] is (True if name == "K=3 verified" and dtype == "fp32" else row["same_text"])
        assert row["target"] == (0.95 if tail_length == 1 else None)
        if tail_length is None:
            assert row["ratio"] == row["call_ratio"] == 1
    assert len(result["growth"]) == 2 * 2 * 3
    for row in result["growth"]:
        assert row["prefixes"] == [8, 48] and row["target"] == 1.1
        assert row["ratio"] > 0


def test_train(results):
    baseline, uniform = results["train"][0]["variants"]
    assert (baseline["variant"], uniform["variant"]) == ("cross_entropy", "uniform")
    assert baseline["speed_ratio"] == baseline["memory_ratio"] == 1
    assert uniform["speed_ratio"] > 0 and uniform["memory_ratio"] > 0
    assert uniform["target_speed"] == uniform["target_memory"] == 1
    for row in (baseline, uniform):
        assert row["tokens_per_second"] > 0 and row["peak_memory_mb"] > 50
        assert [len(segment) for segment in row["step_seconds"]] == [2, 2]
