# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""One evaluation: text beside a same-size baseline's and people's, and what the tail knows."""

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import PreTrainedTokenizerBase

from ..arguments import EvaluateArguments
from ..checkpoints import check_folder, in_the_box, load_model, load_tokenizer, model_kind, tokmat_config
from ..data import load_documents
from ..models import bf16_supported, machine_device
from ..pictures import require_matplotlib
from ..traces import Run, watch
from . import mauve
from .bits import TextJudge
from .decoders import Continuations, Decoder, continuations, decoders
from .look_ahead import what_the_tail_knows
from .measures import held_out_perplexity, scores
from .prompts import Prompts, held_out_prompts, windows

CONVENTIONS = (
    "Tokens of the model's tokenizer, without the prompt; Dist-n and Rep-n are means over continuations; Loop is the "
    "share of continuations that repeat a trigram; all continuations have one length (no end of text).",
    "Held-out ppl is the perplexity that people's continuations have to the model itself, at committed positions.",
    "Intervals: 95 %, bootstrap over prompts (1,000 resamples), each prompt's value being the mean over seeds.",
)
NO_CONTRASTIVE = "Contrastive search is left out: transformers 5 has it only as code to fetch from the Hub."
OTHER_TOKENS = "The judge has another tokenizer, so it reads texts: bits per byte of what follows the prompt"
LOG_SECONDS = 60  # between lines where no bar can be shown
OWN_JUDGE = "The judge is one of the baselines, so its perplexity favours what that baseline writes."


@dataclass
class Evaluation:
    """Figures by row of the table (`result`, as results.json has them), the texts that they are of, and how the first
    of each TokMat model matured."""

    result: dict
    written: list[Continuations]
    prompts: Prompts
    tokenizer: PreTrainedTokenizerBase
    watched: dict[str, Run]


def evaluate(models: list[str], options: EvaluateArguments, settings: dict) -> Evaluation:
    """Judge TokMat models, which decode with the maturation `settings`, beside baselines and people.

    Raises:
        ValueError, OSError: wrong options, or models or text that do not fit them, before anything is generated.
    """
    check_options(options)
    baselines = options.baseline or []
    tokmat_rows, baseline_rows = row_names("tokmat", models), row_names("ar", baselines)
    for name in models:
        tokmat_config(name)
    if options.judge:
        check_judge(options.judge, baselines)
    loaded = {}  # by place: the judge may be a baseline

    def load(name):
        if (place := spelt_once(name)) not in loaded:
            model = load_model(name, options.trust_remote_code and not is_judge(name, options)).eval()
            loaded[place] = model.to(machine_device())
        return loaded[place]

    tokenizer = load_tokenizer(models[0])
    source = options.data[0] if len(options.data) == 1 else options.data
    documents, lengths = load_documents(source), (options.prompt_tokens, options.new_tokens)
    prompts = held_out_prompts(documents, tokenizer, options.prompts, *lengths)
    places = windows(documents, tokenizer, options.mauve_continuations, *lengths) if with_mauve(options) else None
    vocabulary = load(models[0]).config.vocab_size
    for name in [*models, *baselines]:
        if load(name).config.vocab_size != vocabulary:
            tokens = load(name).config.vocab_size
            raise ValueError(
                f"{name} has {tokens} tokens, {models[0]} has {vocabulary}: they must share one tokenizer"
            )
    judge = as_judge(options.judge, load(options.judge), tokenizer, vocabulary) if options.judge else None

    tokmats, ars = ({row: load(name) for row, name in rows.items()} for rows in (tokmat_rows, baseline_rows))
    plans = decoders(options, tokmats, ars, settings)
    result = described(models, options, settings, len(prompts.ids))
    if isinstance(judge, TextJudge):
        result["conventions"].append(f"{OTHER_TOKENS}, in {str(judge.model.dtype).removeprefix('torch.')}.")
    few = min(options.verified_prompts, len(prompts.ids))
    total = sum(len(plan.seeds) for plan in plans) * len(prompts.ids)
    total += len(plans) * options.mauve_continuations * with_mauve(options)
    total += len(tokmats) * 2 * (len(prompts.ids) + few) * bool(options.look_ahead)
    bar = Progress(
        TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True)
    )
    with bar:
        task, logged = bar.add_task("", total=total), time.monotonic()

        def advance(count, description):
            nonlocal logged
            bar.update(task, advance=count, description=description)
            if not bar.console.is_terminal and time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                print(f"{bar.tasks[0].completed:.0f}/{total} {description}", file=sys.stderr, flush=True)

        written = [Continuations("human", [prompts.human], [], []), *continuations(options, prompts, plans, advance)]
        result["decoders"] = [scores(row, prompts, judge) for row in written]
        found = {row["name"]: row for row in result["decoders"]}
        for plan in {id(plan.model): plan for plan in reversed(plans)}.values():  # of every model the first
            found[plan.name]["held_out_perplexity"] = held_out_perplexity(plan.model, prompts)
        if options.look_ahead:
            for name, model in tokmats.items():
                found[name]["look_ahead"] = what_the_tail_knows(model, prompts, options, settings, advance)
            # Of the first model here as well: with one model there is nothing to choose.
            result["look_ahead"] = found[next(iter(tokmats))]["look_ahead"]
        if places is not None:
            add_mauve(result, options, plans, *places, judge, advance)
    first, length = prompts.ids[0].tolist(), options.new_tokens
    seen = tokmats.items() if options.output else ()
    watched = {name: watch(model, tokenizer, first, length, **settings) for name, model in seen}
    return Evaluation(result, written, prompts, tokenizer, watched)


def check_options(options: EvaluateArguments) -> None:
    """Raises:
    ValueError: a wrong option, or a package that is needed is not installed.
    """
    for name in ("prompts", "prompt_tokens", "new_tokens", "seeds", "batch_size", "verified_prompts"):
        if getattr(options, name) < 1:
            raise ValueError(f"`{name}` is {getattr(options, name)}, but it must be at least 1")
    least, chosen = mauve.LEAST, options.mauve_continuations
    if chosen and chosen < least:
        raise ValueError(f"`mauve_continuations` is {chosen}, but it must be 0 (no MAUVE) or at least {least}")
    if with_mauve(options):
        mauve.require_mauve()
    if options.output:
        check_folder(options.output)
        require_matplotlib("--output")


def check_judge(judge: str, baselines: list[str]) -> None:
    """Raises:
    ValueError: the judge needs code of its own. No figure may depend on code that came with a model.
    """
    if model_kind(judge)[1]:
        too = " and is a --baseline too" if spelt_once(judge) in map(spelt_once, baselines) else ""
        raise ValueError(
            f"--judge {judge} needs code of its own{too}, but a judge is loaded without, whatever "
            "--trust-remote-code says of baselines: choose another judge"
        )


def as_judge(name: str, model, tokenizer: PreTrainedTokenizerBase, vocabulary: int):
    """The model itself where it has the tokens of the models, else a `TextJudge`.

    Raises:
        ValueError: it has other tokens, and no tokenizer that says where in a text its tokens end.
    """
    try:
        own = load_tokenizer(name)
    except (OSError, ValueError) as error:
        if model.config.vocab_size == vocabulary:  # nothing but its weights was saved
            return model
        raise ValueError(f"--judge {name} has other tokens than the models, and no tokenizer: {error}") from error
    if own.get_vocab() == tokenizer.get_vocab():
        return model
    if not own.is_fast:
        raise ValueError(f"--judge {name} has another tokenizer than the models, so it must be a fast one: it is none")
    dtype = torch.bfloat16 if bf16_supported() else model.dtype  # most of the judging is its table of tokens
    return TextJudge(model.to(dtype), own, tokenizer)


def is_judge(name: str, options: EvaluateArguments) -> bool:
    return options.judge is not None and spelt_once(name) == spelt_once(options.judge)


def spelt_once(name: str) -> str:
    """A folder's whole path, however it was written; a Hub name as it is."""
    folder = Path(in_the_box(name)).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def with_mauve(options: EvaluateArguments) -> bool:
    return bool(options.mauve_continuations and options.judge)


def described(models: list[str], options: EvaluateArguments, settings: dict, prompts: int) -> dict:
    """What was evaluated, and by which conventions."""
    baselines = options.baseline or []
    notes = {NO_CONTRASTIVE: baselines, OWN_JUDGE: any(is_judge(name, options) for name in baselines)}
    return {
        "model": base_name(models[0]),
        "models": [base_name(name) for name in models],
        "baselines": [base_name(name) for name in baselines],
        "judge": options.judge and base_name(options.judge),
        "data": [base_name(name) for name in options.data],
        "prompts": prompts,
        "new_tokens": options.new_tokens,
        "prompt_tokens": options.prompt_tokens,
        "seeds": options.seeds,
        "settings": settings,
        "conventions": [*CONVENTIONS, *(note for note, holds in notes.items() if holds)],
    }


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
    places = [spelt_once(model) for model in models]
    for model, place in zip(models, places):
        if places.count(place) > 1:
            raise ValueError(f"the model {model} is given twice")
    short = [base_name(model) for model in models]
    return {
        f"{kind} ({name})": model for name, model in zip(models if len(set(short)) < len(short) else short, models)
    }


def add_mauve(result: dict, options, plans: list[Decoder], places: Prompts, stride: int, judge, advance) -> None:
    """MAUVE of every row of `result`, as (mean, least, greatest) over k-means seeds, and how it was made."""
    features = judge.features if isinstance(judge, TextJudge) else partial(mauve.features, judge)
    human = features(places.ids, places.human)
    scores = {"human": mauve.between_halves(human)}
    for plan in plans:
        once = [Decoder(plan.name, plan.model, plan.seeds[:1], plan.settings)]
        written = continuations(options, places, once, advance, " (MAUVE)")[0].runs[0]
        scores[plan.name] = mauve.mauve_scores(human, features(places.ids, written))
    for row in result["decoders"]:
        row["mauve"] = mauve.summary(scores[row["name"]])
        row["mauve_by_kmeans_seed"] = scores[row["name"]]
    count = len(places.ids)
    result["mauve"] = {"continuations": count, "clusters": mauve.clusters(count), "stride": stride}
    result["conventions"].append(mauve.conventions(count, places.ids.shape[1], places.human.shape[1], stride))
