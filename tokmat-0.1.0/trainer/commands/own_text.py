# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat own-text`: write what a model itself writes, for its tail to be trained on."""

import functools
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils import logging

from ..arguments import OneLineParser, argument
from ..checkpoints import load_model, load_tokenizer
from ..models import bf16_supported, machine_device
from ..own_text import PROMPT_TOKENS, check_settings, draw_batches, source_prompts, write_own_text
from ..questions import QUESTIONS, questions

LOG_SECONDS = 60  # between lines where no bar can be shown


@dataclass
class OwnTextArguments:
    _argument_group_name = "own text"

    prompts: list[str] = field(
        metadata={
            "metavar": "SOURCE",
            "help": 'texts whose beginnings are continued ("builtin", a text file, a folder, a .json, .jsonl, .csv or '
            '.parquet file, the name of a Hub data set), .jsonl files of chat prompts, whose rows have "prompt" '
            'or "messages", and "self": what a chat model asks itself',
        }
    )
    output: Path = field(metadata={"help": "the .jsonl file to write; an unfinished one is gone on with"})
    shares: list[float] | None = argument("part of the texts that each source gives (default: equal parts)")
    texts: int = argument("prompts that are answered", 4000)
    max_new_tokens: int = argument("longest answer", 160)
    batch_size: int = argument("prompts that are answered at a time", 64)
    stop_loops: bool = argument("stop an answer that says one phrase three times in a row", True)
    may_end: bool = argument("let an answer end before --max-new-tokens", True)
    prompt_tokens: list[int] = field(
        default_factory=lambda: list(PROMPT_TOKENS), metadata={"help": "lengths of the beginnings that are continued"}
    )
    max_prompt_tokens: int = argument("longer chat prompts of files are left out", 512)
    add_bos: bool = argument(
        "begin the beginnings of texts with the bos token, as training rows do (otherwise: if the tokenizer does)",
        False,
    )
    text_column: str = argument("column that holds the text, in sources that have columns", "text")
    data_name: str | None = argument("configuration of a Hub data set")
    data_split: str = argument("split of a Hub data set", "train")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = argument(
        "of the weights; auto: bfloat16 where there are instructions for it, else float32", "auto"
    )
    trust_remote_code: bool = argument("run the code that a model which is not TokMat's brings", False)
    seed: int = argument("of the order of the prompts", 0)


def run(arguments: list[str]) -> int:
    parser = OneLineParser(
        [OwnTextArguments],
        prog="tokmat own-text",
        usage="tokmat own-text MODEL --prompts SOURCE ... --output FILE [options]",
        description="Write what a causal language model, autoregressive or TokMat, itself writes under argmax, as "
        "JSON lines of token ids. Ctrl-C or a crash loses one batch at most: the same command goes on.",
    )
    parser.add_argument("model", help="folder or Hub name")
    values = parser.parse(arguments)
    options = OwnTextArguments(**{name: values[name] for name in OwnTextArguments.__dataclass_fields__})
    _check(options)
    tokenizer = load_tokenizer(values["model"], options.trust_remote_code)
    reading = {"lengths": options.prompt_tokens, "add_bos": options.add_bos, "text_column": options.text_column}
    reading |= {"max_prompt_tokens": options.max_prompt_tokens, "name": options.data_name}
    reading |= {"split": options.data_split}
    options.dtype = ("bfloat16" if bf16_supported() else "float32") if options.dtype == "auto" else options.dtype
    settings = {"model": values["model"], **vars(options)}
    del settings["output"]
    check_settings(options.output, settings)

    @functools.cache
    def model():
        if not sys.stderr.isatty():
            logging.disable_progress_bar()  # of loading the weights
        loaded = load_model(values["model"], options.trust_remote_code, dtype=options.dtype).eval()
        return loaded.to(machine_device())

    def source(name: str):
        if name != QUESTIONS:
            return source_prompts(name, tokenizer, options.seed, **reading)
        path = options.output.with_name(options.output.name + ".questions.jsonl")
        return questions(values["model"], model, tokenizer, path, options.seed, options.batch_size, Asked())

    # What the model asks itself comes last: whatever is wrong with other sources is known before.
    shares = options.shares or [1.0] * len(options.prompts)
    wanted = sorted(zip(options.prompts, shares), key=lambda pair: pair[0] == QUESTIONS)
    sources, shares = [(name, source(name)) for name, _ in wanted], [share for _, share in wanted]
    batches = draw_batches(sources, shares, options.batch_size, options.texts, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with Report(options.texts) as report:
        write_own_text(model(), tokenizer, batches, options.output, settings, report)
    print(f"{report.table()}\n{report.summary()}, in {options.output}")
    return 0


def _check(options: OwnTextArguments) -> None:
    for name in ("texts", "max_new_tokens", "batch_size", "max_prompt_tokens"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}, but it must be at least 1")
    if min(options.prompt_tokens) < 1:
        raise ValueError(f"--prompt-tokens {options.prompt_tokens}: lengths must be at least 1")
    if options.shares is not None and (len(options.shares) != len(options.prompts) or min(options.shares) <= 0):
        raise ValueError(
            f"--shares {options.shares}: give a positive number for each of the {len(options.prompts)} --prompts"
        )
    if options.output.is_dir():
        raise ValueError(f"--output {options.output} is a folder")


class Asked:
    """A line for what a model has asked itself: on a terminal always, elsewhere once a minute."""

    def __init__(self):
        self.total, self.logged = 0, time.monotonic()

    def __call__(self, new: int) -> None:
        self.total += new
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if terminal or now - self.logged >= LOG_SECONDS:
            self.logged = now
            print(f"{self.total:,} questions asked", end="\r" if terminal else "\n", file=sys.stderr, flush=True)


class Report:
    """A progress bar on a terminal, a line a minute elsewhere; and how often the answers of each kind loop."""

    def __init__(self, texts: int):
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self.task = self.bar.add_task("writing", total=texts, now="")
        self.total, self.rows, self.tokens = texts, Counter(), Counter()
        self.loops = Counter()
        self.began = self.logged = time.monotonic()
        self.new = 0  # tokens written in this run

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *error):
        self.bar.stop()

    def __call__(self, rows: list[dict], written: bool) -> None:
        for row in rows:
            self.rows[row["kind"]] += 1
            self.tokens[row["kind"]] += len(row["answer_ids"])
            self.loops[row["kind"]] += row["loops"]
        self.new += written * sum(len(row["answer_ids"]) for row in rows)
        now, speed = time.monotonic(), self.new / (time.monotonic() - self.began)
        self.bar.update(self.task, advance=len(rows), now=f"{self.tokens.total():,} tokens, {speed:.0f}/s")
        if self.bar.disable and now - self.logged >= LOG_SECONDS:
            self.logged = now
            print(f"{self.summary()}; {speed:.0f} tokens/s", flush=True)

    def table(self) -> str:
        lines = [f"{'kind':24} {'answers':>8} {'tokens':>10} {'loop':>5}"]
        for kind, rows in sorted(self.rows.items()):
            lines.append(f"{kind:24} {rows:8,} {self.tokens[kind]:10,} {self.loops[kind] / rows:5.0%}")
        return "\n".join(lines)

    def summary(self) -> str:
        done, loops = self.rows.total(), self.loops.total()
        return f"{done:,} of {self.total:,} answers, {self.tokens.total():,} tokens, {loops / max(done, 1):.0%} loop"
