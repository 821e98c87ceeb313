# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The `tokmat` command: train, generate, evaluate, reproduce, convert, demo.

Only typer is imported up here, so that `tokmat --help` is immediate; `train` and `generate` hand their arguments to a
parser that knows every field of the classes they fill.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Token Maturation: language models that generate by letting continuous vectors mature into tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_FORWARDED = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,  # --help goes to the parser that knows the flags
}

# The demo's recipe, found by comparing runs of equal length on the built-in corpus.
DEMO_BACKBONE = "small"
DEMO_STEPS_PER_MINUTE = 180
DEMO_TRAINING = {
    "--vocab-size": 4096,
    "--block-size": 256,
    "--per-device-train-batch-size": 8,
    "--learning-rate": 1e-3,
    "--context-negatives": 2.0,  # without them the demo's text loops
    "--save-steps": 100,
    "--eval-steps": 200,
    "--logging-steps": 20,
}
DEMO_PROMPTS = ("This function returns", "If the argument is", "The module provides")
DEMO_NEW_TOKENS = 60


def main() -> None:
    app()


@app.command(**_FORWARDED)
def train(context: typer.Context) -> None:
    """Train a model on text: `tokmat train --data stories.txt`. Every TrainingArguments field is a flag."""

    def run(arguments):
        from .train_command import train as run_training

        return run_training(arguments)

    _run("train", run, context.args)


@app.command(**_FORWARDED)
def generate(context: typer.Context) -> None:
    """Continue prompts with a trained model: `tokmat generate FOLDER "Once upon a time" --watch`."""
    _run("generate", _generate, context.args)


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Where the model goes.")] = Path("demo-model"),
    minutes: Annotated[float, typer.Option(help="Training time on two idle CPU cores with bf16.", min=0.1)] = 5.0,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of --minutes.", min=1)] = None,
    data: Annotated[str, typer.Option(hidden=True)] = "builtin",
) -> None:
    """Train a small model on text that every Python holds, reload it in a fresh process and watch it write."""
    _run("demo", lambda _: _demo(output_dir, minutes, steps, data), [])


@app.command("own-text", **_FORWARDED)
def own_text(context: typer.Context) -> None:
    """Write a model's own text, to train its tail on: `tokmat own-text MODEL --prompts TEXTS --output FILE`."""

    def run(arguments):
        from .commands.own_text import run as run_own_text

        return run_own_text(arguments)

    _run("own-text", run, context.args)


@app.command(**_FORWARDED)
def evaluate(context: typer.Context) -> None:
    """Judge a model's text and tail beside people's and a baseline's: `tokmat evaluate FOLDER --data held-out.txt`."""

    def run(arguments):
        from .evaluation.evaluate_command import evaluate as run_evaluation

        return run_evaluation(arguments)

    _run("evaluate", run, context.args)


@app.command(**_FORWARDED)
def reproduce(context: typer.Context) -> None:
    """The studies of the paper, each with figures, a picture and a verdict: `tokmat reproduce --output runs/small`."""

    def run(arguments):
        from .studies.reproduce_command import reproduce as run_studies

        return run_studies(arguments)

    _run("reproduce", run, context.args)


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="An autoregressive model: a folder or a Hub name.")],
    folder: Annotated[Path, typer.Argument(help="Where the TokMat model goes.")],
) -> None:
    """Make a TokMat model of a pretrained autoregressive one, to be trained on: `tokmat train --model FOLDER`."""
    _run("convert", lambda _: _convert(model, folder), [])


def _run(command: str, function, arguments: list[str]) -> None:
    """Exit with what `function(arguments)` returns; errors that the user can mend become one line and code 2."""
    debug = os.environ.get("TOKMAT_DEBUG", "0") not in ("", "0")
    for place, argument in enumerate(arguments):
        # Bare only: transformers has a --debug of its own, which takes a value.
        if argument == "--debug" and (place + 1 == len(arguments) or arguments[place + 1].startswith("-")):
            arguments, debug = arguments[:place] + arguments[place + 1 :], True
            break
    try:
        code = function(arguments)
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except Exception as error:
        if debug or not _is_users(error):
            raise
        message, code = str(error) or type(error).__name__, 2
    else:
        raise typer.Exit(code)
    print(f"tokmat {command}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


def _is_users(error: Exception) -> bool:
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import StrictDataclassError

    return isinstance(error, ValueError | OSError | DatasetsError | StrictDataclassError)


# -- generate ---------------------------------------------------------------------------------------------------------


@dataclass
class GenerateArguments:
    _argument_group_name = "generation"

    max_new_tokens: int = field(default=100, metadata={"help": "length of a continuation, in tokens"})
    num_return_sequences: int = field(default=1, metadata={"help": "continuations per prompt, which differ in noise"})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "of the weights; auto: as they were saved"}
    )


def _generate(arguments: list[str]) -> int:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
    from transformers.utils import logging

    from modeling_tokmat import MaturationSettings

    from .argument_parser import OneLineParser, optional_fields
    from .streamers import MaturationStreamer
    from .train_command import load_pretrained, tokmat_config

    names = [item.name for item in fields(MaturationSettings) if item.name != "output_maturation"]  # nobody to read it
    settings = optional_fields(MaturationSettings, "maturation (default: what the model was saved with)", names)
    parser = OneLineParser(
        [GenerateArguments, settings],
        prog="tokmat generate",
        usage='tokmat generate MODEL "PROMPT" ["PROMPT" ...] [options]',
        description="Continue prompts with a TokMat model. Several prompts make one batch.",
    )
    # Not a field: HfArgumentParser's flags for bool take an optional value, here the prompt that follows.
    parser.add_argument("--watch", action="store_true", help="show the liquid tail as it matures (on a terminal)")
    parser.add_argument("model", help="folder or Hub name")
    parser.add_argument("prompts", nargs="*", help="texts to continue; none, or an empty one: write from nothing")
    values = parser.parse(arguments)
    options, settings = parser.parse_dict(values, allow_extra_keys=True)
    given = {name: value for name, value in vars(settings).items() if value is not None}
    MaturationSettings(**given)
    for name in ("max_new_tokens", "num_return_sequences"):
        if values[name] < 1:
            raise ValueError(f"`{name}` is {values[name]}, but it must be at least 1")

    config = tokmat_config(values["model"])
    tokenizer = load_pretrained(AutoTokenizer.from_pretrained, values["model"])
    rows = [tokenizer(prompt)["input_ids"] or [tokenizer.bos_token_id] for prompt in values["prompts"] or [""]]
    if [None] in rows:
        raise ValueError("an empty prompt needs a tokenizer with a bos token, which this one has not")
    longest, limit = max(map(len, rows)), config.max_position_embeddings
    if limit is not None and longest + options.max_new_tokens > limit + 1:
        raise ValueError(
            f"a prompt of {longest} tokens and {options.max_new_tokens} new ones are too many for the model's "
            f"{limit} positions"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # of loading the weights
    model = load_pretrained(
        AutoModelForCausalLM.from_pretrained, values["model"], trust_remote_code=True, dtype=options.dtype
    ).eval()
    model.to(torch.accelerator.current_accelerator() or "cpu")
    inputs = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt").to(model.device)

    single = len(rows) * options.num_return_sequences == 1
    streamer = None
    if values["watch"]:
        streamer = MaturationStreamer(tokenizer)
    elif single:
        streamer = TextStreamer(tokenizer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    given |= {"output_maturation": False, "max_new_tokens": options.max_new_tokens}
    given |= {"num_return_sequences": options.num_return_sequences}
    ids = model.generate(**inputs, **given, streamer=streamer)
    if streamer is None:
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        print("\n".join(f"[{row}] {text}" for row, text in enumerate(texts)), flush=True)
    return 0


def _convert(source: str, folder: Path) -> int:
    from .convert import convert_folder

    convert_folder(source, folder)
    print(f"Saved in {folder}: a TokMat model with the weights of {source}, which has not seen a tail yet.")
    print(f"Next: tokmat train --model {folder} --data SOURCE --output-dir TRAINED", flush=True)
    return 0


# -- demo -------------------------------------------------------------------------------------------------------------


def _demo(folder: Path, minutes: float, steps: int | None, data: str) -> int:
    from .output_folder import checkpoints, is_finished
    from .train_command import bf16_supported, train

    if is_finished(folder):
        print(f"{folder} already holds a trained model (delete the folder to train it again).", flush=True)
    else:
        steps = max(round(minutes * DEMO_STEPS_PER_MINUTE), 1) if steps is None else steps
        estimate = f"about {steps / DEMO_STEPS_PER_MINUTE:.2g} minutes on two idle CPU cores with bf16"
        here = "" if bf16_supported() else "; this machine has no bf16, expect several times as long"
        print(f"Training {steps} steps: {estimate}{here}. Ctrl-C saves; the same command then goes on.", flush=True)
        flags = {"--data": data, "--backbone": DEMO_BACKBONE, "--output-dir": folder, "--max-steps": steps}
        flags |= DEMO_TRAINING
        if checkpoints(folder):
            flags["--resume-from-checkpoint"] = "last"
        arguments = [str(word) for pair in flags.items() for word in pair]
        arguments += ["--sample-prompts", *DEMO_PROMPTS[:1]]
        code = train(arguments, go_on=f"tokmat demo --output-dir {folder}")
        if code:
            return code

    print("\nReloading it in a fresh process, with the code from the folder alone.\n", flush=True)
    # The command runs elsewhere and `show` imports none of our modelling code: what loads is what the folder holds.
    script = "import sys; from trainer.cli import show; show(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as elsewhere:
        command = [sys.executable, "-c", script, str(folder.resolve())]
        code = subprocess.run(command, cwd=elsewhere, env=environment).returncode
    if code:
        raise ValueError(f"the saved model could not be used (exit code {code})")
    results = folder / "eval_results.json"
    if results.is_file():
        print(f"Held-out perplexity: {json.loads(results.read_text(encoding='utf-8'))['eval_perplexity']:.1f}")
    print(f"Model, tokenizer and code: {folder}")
    print(f'Next: tokmat generate {folder} "{DEMO_PROMPTS[0]}" --watch', flush=True)
    return 0


def show(folder: str) -> None:
    """Load a saved model with nothing but transformers, and let it continue the demo's prompts with its tail shown."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from .streamers import MaturationStreamer

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)  # it reads the model's configuration
    print(f"Code: {type(model).__module__}\n", flush=True)
    for prompt in DEMO_PROMPTS:
        streamer = MaturationStreamer(tokenizer) if sys.stdout.isatty() else _tail_log(tokenizer)
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        model.generate(**inputs, max_new_tokens=DEMO_NEW_TOKENS, streamer=streamer)
        print(flush=True)


def _tail_log(tokenizer, steps=(1, 10, 20, 30)):
    """A streamer for logs: after some steps, what is committed and the nearest tokens of the tail; then the text."""
    from transformers.generation.streamers import BaseStreamer

    class TailLog(BaseStreamer):
        ids, step = [], 0

        def put(self, value):
            self.ids = self.ids + value.flatten().tolist()

        def put_draft(self, value, **kwargs):
            self.step += 1
            if self.step in steps:
                tail = " ".join(repr(tokenizer.decode([token])) for token in value[0, :8].tolist())
                print(f"  step {self.step}: ...{tokenizer.decode(self.ids)[-24:]!r}  tail: {tail}")

        def end(self):
            print(tokenizer.decode(self.ids, skip_special_tokens=True), flush=True)

    return TailLog()
