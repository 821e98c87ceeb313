# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Damaged and hostile input on the command line: one line each, with the file and the line where there is one."""

import json
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import TINY, assert_one_line_error, invoke, start

pytestmark = pytest.mark.usefixtures("own_folder", "datasets_cache")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "bad.jsonl, line 2"),
        ("bad.json", b'{"text": 3', "bad.json, line 1"),
        ("array.json", b'[{"text": "a"},', "array.json"),
        ("empty.jsonl", b"", "it is empty"),
        ("bad.csv", b"text,x\na,b\nc,d,e,f\n", "line 3"),
        ("bytes.csv", b"\xff,\xfe\n", "bytes.csv"),
        ("empty.csv", b"", "empty.csv"),
        ("bad.parquet", b"x", "bad.parquet"),
    ],
)
def test_tables_that_cannot_be_read(name, content, expected):
    Path(name).write_bytes(content)
    result = invoke("train", "--data", name, "--output-dir", "out", *TINY)
    assert_one_line_error(result, "tokmat train: ", expected)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data", ""], "empty name"),
        (["--deepspeed", "nowhere.json"], "`deepspeed` is 'nowhere.json'"),
        (["--backbone", "huge.json"], "hidden_size"),
        (["--backbone", "range.json"], "Validation error for field 'initializer_range'"),
        (["--num-negatives", 10**9, "--negatives", "uniform"], "bytes"),
    ],
)
def test_values_that_cannot_be(flags, expected, story_file):
    for name, field in (("huge", "hidden_size"), ("range", "initializer_range")):
        Path(f"{name}.json").write_text(json.dumps({"model_type": "llama", field: 10**400}))
    arguments = [*(["--data", story_file] * ("--data" not in flags)), "--output-dir", "out", *TINY, *flags]
    assert_one_line_error(invoke("train", *arguments), "tokmat train: ", expected)
    assert not Path("out").exists()


def test_prompts_that_are_no_text_and_rows_that_no_memory_holds(models):
    assert_one_line_error(invoke("generate", models[0], "a\udcffb"), "is not UTF-8 text")
    flags = ["hello", "--max-new-tokens", 2, "--num-return-sequences", 10**9]
    assert_one_line_error(invoke("generate", models[0], *flags), "num_return_sequences")
    process = start("generate", models[0], b"\xff\xfe".decode(errors="surrogateescape"), stderr=subprocess.PIPE)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and errors.count(b"\n") == 1, errors


def test_a_disk_that_is_full_is_told_and_leaves_nothing(models):
    shutil.copytree(models[2], "ar")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        result = invoke("convert", "ar", "converted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line_error(result, "converted cannot be written to: is the disk full?")
    assert not list(Path("converted").iterdir())
