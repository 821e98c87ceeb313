# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The `tokmat` command: which verbs there are, and how what goes wrong is told.

Only typer is imported up here, so that `tokmat --help` is immediate: a verb's module is imported when it is used.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

LONGEST = 1000  # characters of an error

app = typer.Typer(
    help="Token Maturation: language models that generate by letting continuous vectors mature into tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    app()


def _forwarded(verb: str, text: str) -> None:
    """A verb whose module reads the arguments itself, because it knows every field of the classes that they fill."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(verb, help=text, context_settings=settings, add_help_option=False)
    def command(context: typer.Context) -> None:
        arguments, debug = _without_debug(context.args)
        _run(verb, arguments, debug=debug)


_forwarded(
    "train", "Train a model on text: `tokmat train --data stories.txt`. Every TrainingArguments field is a flag."
)
_forwarded("generate", 'Continue prompts with a trained model: `tokmat generate FOLDER "Once upon a time" --watch`.')


@app.command()
def demo(
    train: Annotated[
        bool | None, typer.Option("--train/--no-train", help="Fine-tune it afterwards (asked for on a terminal).")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where the fine-tuned model goes.")] = Path("demo-model"),
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 100,
    data: Annotated[str, typer.Option(hidden=True)] = "builtin",
    page: Annotated[bool, typer.Option("--page", help="Watch in a browser (needs tokmat\\[demo]).")] = False,
) -> None:
    """Watch a small trained model write stories beside its autoregressive twin, then fine-tune it."""
    _run("demo", output_dir, train, steps, data, page)


_forwarded(
    "own-text",
    "Write a model's own text, to train its tail on: `tokmat own-text MODEL --prompts TEXTS --output FILE`.",
)
_forwarded(
    "evaluate",
    "Judge a model's text and tail beside people's and a baseline's: `tokmat evaluate FOLDER --data held-out.txt`.",
)
_forwarded(
    "reproduce",
    "The studies of the paper, each with figures, a picture and a verdict: `tokmat reproduce --output runs/small`.",
)
_forwarded(
    "picture", "Draw a maturing tail, what it knows, or a training: `tokmat picture heatmap MODEL --output tail.png`."
)


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="An autoregressive model: a folder or a Hub name.")],
    folder: Annotated[Path, typer.Argument(help="Where the TokMat model goes.")],
    geometry: Annotated[
        Literal["pretrained", "sphere"],
        typer.Option(help="pretrained: what the source says, exactly; sphere: the paper's rows of one norm."),
    ] = "pretrained",
    tail_adapter_rank: Annotated[
        int, typer.Option(help="Rank of adapters for a tail to be trained beside the source; 0 is none.", min=0)
    ] = 0,
    gguf: Annotated[bool, typer.Option("--gguf", help="MODEL is a GGUF file.")] = False,
) -> None:
    """Make a TokMat model of a pretrained autoregressive one: `tokmat convert SOURCE FOLDER`."""
    _run("convert", model, folder, geometry, tail_adapter_rank, Path(model) if gguf else None)


@app.command()
def attach(
    source: Annotated[str, typer.Argument(help="An autoregressive model: a folder or a Hub name.")],
    adapter: Annotated[str, typer.Argument(help="A tail that was trained beside it: a folder or a Hub name.")],
    folder: Annotated[Path, typer.Argument(help="Where the TokMat model goes.")],
) -> None:
    """Put a tail on the model that it was trained beside: the same text in fewer forward passes."""
    _run("attach", source, adapter, folder)


@app.command()
def card(
    model: Annotated[Path, typer.Argument(help="Folder of a model, a tail adapter or a LoRA adapter.")],
    repo_id: Annotated[str | None, typer.Option(help="Its name on the Hub, owner/name.")] = None,
    results: Annotated[Path | None, typer.Option(help="results.json of tokmat evaluate.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Hub name of what it was made from.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Hub name of data it was trained on.")] = None,
    language: Annotated[str | None, typer.Option(help='Of the text, such as "en".')] = None,
    license: Annotated[str | None, typer.Option(help="Of the weights, such as apache-2.0.")] = None,
    data_license: Annotated[str | None, typer.Option(help="Of what it was trained on.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Of the sample; the first evaluated prompt if not given.")] = None,
    source: Annotated[str | None, typer.Option(help="Where an adapter's base lies on this machine.")] = None,
    sample: Annotated[bool, typer.Option(help="Run the loading snippet, and show what it writes.")] = True,
    pictures: Annotated[bool, typer.Option(help="Draw how the sample matured, and the curves of training.")] = True,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code of the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace README.md.")] = False,
) -> None:
    """Write the model card, README.md, of what lies in a folder and what was measured: `tokmat card MODEL`."""
    known: dict[str, Any] = {
        "repo_id": repo_id,
        "base_model": base_model,
        "datasets": dataset or [],
        "language": language,
    }
    known |= {"license": license, "data_license": data_license, "results": results, "prompt": prompt}
    known |= {"source": source, "sample": sample, "pictures": pictures, "trust_remote_code": trust_remote_code}
    _run("card", model, known, overwrite)


@app.command()
def push(
    model: Annotated[Path, typer.Argument(help="Folder of a model, an adapter, a plugin or a Space.")],
    repo_id: Annotated[str, typer.Argument(help="Where it goes on the Hub: owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, made if it does not exist.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go up; touch no network.")] = False,
    max_file_gb: Annotated[float, typer.Option(help="Refuse larger files.", min=0)] = 50.0,
) -> None:
    """Put a model with its code, tokenizer, settings and card on the Hub: `tokmat push MODEL OWNER/NAME`."""
    _run("push", model, repo_id, private, revision, create_pr, dry_run, max_file_gb)


def _run(verb: str, *arguments, debug: bool = False) -> None:
    """Exit with what the verb's `run` returns; errors that the user can mend become one line and code 2."""
    debug = debug or os.environ.get("TOKMAT_DEBUG", "0") not in ("", "0")
    try:
        code = import_module(f".commands.{verb.replace('-', '_')}", __package__).run(*arguments)
    except KeyboardInterrupt:
        goes_on = verb in ("own-text", "reproduce")  # train says so itself, and no other verb keeps what it had
        message, code = "interrupted" + "; the same command goes on" * goes_on, 130
    except Exception as error:
        if debug or not _is_users(error):
            raise
        message, code = str(error) or type(error).__name__, 2
    else:
        raise typer.Exit(code)
    message = " ".join(message.split())
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
    print(f"tokmat {verb}: {message}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without a bare --debug, and whether there was one: transformers' --debug takes a value."""
    for place, argument in enumerate(arguments):
        if argument == "--debug" and (place + 1 == len(arguments) or arguments[place + 1].startswith("-")):
            return arguments[:place] + arguments[place + 1 :], True
    return arguments, False


def _is_users(error: Exception) -> bool:
    """Whether the user can mend it: wrong values and files, packages and memory that are missing."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    files: tuple[type[Exception], ...] = (ValueError, OSError, ImportError, EOFError, OverflowError)
    kinds = (*files, MemoryError, OutOfMemoryError, DatasetsError, StrictDataclassError, SafetensorError)
    # torch has no class of its own for memory that the CPU does not have.
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
