# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Command line flags from dataclasses, and the dataclasses that say what a training run reads and starts from."""

import argparse
import copy
import dataclasses
import difflib
import inspect
import re
from dataclasses import dataclass
from typing import Any, Literal

from transformers import HfArgumentParser

from modeling_tokmat import MaturationSettings
from modeling_tokmat.generation_tokmat import SAMPLING_FLAGS

from .recipes import LOOK_AHEAD, PRESETS


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """One spelling per flag (underscores work as well), and defaults only where there is one."""

    def _format_action_invocation(self, action):
        shown = copy.copy(action)
        shown.option_strings = [flag for flag in action.option_strings if "_" not in flag]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action):
        if isinstance(action, argparse._StoreFalseAction):  # HfArgumentParser gives --no-x the help of --x
            return f"the opposite of --{action.dest.replace('_', '-')}"
        return action.help if action.default is None else super()._get_help_string(action)


class OneLineParser(HfArgumentParser):
    """HfArgumentParser that reports what is wrong by a ValueError and never prints its usage for it."""

    def __init__(self, dataclass_types, **kwargs):
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=Help, **kwargs)

    def error(self, message: str):
        raise ValueError(message)

    def parse(self, arguments: list[str]) -> dict:
        """The values of all arguments by name.

        Raises:
            ValueError: an unknown flag, a value of the wrong type, a required argument that is missing.
        """
        namespace, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            flags = [flag for flag in self._option_string_actions if "_" not in flag]
            if unknown[0].partition("=")[0].replace("-", "_").strip("_") in SAMPLING_FLAGS:
                raise ValueError(
                    f"unknown argument {unknown[0]!r}: a token is the nearest one of a vector, always by argmax; "
                    "other texts: --num-return-sequences, --maturation-seed"
                )
            near = difflib.get_close_matches(unknown[0].partition("=")[0].replace("_", "-"), flags, 1)
            raise ValueError(f"unknown argument {unknown[0]!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return vars(namespace)


def optional_fields(cls: type, title: str, names: list[str], defaults: dict[str, str] | None = None) -> type:
    """A dataclass of the fields `names` of `cls` with default None, "not given", and the help of its docstring."""
    documented = re.findall(
        r"^    (\w[\w, ]*?)(?: \([^\n]*\))?:\s+(\S.*(?:\n {8}.+)*)", inspect.getdoc(cls) or "", re.MULTILINE
    )
    texts = {name: " ".join(text.split()) for group, text in documented for name in group.split(", ")}
    made = []
    for item in dataclasses.fields(cls):
        if item.name in names:
            text = texts.get(item.name, "").replace("`", "").replace("%", "%%")
            default = (defaults or {}).get(item.name, item.default)
            metadata: dict[str, Any] = {"help": f"{text} (default for a new model: {default})" if defaults else text}
            if item.type is bool:
                metadata |= {"nargs": "?", "const": True}
            kind: Any = item.type
            made.append((item.name, kind | None, dataclasses.field(default=None, metadata=metadata)))
    return dataclasses.make_dataclass(f"{cls.__name__}Flags", made, namespace={"_argument_group_name": title})


def maturation_flags() -> type:
    """A dataclass of the maturation settings, each "not given" by default."""
    # Nobody reads a trace or a tail on the command line.
    names = [item.name for item in dataclasses.fields(MaturationSettings) if not item.name.startswith("output_")]
    return optional_fields(MaturationSettings, "maturation (default: what the model was saved with)", names)


def given_settings(flags) -> dict:
    """The maturation settings that were given.

    Raises:
        ValueError: one of them has a wrong value.
    """
    given = {name: value for name, value in vars(flags).items() if value is not None}
    # The rule that drafts belong to may be the one that the model was saved with.
    rule = {"commit": "verified"} if "prompt_lookup_num_tokens" in given else {}
    MaturationSettings(**rule | given)
    return given


def argument(text: str, default=None, **kwargs):
    """A field with a help text."""
    return dataclasses.field(default=default, metadata={"help": text, **kwargs})


@dataclass
class DataArguments:
    _argument_group_name = "data"

    data: list[str] = dataclasses.field(
        metadata={
            "metavar": "SOURCE",
            "help": '"builtin", a text file, a folder, a .json, .jsonl, .csv or .parquet file (several files or '
            "folders may be given), the name of a Hub data set, or what a model wrote (tokmat own-text)",
        }
    )
    data_name: str | None = argument("configuration of a Hub data set")
    data_split: str = argument("split of a Hub data set", "train")
    text_column: str = argument("column that holds the text", "text")
    streaming: bool = argument("read the data while training, without a copy on the disk; needs --max-steps", False)
    tail_data: list[str] | None = argument(
        "further text, which trains the tails alone: what the model itself wrote (tokmat own-text)",
        metavar="SOURCE",
    )
    tail_share: float = argument("part of the training rows that --tail-data gives, some of them repeatedly", 0.5)
    loop_share: float = argument("most of the rows of a model's own text that may be stuck in a loop", 0.25)
    validation_data: list[str] | None = argument("held-out data, instead of a part of --data", metavar="SOURCE")
    validation_fraction: float = argument("part of the documents of --data that is held out; 0 = none", 0.02)
    block_size: int = argument("tokens per training row", 256)
    packing: bool = argument("fill rows with several documents (otherwise a row is one document, cut)", True)
    tokenizer: str | None = argument("name or folder; otherwise a byte-level BPE is trained on the data")
    vocab_size: int = argument("size of a tokenizer that is trained", 4096)
    num_proc: int | None = argument("processes that tokenize")


@dataclass
class ModelArguments:
    _argument_group_name = "model and run"

    objective: Literal["maturation", "ar"] = argument(
        "maturation, or ar: the autoregressive baseline, the same backbone trained with cross-entropy on the same "
        "batches by transformers' Trainer",
        "maturation",
    )
    model: str | None = argument("go on training this model: a folder or a Hub name")
    reference: str | None = argument(
        "a frozen model that rows of --tail-data follow, without what it repeats (--phrase-penalty)"
    )
    backbone: str | None = argument(
        f"architecture of a new model: {', '.join(PRESETS)}, or a JSON file (or its folder) with a backbone's or a "
        'whole TokMat configuration (default: "small")'
    )
    look_ahead: bool = argument(
        "train the tail to know what comes next; stands for "
        + " ".join(f"--{name.replace('_', '-')} {value}" for name, value in LOOK_AHEAD.items())
        + ", of which each can still be given",
        False,
    )
    trust_remote_code: bool = argument("run the code that a model which is not TokMat's brings", False)
    overwrite: bool = argument("replace the model and the checkpoints that --output-dir already holds", False)


@dataclass
class EvaluateArguments:
    _argument_group_name = "evaluation"

    data: list[str] = dataclasses.field(metadata={"metavar": "SOURCE", "help": "held-out text, as for tokmat train"})
    baseline: list[str] | None = argument(
        "autoregressive models of the same tokenizer to compare with: folders or Hub names", metavar="MODEL"
    )
    judge: str | None = argument(
        "autoregressive model that gives perplexity (of another tokenizer: bits per byte) and MAUVE's features"
    )
    trust_remote_code: bool = argument(
        "run the code that a baseline brings; a TokMat model uses the installed package, a judge must need none", False
    )
    prompts: int = argument("how many documents are continued", 200)
    prompt_tokens: int = argument("tokens of each document that are given", 16)
    new_tokens: int = argument("tokens that are written", 50)
    seeds: int = argument("runs that differ in embryo noise (TokMat) or draws (sampling)", 3)
    batch_size: int = argument("prompts continued at a time", 50)
    look_ahead: int = argument("tail length for tail_acc_k and verified commits; 0 leaves them out", 8)
    verified_prompts: int = argument("prompts for verified commits, one at a time", 20)
    mauve_continuations: int = argument(
        "continuations per decoder for MAUVE, of places all over the documents; needs a judge; 0 leaves MAUVE out",
        1000,
    )
    output: str | None = argument("folder for index.html, results.json, results.md and samples.json")
