# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat demo`: watch the model in the box write beside its autoregressive twin, here or on a page; then, if asked,
fine-tune it."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text
from transformers.utils import logging

from .. import recipes
from ..checkpoints import AR_STORIES, STORIES, checkpoints, is_finished, load_model, load_tokenizer
from ..evaluation.metrics import repeated_ngrams
from ..evaluation.report import pieces
from ..show import TailLog
from ..streamers import MaturationStreamer
from ..training_run import TrainingPlan, fit

SECONDS_PER_STEP = 0.08  # on a terminal: the tail is there to be looked at
ROUNDS = 3  # in which the two are timed in turn


def run(folder: Path, train: bool | None, steps: int, data: str, page: bool) -> int:
    if page:
        if train:
            raise ValueError("--page and --train are two things: give one of them")
        return show_page()
    stories()
    if train is None and sys.stdin.isatty() and sys.stdout.isatty():
        print(
            f"\nFine-tune it on Python's own documentation, {steps} steps, {expected(steps)}? [y/N] ",
            end="",
            flush=True,
        )
        train = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not train:
        print('\nNext: tokmat generate stories "Once upon a time" --watch')
        print('      tokmat demo --page     the same in a browser, with settings to try (pip install "tokmat[demo]")')
        print("      tokmat demo --train    two minutes of fine-tuning: saved, reloaded, written with", flush=True)
        return 0
    return fine_tune(folder, steps, data)


def show_page() -> int:
    """Serve the page of the Space on this machine, until Ctrl-C."""
    try:
        from ..space.app import launch
    except ImportError as error:
        raise ImportError(f'--page needs gradio ({error}): pip install "tokmat[demo]"') from error
    launch()
    return 0


# -- the models in the box --------------------------------------------------------------------------------------------


class Paced(MaturationStreamer):
    """On a terminal a step takes its time, so that one sees what the tail holds."""

    def put_draft(self, value, maturity=None, **kwargs):
        super().put_draft(value, maturity=maturity, **kwargs)
        time.sleep(SECONDS_PER_STEP)


def stories() -> None:
    """Three stories by the TokMat model, its tail live behind them, each beside greedy text of the twin."""
    logging.disable_progress_bar()
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    tokmat, twin = load_model(STORIES).eval(), load_model(AR_STORIES).eval()
    tokenizer = load_tokenizer(STORIES)
    new_tokens = {"max_new_tokens": recipes.STORY_NEW_TOKENS}
    ours, theirs, written, passes = [], [], 0, 0.0
    for prompt in recipes.STORY_PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        console.print(Text(f"\nTokMat, {tokmat.num_parameters() / 1e6:.1f}M parameters, argmax", "bold green"))
        streamer = Paced(tokenizer) if sys.stdout.isatty() else TailLog(tokenizer)
        output = tokmat.generate(**inputs, **new_tokens, streamer=streamer, return_dict_in_generate=True)
        length = output.sequences.shape[1] - inputs["input_ids"].shape[1]
        written, passes = written + length, passes + length / output.tokens_per_forward
        # Text that was shown live cannot be marked as the twin's is; the share tells that it repeats phrases too.
        console.print(f"({repeated_share([output.sequences[0]]):.0%} of it in repeated phrases)")
        console.print(
            Text("\nthe same network as an ordinary language model, greedy; repeated phrases are marked", "bold")
        )
        greedy = twin.generate(**inputs, **new_tokens, do_sample=False)
        console.print(marked(tokenizer, greedy[0], sys.stdout.isatty()))
        console.print(f"({repeated_share([greedy[0]]):.0%} of it in repeated phrases)")
        ours.append(output.sequences[0])
        theirs.append(greedy[0])

    shares = f"TokMat {repeated_share(ours):.0%}, greedy {repeated_share(theirs):.0%}"
    console.print(f"\nin phrases of three tokens that were there before, all three texts: {shares}")
    speeds = timed(tokmat, twin, inputs, new_tokens)
    console.print(
        f"tokens per forward pass: TokMat {written / passes:.2f}, greedy 1; tokens per second, in turn, median of "
        f"{ROUNDS}: TokMat {speeds[0]:.0f}, greedy {speeds[1]:.0f}"
    )


def marked(tokenizer, ids: torch.Tensor, colours: bool) -> Text:
    """The text of `ids` with phrases of three tokens that have been there before in red, or in [[brackets]]."""
    text = Text()
    for piece, repeated in pieces(tokenizer, [id for id in ids.tolist() if id not in tokenizer.all_special_ids]):
        if repeated and not colours:
            text.append(f"[[{piece}]]")
        else:
            text.append(piece, "red underline" if repeated else "")
    return text


def repeated_share(rows: list[torch.Tensor]) -> float:
    marks = [mark for ids in rows for mark in repeated_ngrams(ids.tolist())]
    return sum(marks) / len(marks)


def timed(tokmat, twin, inputs, new_tokens: dict) -> list[float]:
    """Tokens per second of the two models on one prompt, in turn."""
    speeds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for model, found in zip((tokmat, twin), speeds):
            began = time.perf_counter()
            ids = model.generate(**inputs, **new_tokens)
            found.append((ids.shape[1] - inputs["input_ids"].shape[1]) / (time.perf_counter() - began))
    return [statistics.median(found) for found in speeds]


# -- fine-tuning it ---------------------------------------------------------------------------------------------------


def expected(steps: int) -> str:
    return f"about {steps / recipes.DEMO_STEPS_PER_MINUTE:.2g} minutes on two idle CPU cores"


def fine_tune(folder: Path, steps: int, data: str) -> int:
    """Train the model in the box on other text, save it, and let a fresh process load it and write."""
    if is_finished(folder):
        print(f"{folder} already holds a trained model (delete the folder to train it again).", flush=True)
    else:
        print(f"Training {steps} steps: {expected(steps)}. Ctrl-C saves; the same command then goes on.", flush=True)
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
    print(f"Model, tokenizer and code: {folder}")
    print(f'Next: tokmat generate {folder} "{recipes.DEMO_PROMPTS[0]}" --watch', flush=True)
    return 0


def demo_plan(folder: Path, steps: int, data: str) -> TrainingPlan:
    return TrainingPlan.of(
        data=[data],
        model=STORIES,
        output_dir=str(folder),
        max_steps=steps,
        resume_from_checkpoint="last" if checkpoints(folder) else None,
        go_on=f"tokmat demo --train --output-dir {folder}",
        **recipes.DEMO,
    )
