# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Output folders: used, interrupted, half written, resumed."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import TINY, assert_one_line_error, invoke, same_weights, start

from trainer.checkpoints import last_complete_checkpoint, missing_from

pytestmark = pytest.mark.usefixtures("own_folder")


def test_a_used_output_folder_is_refused_and_overwritten_on_demand(trained, story_file, tmp_path):
    shutil.copytree(trained[0], "out")
    flags = ["train", "--data", story_file, "--output-dir", "out", *TINY, "--max-steps", 1]
    assert_one_line_error(invoke(*flags), "a finished model", "--resume-from-checkpoint last", "--overwrite")
    Path("out/config.json").unlink()
    assert_one_line_error(invoke(*flags), "checkpoints", "--resume-from-checkpoint last", "--overwrite")
    assert invoke(*flags, "--overwrite").exit_code == 0
    assert [path.name for path in Path("out").glob("checkpoint-*")] == ["checkpoint-1"]


def test_resuming_skips_a_half_written_checkpoint_and_ends_with_the_same_weights(trained, story_file):
    shutil.copytree(trained[0], "out")
    Path("out/config.json").unlink()
    Path("out/model.safetensors").unlink()
    Path("out/checkpoint-4/trainer_state.json").write_text('{"epoch": ')  # killed while it was written
    assert missing_from(Path("out/checkpoint-4")) == ["trainer_state.json"]
    assert last_complete_checkpoint(Path("out")) == Path("out/checkpoint-2")
    flags = [*TINY, "--save-steps", 2, "--logging-steps", 1, "--resume-from-checkpoint", "last"]
    result = invoke("train", "--data", story_file, "--output-dir", "out", *flags)
    assert result.exit_code == 0, result.output
    assert "Skipping out/checkpoint-4: incomplete, without trainer_state.json" in result.output
    assert same_weights("out", trained[0])


def test_a_checkpoint_without_one_of_its_shards_is_incomplete(trained):
    shutil.copytree(trained[0] / "checkpoint-4", "checkpoint-4")
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    Path("checkpoint-4/model.safetensors").rename(Path("checkpoint-4", shards[0]))
    index = {"weight_map": {"head.weight": shards[0], "backbone.wte.weight": shards[1]}}
    Path("checkpoint-4/model.safetensors.index.json").write_text(json.dumps(index))
    assert missing_from(Path("checkpoint-4")) == [shards[1]]


def test_without_a_complete_checkpoint_resuming_begins_anew(story_file):
    Path("out/checkpoint-2").mkdir(parents=True)
    result = invoke(
        "train",
        "--data",
        story_file,
        "--output-dir",
        "out",
        *TINY,
        "--max-steps",
        1,
        "--resume-from-checkpoint",
        "last",
    )
    assert result.exit_code == 0, result.output
    assert "begins at step 0" in result.output


LONGER = [*TINY, "--max-steps", 60, "--logging-steps", 1, "--validation-fraction", 0]


@pytest.fixture(scope="module")
def whole_run(story_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    assert invoke("train", "--data", story_file, "--output-dir", folder, *LONGER).exit_code == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_from_which_training_ends_as_without_it(number, story_file, whole_run):
    command = ["train", "--data", story_file, "--output-dir", "out", *LONGER]
    process = start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "'loss'" in line:
            break
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(60) == 128 + number, rest
    assert "Go on with the same command and --resume-from-checkpoint last" in rest
    (checkpoint,) = Path("out").glob("checkpoint-*")
    assert not missing_from(checkpoint) and 0 < int(checkpoint.name.partition("-")[2]) < 60

    result = invoke(*command, "--resume-from-checkpoint", "last")
    assert result.exit_code == 0, result.output
    assert same_weights("out", whole_run)


def test_an_interrupted_folder_points_to_its_checkpoint(trained):
    shutil.copytree(trained[0] / "checkpoint-4", "out/checkpoint-4")
    for name in ("tokenizer.json", "tokenizer_config.json"):  # saved before training begins
        shutil.copy(trained[0] / name, "out")
    assert_one_line_error(invoke("generate", "out", "hello"), "its last checkpoint is out/checkpoint-4")
