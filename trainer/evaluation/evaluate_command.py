# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat evaluate`: text beside a same-size baseline's and people's, and what the tail knows."""

import functools
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
from . import mauve
from .lookahead import tail_agreement
from .page import page
from .samples import (
    Continuations,
    Prompts,
    cell,
    columns,
    held_out_prompts,
    interval,
    per_prompt,
    pieces,
    windows,
    write,
)

PENALTIES = (1.1, 1.2, 1.3, 1.5)
CONVENTIONS = (
    "Tokens of the model's tokenizer, without the prompt; Dist-n and Rep-n are means over continuations; Loop is the "
    "share of continuations that repeat a trigram; all continuations have one length (no end of text).",
    "Intervals: 95 %, bootstrap over prompts (1,000 resamples), each prompt's value being the mean over seeds.",
)
NO_CONTRASTIVE = "Contrastive search is left out: transformers 5 has it only as code to fetch from the Hub."
OWN_JUDGE = "The judge is one of the baselines, so its perplexity favours what that baseline writes."


def _argument(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class EvaluateArguments:
    _argument_group_name = "evaluation"

    data: list[str] = field(metadata={"metavar": "SOURCE", "help": "held-out text, as for tokmat train"})
    baseline: list[str] | None = _argument(
        "autoregressive models of the same tokenizer to compare with: folders or Hub names", metavar="MODEL"
    )
    judge: str | None = _argument(
        "autoregressive model of the same tokenizer that gives the perplexity of the text, and MAUVE its features"
    )
    prompts: int = _argument("how many documents are continued", 200)
    prompt_tokens: int = _argument("tokens of each document that are given", 16)
    new_tokens: int = _argument("tokens that are written", 50)
    seeds: int = _argument("runs that differ in embryo noise (TokMat) or draws (sampling)", 3)
    batch_size: int = _argument("prompts continued at a time", 50)
    look_ahead: int = _argument("tail length for tail_acc_k and verified commits; 0 leaves them out", 8)
    verified_prompts: int = _argument("prompts for verified commits, one at a time", 20)
    mauve_continuations: int = _argument(
        "continuations per decoder for MAUVE, of places all over the documents; needs a judge; 0 leaves MAUVE out",
        1000,
    )
    output: str | None = _argument("folder for index.html, results.json, results.md and samples.json")


@dataclass
class Decoder:
    """A way of continuing prompts: a model with settings of `generate`, run once per seed."""

    name: str
    model: torch.nn.Module
    seeds: list
    settings: dict


def evaluate(arguments: list[str]) -> int:
    names = [item.name for item in fields(MaturationSettings) if item.name != "output_maturation"]
    settings = optional_fields(MaturationSettings, "maturation (default: what the model was saved with)", names)
    parser = OneLineParser(
        [EvaluateArguments, settings],
        prog="tokmat evaluate",
        usage="tokmat evaluate MODEL [MODEL ...] --data SOURCE [--baseline MODEL] [--judge MODEL] [options]",
        description="Judge a model's text and its tail beside people's text and a same-size autoregressive model's. "
        "Several models, of several training seeds perhaps, are rows of one table.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder or Hub name")
    values = parser.parse(arguments)
    options, settings = parser.parse_dict(values, allow_extra_keys=True)
    given = {name: value for name, value in vars(settings).items() if value is not None}
    MaturationSettings(**given)
    for name in ("prompts", "prompt_tokens", "new_tokens", "seeds", "batch_size", "verified_prompts"):
        if values[name] < 1:
            raise ValueError(f"`{name}` is {values[name]}, but it must be at least 1")
    least, chosen = mauve.LEAST, options.mauve_continuations
    if chosen and chosen < least:
        raise ValueError(f"`mauve_continuations` is {chosen}, but it must be 0 (no MAUVE) or at least {least}")
    with_mauve = bool(chosen and options.judge)
    if with_mauve:
        mauve.require_mauve()
    if options.output:
        require_matplotlib()
    models, baselines = values["models"], options.baseline or []
    tokmats, ars = row_names("tokmat", models), row_names("ar", baselines)
    for name in models:
        tokmat_config(name)

    @functools.cache  # the judge may be a baseline
    def load(name):
        model = load_pretrained(AutoModelForCausalLM.from_pretrained, name, trust_remote_code=True).eval()
        return model.to(torch.accelerator.current_accelerator() or "cpu")

    tokenizer = load_pretrained(AutoTokenizer.from_pretrained, models[0], trust_remote_code=True)
    source = options.data[0] if len(options.data) == 1 else options.data
    documents, lengths = load_documents(source), (options.prompt_tokens, options.new_tokens)
    prompts = held_out_prompts(documents, tokenizer, options.prompts, *lengths)
    if with_mauve:
        places, stride = windows(documents, tokenizer, options.mauve_continuations, *lengths)
    vocabulary = load(models[0]).config.vocab_size
    for name in [*models, *baselines, *([options.judge] if options.judge else [])]:
        if load(name).config.vocab_size != vocabulary:
            tokens = load(name).config.vocab_size
            raise ValueError(
                f"{name} has {tokens} tokens, {models[0]} has {vocabulary}: they must share one tokenizer"
            )
    judge = load(options.judge) if options.judge else None

    tokmats, ars = ({row: load(name) for row, name in rows.items()} for rows in (tokmats, ars))
    plans = decoders(options, tokmats, ars, given)
    result = {"model": base_name(models[0]), "models": [base_name(name) for name in models]}
    result |= {"baselines": [base_name(name) for name in baselines]}
    result |= {"judge": options.judge and base_name(options.judge), "data": [base_name(name) for name in options.data]}
    result |= {"prompts": len(prompts.ids), "new_tokens": options.new_tokens, "prompt_tokens": options.prompt_tokens}
    result |= {"seeds": options.seeds, "settings": given}
    notes = {NO_CONTRASTIVE: baselines, OWN_JUDGE: options.judge in baselines}
    result["conventions"] = [*CONVENTIONS, *(note for note, holds in notes.items() if holds)]

    few = min(options.verified_prompts, len(prompts.ids))
    total = sum(len(plan.seeds) for plan in plans) * len(prompts.ids)
    total += len(plans) * options.mauve_continuations * with_mauve
    total += len(tokmats) * 2 * (len(prompts.ids) + few) * bool(options.look_ahead)
    bar = Progress(
        TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True)
    )
    with bar:
        task = bar.add_task("", total=total)

        def advance(count, description):
            bar.update(task, advance=count, description=description)

        rows = [Continuations("human", [prompts.human], [], []), *continuations(options, prompts, plans, advance)]
        result["decoders"] = [judged(row, prompts, judge) for row in rows]
        if options.look_ahead:
            found = {row["name"]: row for row in result["decoders"]}
            for name, model in tokmats.items():
                found[name]["look_ahead"] = look_ahead(model, prompts, options, given, advance)
            # Of the first model here as well: with one model there is nothing to choose.
            result["look_ahead"] = found[next(iter(tokmats))]["look_ahead"]
        if with_mauve:
            add_mauve(result, options, plans, places, stride, judge, advance)
    show(result)
    if options.output:
        save(result, rows, prompts, tokenizer, Path(options.output))
    return 0


def require_matplotlib() -> None:
    """Raises:
    ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError('--output draws pictures with matplotlib: pip install "tokmat[eval]"') from error


def base_name(name: str) -> str:
    return Path(name).resolve().name


def row_names(kind: str, models: list[str]) -> dict[str, str]:
    """Models by the name of their rows: `kind` alone for one model, with the folder's name for several, or with the
    whole path where folders of one name are compared.

    Raises:
        ValueError: a model is given twice.
    """
    if len(models) < 2:
        return dict(zip([kind], models))
    for model in models:
        if models.count(model) > 1:
            raise ValueError(f"the model {model} is given twice")
    short = [base_name(model) for model in models]
    return {
        f"{kind} ({name})": model for name, model in zip(models if len(set(short)) < len(short) else short, models)
    }


def decoders(options, tokmats: dict, baselines: dict, given: dict) -> list[Decoder]:
    """Every TokMat model with the settings `given`, and every decoding of every baseline, models by name."""
    seeds = list(range(options.seeds))
    plans = [Decoder(name, model, seeds, given) for name, model in tokmats.items()]
    for name, model in baselines.items():
        greedy = {"do_sample": False}
        plans.append(Decoder(f"{name} greedy", model, [None], greedy))
        for penalty in PENALTIES:
            plans.append(
                Decoder(f"{name} penalty {penalty}", model, [None], {**greedy, "repetition_penalty": penalty})
            )
        plans.append(Decoder(f"{name} nucleus 0.95", model, seeds, {"do_sample": True, "top_p": 0.95, "top_k": 0}))
        plans.append(Decoder(f"{name} top-k 50", model, seeds, {"do_sample": True, "top_k": 50}))
    return plans


def continuations(options, prompts: Prompts, plans: list[Decoder], advance, note: str = "") -> list[Continuations]:
    """What every decoder wrote. `advance(count, description)` hears of progress."""
    rows = []
    for plan in plans:
        tell = functools.partial(advance, description=plan.name + note)
        rows.append(
            write(
                plan.name,
                plan.model,
                prompts,
                options.new_tokens,
                options.batch_size,
                plan.seeds,
                tell,
                **plan.settings,
            )
        )
    return rows


def judged(row: Continuations, prompts: Prompts, judge) -> dict:
    """Every metric of one decoder as (mean, low, high), and its mean in the run of each seed."""
    runs = [per_prompt([run], prompts, judge) for run in row.runs]
    found, by_seed = {}, {}
    for name in runs[0]:
        values = np.array([run[name] for run in runs])  # (seeds, prompts)
        found[name], by_seed[name] = interval(values.mean(axis=0)), values.mean(axis=1).tolist()
    if judge is not None:
        found["judge_perplexity"] = tuple(math.exp(value) for value in found.pop("judge_nll"))
        by_seed["judge_perplexity"] = [math.exp(value) for value in by_seed.pop("judge_nll")]
    speed = float(np.median(row.tokens_per_second)) if row.tokens_per_second else None
    return {"name": row.name, **found, "by_seed": by_seed, "tokens_per_second": speed}


def look_ahead(model, prompts: Prompts, options, given: dict, advance) -> dict:
    """tail_acc_k over all prompts, without guidance and with guidance 2, as (mean, low, high); and what verified
    commits gain over one token per forward, one prompt at a time."""
    shared = {name: value for name, value in given.items() if name not in ("tail_length", "commit")}
    found, tell = {}, functools.partial(advance, description="the tail")
    for name, changed in (("tail_acc", {}), ("guided_tail_acc", {"guidance_scale": 2.0})):
        run = {**shared, "tail_length": options.look_ahead, **changed}
        parts = []
        for ids in prompts.ids.split(options.batch_size):
            parts.append(tail_agreement(model, ids.to(model.device), options.new_tokens, **run))
            tell(len(ids))
        for slot, shares in enumerate(torch.cat(parts).numpy().T, start=1):
            found[f"{name}_{slot}"] = interval(shares)
    few = Prompts(prompts.ids[: options.verified_prompts], prompts.human[: options.verified_prompts])
    run = {"commit": "verified", "tail_length": options.look_ahead}
    verified = write("", model, few, options.new_tokens, 1, [0], tell, **run)
    run = {"commit": "front", "tail_length": 1, "alpha_max": 1.0}
    reference = write("", model, few, options.new_tokens, 1, [0], tell, **run)
    found["verified_tokens_per_forward"] = verified.forwards[0]
    found["verified_speed"] = verified.tokens_per_second[0] / reference.tokens_per_second[0]
    found["verified_same_text"] = bool(torch.equal(verified.runs[0], reference.runs[0]))
    return found


def add_mauve(result: dict, options, plans: list[Decoder], places: Prompts, stride: int, judge, advance) -> None:
    """MAUVE of every row of `result`, as (mean, least, greatest) over k-means seeds, and how it was made."""
    human = mauve.features(judge, places.ids, places.human)
    scores = {"human": mauve.between_halves(human)}
    for plan in plans:
        once = [Decoder(plan.name, plan.model, plan.seeds[:1], plan.settings)]
        written = continuations(options, places, once, advance, " (MAUVE)")[0].runs[0]
        scores[plan.name] = mauve.mauve_scores(human, mauve.features(judge, places.ids, written))
    for row in result["decoders"]:
        row["mauve"] = mauve.summary(scores[row["name"]])
        row["mauve_by_kmeans_seed"] = scores[row["name"]]
    count = len(places.ids)
    result["mauve"] = {"continuations": count, "clusters": mauve.clusters(count), "stride": stride}
    result["conventions"].append(
        mauve.conventions(count, *(part.shape[1] for part in (places.ids, places.human)), stride)
    )


def show(result: dict) -> None:
    console, names = Console() if os.isatty(1) else Console(width=230), columns(result)
    title = f"{result['prompts']} prompts, {result['new_tokens']} tokens"
    table = Table("", *names.values(), "tokens/s", title=title)
    for row in result["decoders"]:
        speed = "-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.0f}"
        table.add_row(row["name"], *(cell(row, name).replace("[", "\\[") for name in names), speed)
    console.print(table)
    for line in result["conventions"]:
        console.print(line, style="dim", markup=False, highlight=False)
    for row in result["decoders"]:
        if "look_ahead" in row:
            table = Table("what the tail knows", row["name"])
            for name in row["look_ahead"]:
                table.add_row(name, cell(row["look_ahead"], name).replace("[", "\\["))
            console.print(table)


def save(result: dict, rows: list[Continuations], prompts: Prompts, tokenizer, folder: Path) -> None:
    samples, marked = [], []
    for number, ids in enumerate(prompts.ids.tolist()):
        entry = {"prompt": tokenizer.decode(ids, skip_special_tokens=True)}
        written = {row.name: row.runs[0][number].tolist() for row in rows}
        samples.append(entry | {name: tokenizer.decode(ids) for name, ids in written.items()})
        marked.append(entry | {name: pieces(tokenizer, ids) for name, ids in written.items()})
    names = columns(result)
    lines = ["| | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for row in result["decoders"]:
        lines.append(f"| {row['name']} | " + " | ".join(cell(row, name) for name in names) + " |")
    for row in result["decoders"]:
        if "look_ahead" in row:
            lines += ["", f"| {row['name']} | |", "|---|---|"]
            lines += [f"| {name} | {cell(row['look_ahead'], name)} |" for name in row["look_ahead"]]
    texts = {
        "results.json": json.dumps(result, indent=2),
        "results.md": "\n".join([*lines, "", "\n\n".join(result["conventions"])]),
        "samples.json": json.dumps(samples, indent=2, ensure_ascii=False),
        "index.html": page(result, marked),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.tmp").write_text(text + "\n", encoding="utf-8")
        os.replace(folder / f"{name}.tmp", folder / name)
    print(f"Saved in {folder}: {', '.join(texts)}")
