# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Training that is killed at any moment goes on to the same weights, and a run that replaces another loses neither.

`TOKMAT_HOSTILE_SHARE=0.1` runs a tenth of it.
"""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from command_line import TINY, invoke, same_weights, start

from modeling_tokmat import TokMatForContinuousLM
from trainer.checkpoints import is_finished, whole_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folder")]

KILLS = max(round(20 * float(os.environ.get("TOKMAT_HOSTILE_SHARE", "1"))), 2)
LONGER = [*TINY, "--max-steps", 40, "--save-steps", 3, "--logging-steps", 1, "--validation-fraction", 0]


def kill(command, seconds: float) -> bool:
    """Start, wait for the first step and as long again as is said, kill; whether there was something to kill."""
    process = start(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if "'loss'" in line:
            break
    time.sleep(seconds)
    running = process.poll() is None
    process.kill()
    process.wait(60)
    process.stdout.close()
    return running


@pytest.fixture(scope="module")
def whole(story_file, tmp_path_factory):
    """(folder of a run that nobody killed, its seconds per step)."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    began = time.monotonic()
    assert invoke("train", "--data", story_file, "--output-dir", folder, *LONGER).exit_code == 0
    return folder, (time.monotonic() - began) / 40


@pytest.mark.timeout(3600)
def test_killed_runs_end_with_the_same_weights(story_file, whole):
    command = ["train", "--data", story_file, "--output-dir", "out", *LONGER, "--resume-from-checkpoint", "last"]
    draw = random.Random(0)
    for _ in range(KILLS):
        while kill(command, draw.uniform(0, 15 * whole[1])) and draw.random() < 0.3:
            pass  # killed again
        if not is_finished(Path("out")):
            result = invoke(*command)
            assert result.exit_code == 0, result.output
        assert same_weights("out", whole[0]) and not list(Path("out").glob(".saving-*"))
        shutil.rmtree("out")


@pytest.mark.timeout(3600)
def test_a_killed_run_that_replaces_another_leaves_the_old_or_a_checkpoint(story_file, whole):
    command = ["train", "--data", story_file, "--output-dir", "out", *LONGER, "--seed", 5, "--overwrite"]
    draw = random.Random(1)
    for _ in range(KILLS):
        shutil.copytree(whole[0], "out")
        kill(command, draw.uniform(0, 8 * whole[1]))
        if is_finished(Path("out")):
            assert same_weights("out", whole[0]) or TokMatForContinuousLM.from_pretrained("out") is not None
        else:
            assert whole_checkpoint(Path("out")) is not None
        shutil.rmtree("out")
