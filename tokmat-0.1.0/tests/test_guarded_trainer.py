# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Nothing good is lost: replaced outputs, diverged runs, damaged and half-written checkpoints, full disks."""

import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from command_line import TINY, assert_one_line_error, invoke, same_weights
from transformers import PreTrainedTokenizerFast

from trainer.checkpoints import checkpoints, missing_from, whole_checkpoint
from trainer.collator import TokMatDataCollator
from trainer.tokmat_trainer import TokMatTrainer
from trainer.training_args import TokMatTrainingArguments

pytestmark = pytest.mark.usefixtures("own_folder")


def files(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(Path(folder).rglob("*")) if path.is_file()}


@pytest.fixture
def out(trained):
    shutil.copytree(trained[0], "out")
    return Path("out")


@pytest.fixture
def train(story_file):
    """train(*flags): `tokmat train` into the folder "out"."""

    def run(*flags):
        return invoke("train", "--data", story_file, "--output-dir", "out", *TINY, "--logging-steps", 1, *flags)

    return run


# -- what is replaced -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("--learning-rate nan", "learning_rate"),
        ("--optim adamw_bnb_8bit", "bitsandbytes"),
        ("--learning-rate 1e30 --max-grad-norm 0 --warmup-steps 0", "not finite"),
        ("--deepspeed nowhere.json", "deepspeed"),
    ],
)
def test_a_run_that_does_not_start_replaces_nothing(flags, expected, out, train):
    before = files(out)
    result = train("--overwrite", *flags.split())
    assert_one_line_error(result, "tokmat train: ", expected)
    assert files(out) == before


def test_a_replaced_run_goes_with_the_first_whole_checkpoint(out, train, monkeypatch):
    seen = []
    save = TokMatTrainer._save_optimizer_and_scheduler
    monkeypatch.setattr(
        TokMatTrainer,
        "_save_optimizer_and_scheduler",
        lambda trainer, folder: seen.append((out / "config.json").is_file()) or save(trainer, folder),
    )
    old = set(files(out))
    result = train("--overwrite", "--max-steps", 3, "--save-steps", 1, "--seed", 4)
    assert result.exit_code == 0, result.output
    assert seen == [True, False, False]  # the old model is there until the first checkpoint is written
    assert [path.name for path in checkpoints(out)] == ["checkpoint-3", "checkpoint-2"]
    assert not [path for path in out.rglob("*") if ".saving" in path.name or path.name.endswith(".old")]
    assert not any("checkpoint-4" in str(path) for path in files(out)) and old


class Killed(BaseException):
    """What a process that is killed does: nothing more."""


@pytest.mark.parametrize("moment", ["gathering", "tokenizer", "checkpoint", "model"])
def test_what_was_replaced_comes_back_if_nothing_whole_took_its_place(moment, out, train, monkeypatch):
    before = files(out)
    replace = os.replace
    places = {
        "gathering": lambda target: target.parent.name == ".saving-replacing" and target.name == "model.safetensors",
        "tokenizer": lambda target: target == out / "tokenizer_config.json",
        "checkpoint": lambda target: target == out / "checkpoint-1",
        "model": lambda target: target == out / "config.json",
    }

    def move(source, target):
        if places[moment](Path(target)):
            raise Killed
        replace(source, target)

    saving = ["--save-strategy", "no"] if moment == "model" else ["--save-steps", 1]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("trainer.checkpoints.os.replace", move)
        train("--overwrite", "--max-steps", 2, "--vocab-size", 290, *saving)
    assert not (out / "config.json").exists() or moment == "gathering"
    assert_one_line_error(train("--max-steps", 2), "already holds a finished model")
    found = files(out)
    assert {name: found.get(name) for name in before} == before


def test_a_full_disk_when_the_old_model_goes_leaves_it(out, train, monkeypatch):
    before = files(out)

    save = PreTrainedTokenizerFast.save_pretrained

    def full(*args, **kwargs):
        if (out / ".saving-replaced").is_dir():
            raise OSError("no space left on device")
        return save(*args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)
    result = train("--overwrite", "--max-steps", 2, "--save-steps", 5)
    assert_one_line_error(result, "disk full")
    assert {name: content for name, content in files(out).items() if ".saving" not in str(name)} == before


# -- losses that are not finite ---------------------------------------------------------------------------------------


def test_a_diverged_run_stops_and_saves_nothing(train):
    flags = ["--learning-rate", "1e30", "--max-grad-norm", 0, "--warmup-steps", 0]
    result = train("--max-steps", 30, *flags, "--lr-scheduler-type", "constant")
    assert_one_line_error(result, "not finite", "no checkpoint of this run")
    assert not list(Path("out").rglob("*.safetensors"))


def rows(count, length=12):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(2, 97, (length,), generator=generator).tolist()} for _ in range(count)]


class Spoilt(TokMatTrainer):
    """The loss, or the weights after it, are NaN at one step."""

    spoil, at, everywhere = "loss", 3, False

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        now = self.state.global_step + 1 == self.at and self.model.training
        if now and self.spoil == "weights":
            self.model.head.bias.register_hook(lambda gradient: gradient * torch.nan)
        return loss * torch.nan if now and self.spoil == "loss" else loss


@pytest.mark.parametrize(
    "spoil, late, expected",
    [("loss", False, "step 3 "), ("loss", True, "step 3 "), ("weights", False, "are not saved")],
)
def test_the_step_and_the_last_good_checkpoint_are_named(spoil, late, expected, make_model, monkeypatch):
    values = {"save_steps": 2 if spoil == "loss" else 1, "logging_steps": 4, "max_grad_norm": 0.0}
    args = TokMatTrainingArguments(
        "out", max_steps=8, per_device_train_batch_size=2, use_cpu=True, report_to="none", **values
    )
    collator = TokMatDataCollator(pad_token_id=1)
    trainer = Spoilt(make_model(), args, train_dataset=rows(20), data_collator=collator)
    trainer.spoil = spoil
    if late:  # as on an accelerator, where losses are not read at every step
        monkeypatch.setattr(type(args), "world_size", property(lambda self: 2))
        monkeypatch.setattr(trainer.accelerator, "reduce", lambda value, *how, **kwargs: value)
        monkeypatch.setattr(trainer.accelerator, "gather", lambda value: value)
    with pytest.raises(ValueError, match="finite|NaN") as error:
        trainer.train()
    assert expected in str(error.value) and "the last good checkpoint is out/checkpoint-2" in str(error.value)
    if spoil == "loss":
        assert "whose first row begins with the ids [" in str(error.value)
    assert trainer.state.global_step == {"loss": 4 if late else 2, "weights": 3}[spoil]
    assert [path.name for path in checkpoints(Path("out"))][:1] == ["checkpoint-2"]


# -- damaged checkpoints ----------------------------------------------------------------------------------------------

DAMAGED = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth", "config.json")


@pytest.mark.parametrize("how", ["half", "empty"])
@pytest.mark.parametrize("name", DAMAGED + ("tokenizer.json",))
def test_resuming_passes_over_a_damaged_checkpoint(name, how, out, trained, train):
    for left in ("config.json", "model.safetensors"):
        (out / left).unlink()
    (out / ".saving-abc").mkdir()
    path = out / "checkpoint-4" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if how == "half" else 0])
    assert whole_checkpoint(out) == out / "checkpoint-2"
    assert_one_line_error(train("--resume-from-checkpoint", "out/checkpoint-4"), "out/checkpoint-4", name)
    result = train("--save-steps", 2, "--resume-from-checkpoint", "last")
    assert result.exit_code == 0, result.output
    assert result.output.count("Skipping out/checkpoint-4: ") == 1 and name in result.output
    assert same_weights("out", trained[0]) and not missing_from(out / "checkpoint-4")
    assert not list(out.glob(".saving-*"))


def test_a_full_disk_is_told_in_one_line_and_leaves_what_was_whole(out, train):
    for left in ("config.json", "model.safetensors"):
        (out / left).unlink()
    shutil.rmtree(out / "checkpoint-4")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [(out / "checkpoint-2" / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (sum(sizes) // 2, hard))  # the optimizer's state does not fit
    try:
        result = train("--save-steps", 1, "--resume-from-checkpoint", "last")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line_error(result, "the checkpoint of step 4 cannot be written", "last good checkpoint is out/check")
    assert not missing_from(out / "checkpoint-2") and not list(out.glob(".saving-*"))
