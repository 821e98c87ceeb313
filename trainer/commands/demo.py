# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat demo`: train a small model, then let a fresh process load it and write."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .. import recipes
from ..checkpoints import checkpoints, is_finished
from ..training_run import TrainingPlan, bf16_supported, fit


def run(folder: Path, minutes: float, steps: int | None, data: str) -> int:
    if is_finished(folder):
        print(f"{folder} already holds a trained model (delete the folder to train it again).", flush=True)
    else:
        per_minute = recipes.DEMO_STEPS_PER_MINUTE
        steps = max(round(minutes * per_minute), 1) if steps is None else steps
        estimate = f"about {steps / per_minute:.2g} minutes on two idle CPU cores with bf16"
        here = "" if bf16_supported() else "; this machine has no bf16, expect several times as long"
        print(f"Training {steps} steps: {estimate}{here}. Ctrl-C saves; the same command then goes on.", flush=True)
        code = fit(demo_plan(folder, steps, data))
        if code:
            return code

    print("\nReloading it in a fresh process, with the code from the folder alone.\n", flush=True)
    # The command runs elsewhere, and trainer.show imports none of our modelling code: what loads is the folder's.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as elsewhere:
        command = [sys.executable, "-m", "trainer.show", str(folder.resolve())]
        code = subprocess.run(command, cwd=elsewhere, env=environment).returncode
    if code:
        raise ValueError(f"the saved model could not be used (exit code {code})")
    results = folder / "eval_results.json"
    if results.is_file():
        print(f"Held-out perplexity: {json.loads(results.read_text(encoding='utf-8'))['eval_perplexity']:.1f}")
    print(f"Model, tokenizer and code: {folder}")
    print(f'Next: tokmat generate {folder} "{recipes.DEMO_PROMPTS[0]}" --watch', flush=True)
    return 0


def demo_plan(folder: Path, steps: int, data: str) -> TrainingPlan:
    return TrainingPlan.of(
        data=[data],
        output_dir=str(folder),
        max_steps=steps,
        resume_from_checkpoint="last" if checkpoints(folder) else None,
        sample_prompts=list(recipes.DEMO_PROMPTS[:1]),
        go_on=f"tokmat demo --output-dir {folder}",
        **recipes.DEMO,
    )
