# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat evaluate`: text beside a same-size baseline's and people's, and what the tail knows."""

import json
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_tokmat import MaturationSettings

from ..argument_parser import OneLineParser, optional_fields
from ..data import load_documents
from ..train_command import load_pretrained, tokmat_config
from .lookahead import tail_agreement
from .samples import Continuations, Prompts, held_out_prompts, interval, per_prompt, write

PENALTIES = (1.1, 1.2, 1.3, 1.5)
COLUMNS = {
    "dist_1": "Dist-1",
    "dist_2": "Dist-2",
    "rep_2": "Rep-2",
    "rep_3": "Rep-3",
    "rep_4": "Rep-4",
    "loop": "Loop",
    "judge_perplexity": "judge ppl",
}
CONVENTIONS = (
    "Tokens of the model's tokenizer, without the prompt; Dist-n and Rep-n are means over continuations; Loop is the "
    "share of continuations that repeat a trigram; all continuations have one length (no end of text). Intervals: "
    "95 %, bootstrap over prompts, each prompt's value being the mean over seeds."
)


def _argument(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class EvaluateArguments:
    _argument_group_name = "evaluation"

    data: list[str] = field(metadata={"metavar": "SOURCE", "help": "held-out text, as for tokmat train"})
    baseline: str | None = _argument(
        "autoregressive model of the same tokenizer to compare with: a folder or Hub name"
    )
    judge: str | None = _argument("autoregressive model of the same tokenizer that gives the perplexity of the text")
    prompts: int = _argument("how many documents are continued", 200)
    prompt_tokens: int = _argument("tokens of each document that are given", 16)
    new_tokens: int = _argument("tokens that are written", 50)
    seeds: int = _argument("runs that differ in embryo noise (TokMat) or draws (sampling)", 3)
    batch_size: int = _argument("prompts continued at a time", 50)
    look_ahead: int = _argument("tail length for tail_acc_k and verified commits; 0 leaves them out", 8)
    verified_prompts: int = _argument("prompts for verified commits, one at a time", 20)
    output: str | None = _argument("folder for results.json, results.md and samples.json")


def evaluate(arguments: list[str]) -> int:
    names = [item.name for item in fields(MaturationSettings) if item.name != "output_maturation"]
    settings = optional_fields(MaturationSettings, "maturation (default: what the model was saved with)", names)
    parser = OneLineParser(
        [EvaluateArguments, settings],
        prog="tokmat evaluate",
        usage="tokmat evaluate MODEL --data SOURCE [--baseline MODEL] [--judge MODEL] [options]",
        description="Judge a model's text and its tail beside people's text and a same-size autoregressive model's.",
    )
    parser.add_argument("model", help="folder or Hub name")
    values = parser.parse(arguments)
    options, settings = parser.parse_dict(values, allow_extra_keys=True)
    given = {name: value for name, value in vars(settings).items() if value is not None}
    MaturationSettings(**given)
    for name in ("prompts", "prompt_tokens", "new_tokens", "seeds", "batch_size"):
        if values[name] < 1:
            raise ValueError(f"`{name}` is {values[name]}, but it must be at least 1")
    tokmat_config(values["model"])

    def load(name):
        model = load_pretrained(AutoModelForCausalLM.from_pretrained, name, trust_remote_code=True).eval()
        return model.to(torch.accelerator.current_accelerator() or "cpu")

    tokenizer = load_pretrained(AutoTokenizer.from_pretrained, values["model"], trust_remote_code=True)
    source = options.data[0] if len(options.data) == 1 else options.data
    prompts = held_out_prompts(
        load_documents(source), tokenizer, options.prompts, options.prompt_tokens, options.new_tokens
    )
    model = load(values["model"])
    others = {}
    for role in ("baseline", "judge"):
        if values[role] is not None:
            others[role] = load(values[role])
            vocabulary = others[role].config.vocab_size
            if vocabulary != model.config.vocab_size:
                raise ValueError(
                    f"--{role} {values[role]} has {vocabulary} tokens, {values['model']} has {model.config.vocab_size}"
                )

    rows = continuations(options, prompts, model, others.get("baseline"), given)
    result = {"model": Path(values["model"]).name, "prompts": len(prompts.ids), "new_tokens": options.new_tokens}
    result |= {"prompt_tokens": options.prompt_tokens, "seeds": options.seeds, "settings": given}
    result |= {"conventions": CONVENTIONS, "decoders": [judged(row, prompts, others.get("judge")) for row in rows]}
    if options.look_ahead:
        result["look_ahead"] = look_ahead(model, prompts, options, given)
    show(result)
    if options.output:
        save(result, rows, prompts, tokenizer, Path(options.output))
    return 0


def continuations(options, prompts: Prompts, model, baseline, given: dict) -> list[Continuations]:
    """What people, the model and every decoding of the baseline wrote."""
    seeds = list(range(options.seeds))
    plans = [("tokmat", model, seeds, given)]
    if baseline is not None:
        plans.append(("ar greedy", baseline, [None], {"do_sample": False}))
        for penalty in PENALTIES:
            plans.append(
                (f"ar penalty {penalty}", baseline, [None], {"do_sample": False, "repetition_penalty": penalty})
            )
        plans.append(("ar nucleus 0.95", baseline, seeds, {"do_sample": True, "top_p": 0.95, "top_k": 0}))
        plans.append(("ar top-k 50", baseline, seeds, {"do_sample": True, "top_k": 50}))
    rows = [Continuations("human", [prompts.human], [], [])]
    bar = Progress(
        TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True)
    )
    with bar:
        task = bar.add_task("", total=sum(len(plan[2]) for plan in plans) * len(prompts.ids))
        for name, decoder, runs, settings in plans:
            advance = lambda count, name=name: bar.update(task, advance=count, description=name)  # noqa: E731
            written = write(name, decoder, prompts, options.new_tokens, options.batch_size, runs, advance, **settings)
            rows.append(written)
    return rows


def judged(row: Continuations, prompts: Prompts, judge) -> dict:
    """Every metric of one decoder as [mean, low, high]."""
    values = per_prompt(row.runs, prompts, judge)
    found = {name: interval(value) for name, value in values.items()}
    if "judge_nll" in found:
        found["judge_perplexity"] = tuple(math.exp(value) for value in found.pop("judge_nll"))
    by_seed = {
        name: [float(np.mean(per_prompt([run], prompts)[name])) for run in row.runs] for name in ("rep_2", "loop")
    }
    speed = float(np.median(row.tokens_per_second)) if row.tokens_per_second else None
    return {"name": row.name, **found, "by_seed": by_seed, "tokens_per_second": speed}


def look_ahead(model, prompts: Prompts, options, given: dict) -> dict:
    """tail_acc_k over all prompts, without guidance and with guidance 2, as [mean, low, high]; and what verified
    commits gain over one token per forward, one prompt at a time."""
    shared = {name: value for name, value in given.items() if name not in ("tail_length", "commit")}
    found = {}
    for name, changed in (("tail_acc", {}), ("guided_tail_acc", {"guidance_scale": 2.0})):
        run = {**shared, "tail_length": options.look_ahead, **changed}
        parts = [
            tail_agreement(model, ids.to(model.device), options.new_tokens, **run)
            for ids in prompts.ids.split(options.batch_size)
        ]
        for slot, shares in enumerate(torch.cat(parts).numpy().T, start=1):
            found[f"{name}_{slot}"] = interval(shares)
    few = Prompts(prompts.ids[: options.verified_prompts], prompts.human[: options.verified_prompts])
    verified = write("", model, few, options.new_tokens, 1, [0], commit="verified", tail_length=options.look_ahead)
    reference = write("", model, few, options.new_tokens, 1, [0], commit="front", tail_length=1, alpha_max=1.0)
    found["verified_tokens_per_forward"] = verified.forwards[0]
    found["verified_speed"] = verified.tokens_per_second[0] / reference.tokens_per_second[0]
    found["verified_same_text"] = bool(torch.equal(verified.runs[0], reference.runs[0]))
    return found


def _cell(row: dict, name: str) -> str:
    value, digits = row.get(name), 1 if name == "judge_perplexity" else 3
    if isinstance(value, tuple):
        mean, low, high = value
        return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def show(result: dict) -> None:
    console = Console() if os.isatty(1) else Console(width=160)
    table = Table(
        "", *COLUMNS.values(), "tokens/s", title=f"{result['prompts']} prompts, {result['new_tokens']} tokens"
    )
    for row in result["decoders"]:
        speed = "-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.0f}"
        table.add_row(row["name"], *(_cell(row, name).replace("[", "\\[") for name in COLUMNS), speed)
    console.print(table)
    console.print(CONVENTIONS, style="dim")
    if "look_ahead" in result:
        table = Table("what the tail knows", "", title=None)
        for name in result["look_ahead"]:
            table.add_row(name, _cell(result["look_ahead"], name).replace("[", "\\["))
        console.print(table)


def save(result: dict, rows: list[Continuations], prompts: Prompts, tokenizer, folder: Path) -> None:
    samples = []
    for number, ids in enumerate(prompts.ids.tolist()):
        entry = {"prompt": tokenizer.decode(ids, skip_special_tokens=True)}
        entry |= {row.name: tokenizer.decode(row.runs[0][number].tolist()) for row in rows}
        samples.append(entry)
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in result["decoders"]:
        lines.append(f"| {row['name']} | " + " | ".join(_cell(row, name) for name in COLUMNS) + " |")
    if "look_ahead" in result:
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| {name} | {_cell(result['look_ahead'], name)} |" for name in result["look_ahead"]]
    texts = {
        "results.json": json.dumps(result, indent=2),
        "results.md": "\n".join([*lines, "", CONVENTIONS]),
        "samples.json": json.dumps(samples, indent=2, ensure_ascii=False),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.tmp").write_text(text + "\n", encoding="utf-8")
        os.replace(folder / f"{name}.tmp", folder / name)
    print(f"Saved in {folder}: results.json, results.md, samples.json")
