# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What decides beyond 50 tokens: lessons against a pretrained model's loops, and everything about them changed alone.

Prompts, judge and the tokens of a training are those of one round of `pretrained`. Two lessons are the beginnings:

- negatives: context negatives on people's text, which never meet the states in which the model loops; of tokens, or of
  what would complete a bigram that was there before.
- phrases: two thirds of the rows are what the source writes without an end, its loops; there the model follows the
  source without its repeated phrases, distributions squared; people's text is learned as it stands.

The claim was fixed before a model was judged; it holds if every arm on loops repeats less than every arm without, at
the longest of the lengths that all prompts get. The negatives of 9 and 12 nats were added when 6 had turned out well.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..evaluation.prompts import passages
from ..models import bf16_supported
from ..own_text import load_own_text
from .lab import Finding, Lab, slug
from .peers import draw, examined
from .pretrained import MEASURES, NATS, RATE, Bench, schedule
from .repetition import tables
from .target import perplexity_rows

ARGMAX = {"tail_length": 1, "alpha_max": 1.0}
EVERY_WEIGHT = 5e-5  # learning rate


@dataclass(frozen=True)
class Arm:
    """A lesson: fields of the model's config and arguments of the training that say what it is; the share of rows that
    the source wrote; how many times the steps of a round it takes; whether every weight learns, or adapters."""

    fields: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    own: float = 0.0
    times: int = 1
    whole: bool = False


def negatives(nats: float = 3.0, times: int = 1, whole: bool = False, **fields) -> Arm:
    return Arm({"context_negatives": nats, **fields}, times=times, whole=whole)


ARMS = {
    "negatives": negatives(),
    "negatives, 6 nats": negatives(6.0),
    "negatives, 64 tokens back": negatives(context_window=64),
    "negatives of bigrams": negatives(context_ngram=2),
    "negatives of bigrams, 6 nats": negatives(6.0, context_ngram=2),
    "negatives of bigrams, 9 nats": negatives(9.0, context_ngram=2),
    "negatives of bigrams, 12 nats": negatives(12.0, context_ngram=2),
    "negatives of bigrams, 9 nats, twice the steps": negatives(9.0, times=2, context_ngram=2),
    "negatives, every weight": negatives(whole=True),
    "phrases": Arm({"phrase_penalty": NATS}, {"reference_sharpness": 2.0}, own=2 / 3),
}


def study(lab: Lab) -> Finding:
    bench = Bench(lab)
    return concluded(lab, bench, *examined(bench, decoders(bench)))


def decoders(bench: Bench):
    """(name, model or None for people, settings), one model at a time."""
    yield "human", None, {}
    yield "greedy", bench.lab.load(Path(bench.source)), {"do_sample": False}
    for name in ARMS:
        yield name, bench.load(taught(bench, name)), ARGMAX


def taught(bench: Bench, name: str, seed: int = 1) -> Path:
    """The folder of what an arm made, trained unless it is there."""
    arm, size = ARMS[name], bench.size
    folder = bench.lab.path(f"lesson-{slug(name)}" + (f"-{seed}" if seed > 1 else ""))
    if any(folder.glob("*.safetensors")):
        return folder
    steps = size.steps * arm.times
    bench.lab.say(f"{name}, training seed {seed}: {steps} steps")
    work = folder.with_name(f"{folder.name}.training")
    rate = EVERY_WEIGHT if arm.whole else RATE
    settings = schedule(work, steps, size.batch, rate, seed, bench.lab.device)
    settings |= {"bf16": bf16_supported(bench.lab.device.type == "cpu"), **arm.arguments}
    bench.teach(folder, rows_of(bench, arm), arm.fields, settings, whole=arm.whole)
    return folder


def rows_of(bench: Bench, arm: Arm) -> Dataset:
    """What an arm is taught on: rows of the source's own text, and people's."""
    size = bench.size
    count = size.steps * arm.times * size.batch
    own = round(count * arm.own)
    people = passages(bench.lab.documents[0]["text"], bench.tokenizer, count - own, size.block, seed=700).tolist()
    rows = [{"input_ids": ids, "tail_only": False} for ids in people]
    for row in list(load_own_text(bench.own_text(0, None)))[:own] if own else ():
        rows.append({"input_ids": row["prompt_ids"] + row["answer_ids"], "tail_only": True})
    return Dataset.from_list(rows)


# -- what is concluded ------------------------------------------------------------------------------------------------


def concluded(lab: Lab, bench: Bench, rows: list[dict], kept: dict[str, float]) -> Finding:
    longest = max(lab.budget.lengths[:-1])
    by_name = {row["decoder"]: row for row in rows if row["new_tokens"] == longest}
    told = []
    for name, row in by_name.items():
        price = f", perplexity {kept[name] / kept['greedy']:.3f} times the source's" if name in ARMS else ""
        told.append(f"{name}: Rep-2 {row['rep_2']:.3f}, {row['bits']:.3f} bits per byte{price}")
    on_loops = [by_name[name]["rep_2"] for name, arm in ARMS.items() if arm.own]
    without = [by_name[name]["rep_2"] for name, arm in ARMS.items() if not arm.own]
    size = bench.size
    return Finding(
        claim="Beyond 50 tokens it decides whether a pretrained model is taught where it loops itself; how strong the "
        "lesson is, of what kind, how far back it reaches and how many weights learn do not.",
        finding=f"{longest} tokens. {'. '.join(told)}.",
        verdict=lab.verdict(max(on_loops) < min(without)),
        rows=[*rows, *perplexity_rows(kept)],
        figure=draw(rows, kept, lab.budget.lengths[:-1]),
        text=tables(rows, (*MEASURES, "bits"))
        + f"\n\nEach {size.steps} steps of {size.batch} rows of {size.block} tokens; LoRA at {RATE:g}, every weight "
        f"at {EVERY_WEIGHT:g}; argmax without a penalty. Intervals: 95 %, bootstrap over prompts; one training seed.",
    )
