# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Two processes (gloo) train as one does on the same global batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
import torch
sys.path.insert(0, sys.argv[1])
from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from trainer import TokMatDataCollator, TokMatTrainer, TokMatTrainingArguments
torch.manual_seed(0)
model = TokMatForContinuousLM(TokMatConfig.tiny(context_negatives=1.0, clean_probability=0.2)).double()
generator = torch.Generator().manual_seed(1)
rows = []
for index in range(32):
    border = 4 + index % 14
    ids = torch.randint(2, 97, (24,), generator=generator).tolist()
    rows.append({"input_ids": ids, "position_ids": [*range(border), *range(24 - border)]})
class InOrder(TokMatTrainer):
    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)
arguments = TokMatTrainingArguments(
    sys.argv[2], max_steps=3, per_device_train_batch_size=8 // int(os.environ.get("WORLD_SIZE", 1)), use_cpu=True,
    report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, lr_scheduler_type="constant",
)
collator = TokMatDataCollator(pad_token_id=1)
trainer = InOrder(model, arguments, train_dataset=rows, eval_dataset=rows[:11], data_collator=collator)
trainer.train()
metrics = trainer.evaluate()
if trainer.is_world_process_zero():
    names = ("loss", "grad_norm", "regression_loss", "contrastive_loss")
    logged = [{name: entry[name] for name in names} for entry in trainer.state.log_history if "loss" in entry]
    weights = sum(weight.double().abs().sum().item() for weight in model.parameters())
    with open(sys.argv[3], "w") as file:
        json.dump({"logged": logged, "weights": weights, "perplexity": metrics["eval_perplexity"]}, file)
"""


def test_two_processes_equal_one(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    found = []
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, launcher in (("one", []), ("two", launch)):
        command = [sys.executable, *launcher, tmp_path / "train.py", root, tmp_path / name, tmp_path / f"{name}.json"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert result.returncode == 0, result.stderr[-3000:]
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    one, two = found
    for alone, together in zip(one["logged"], two["logged"], strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-9)
    assert two["perplexity"] == pytest.approx(one["perplexity"], rel=1e-6)
