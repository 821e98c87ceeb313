# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What decides beyond 50 tokens: lessons against a pretrained model's loops, and everything about them changed alone.

Prompts, judge and the tokens of a training are those of one round of `pretrained`. Two lessons are the beginnings:

- negatives: context negatives on people's text, which never meet the states in which the model loops.
- phrases: two thirds of the rows are what the source writes without an end, its loops; there the model follows the
  source without its repeated phrases, distributions squared; people's text is learned as it stands.

Fixed before a model was judged: what is compared is Rep-2 at the longest of the lengths that all prompts get; where a
lesson is given decides if every arm on loops repeats less than every arm without; another factor does if its arm
leaves the range of the three training seeds of `phrases`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..evaluation.prompts import passages
from ..own_text import load_own_text
from ..training_run import bf16_supported
from .lab import Finding, Lab
from .peers import draw
from .pretrained import MEASURES, NATS, RATE, Bench, row_of, schedule
from .repetition import tables
from .target import perplexity_rows

SEEDS = (1, 2, 3)  # of the lesson that the others are compared with
EVERY_WEIGHT = 5e-5  # learning rate


@dataclass(frozen=True)
class Arm:
    """A lesson: fields of the model's config and arguments of the training that say what it is; the share of rows that
    the source wrote; whether every weight learns, or adapters."""

    fields: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    own: float = 0.0
    whole: bool = False


def negatives(nats: float = 3.0, **others) -> Arm:
    return Arm({"context_negatives": nats, **others.pop("fields", {})}, **others)


def phrases(nats: float = NATS, own: float = 2 / 3, **others) -> Arm:
    """Without rows of the source's own there is nothing to follow, so they are always some."""
    fields = {"phrase_penalty": nats, **others.pop("fields", {})}
    return Arm(fields, {"reference_sharpness": 2.0, **others.pop("arguments", {})}, own, **others)


LOOPS = "phrases"
ARMS = {
    "negatives": negatives(),
    "negatives, 6 nats": negatives(6.0),
    "negatives, 64 tokens back": negatives(fields={"context_window": 64}),
    "negatives of bigrams": negatives(fields={"context_ngram": 2}),
    "negatives, every weight": negatives(whole=True),
    LOOPS: phrases(),
    "phrases, 1.5 nats": phrases(1.5),
    "phrases, a third of loops": phrases(own=1 / 3),
    "phrases, people's text as the source has it": phrases(arguments={"reference_rows": "all"}),
    "phrases, every weight": phrases(whole=True),
}


def study(lab: Lab) -> Finding:
    bench, lengths = Bench(lab), lab.budget.lengths[:-1]
    prompts = bench.prompts(bench.size.prompts, lengths[-1])
    rows, kept, by_seed = [], {}, []
    source = lab.load(Path(bench.source))
    for name, model in (("human", None), ("greedy", source)):
        rows += bench.told([(name, model, {"do_sample": False})], prompts, lengths)
    kept["greedy"] = bench.perplexity(source)
    for name in ARMS:
        found = []
        for seed in SEEDS if name == LOOPS else SEEDS[:1]:
            values, perplexity = examined(bench, name, seed, prompts, lengths)
            found.append(values)
            kept.setdefault(name, perplexity)
        if name == LOOPS:
            by_seed = [row_of("", lengths[-1], values[-1])["rep_2"] for values in found]
        for place, length in enumerate(lengths):
            # Bootstrap over prompts, and over training seeds where there are several.
            measures = found[0][place]
            joined = {measure: [each[place][measure] for each in found] for measure in measures}
            rows.append(row_of(name, length, joined))
    return concluded(lab, bench, rows, kept, by_seed)


def examined(bench: Bench, name: str, seed: int, prompts, lengths) -> tuple[list[dict], float]:
    """What the model that an arm made writes, text by text at every length, and its perplexity of held-out text."""
    model = bench.load(taught(bench, name, seed))
    numbered = name if seed == 1 else f"{name}, seed {seed}"
    values = bench.values(f"lesson {numbered}", model, {"tail_length": 1, "alpha_max": 1.0}, prompts, lengths)
    path = bench.lab.path("written") / f"lesson-{slug(numbered)}-perplexity.json"
    if not path.exists():
        path.write_text(json.dumps(bench.perplexity(model)), encoding="utf-8")
    perplexity = json.loads(path.read_text(encoding="utf-8"))
    repeats = [sum(found["rep_2"]) / len(found["rep_2"]) for found in values]
    said = ", ".join(f"{share:.3f} at {length} tokens" for share, length in zip(repeats, lengths))
    bench.lab.say(f"{numbered}: Rep-2 {said}, perplexity {perplexity:.2f}")
    return values, perplexity


def slug(name: str) -> str:
    return name.replace(",", "").replace("'", "").replace(" ", "-")


def taught(bench: Bench, name: str, seed: int = 1) -> Path:
    """The folder of what an arm made, trained unless it is there."""
    arm, size = ARMS[name], bench.size
    folder = bench.lab.path(f"lesson-{slug(name)}" + (f"-{seed}" if seed > 1 else ""))
    if any(folder.glob("*.safetensors")):
        return folder
    bench.lab.say(f"{name}, seed {seed}: {size.steps} steps")
    work = folder.with_name(f"{folder.name}.training")
    rate = EVERY_WEIGHT if arm.whole else RATE
    settings = schedule(work, size.steps, size.batch, rate, seed, bench.lab.device)
    settings |= {"bf16": bf16_supported(bench.lab.device.type == "cpu"), **arm.arguments}
    bench.teach(folder, rows_of(bench, arm), arm.fields, settings, whole=arm.whole)
    return folder


def rows_of(bench: Bench, arm: Arm) -> Dataset:
    """What an arm is taught on: rows of the source's own text, and people's."""
    size = bench.size
    count = size.steps * size.batch
    own = round(count * arm.own)
    people = passages(bench.lab.documents[0]["text"], bench.tokenizer, count - own, size.block, seed=700).tolist()
    rows = [{"input_ids": ids, "tail_only": False} for ids in people]
    for row in list(load_own_text(bench.own_text(0, None)))[:own] if own else ():
        rows.append({"input_ids": row["prompt_ids"] + row["answer_ids"], "tail_only": True})
    return Dataset.from_list(rows)


# -- what is concluded ------------------------------------------------------------------------------------------------


def concluded(lab: Lab, bench: Bench, rows: list[dict], kept: dict[str, float], by_seed: list[float]) -> Finding:
    longest = max(lab.budget.lengths[:-1])
    by_name = {row["decoder"]: row for row in rows if row["new_tokens"] == longest}
    repeats = {name: by_name[name]["rep_2"] for name in ARMS}
    without = [value for name, value in repeats.items() if not ARMS[name].own]
    loops = {name: value for name, value in repeats.items() if ARMS[name].own}
    least, most = min(by_seed), max(by_seed)
    better = [name for name, value in loops.items() if value < least]
    worse = [name for name, value in loops.items() if value > most]
    best = min(repeats, key=repeats.__getitem__)
    told = [
        f"Rep-2 at {longest} tokens: greedy {by_name['greedy']['rep_2']:.3f}, people {by_name['human']['rep_2']:.3f}.",
        f"On people's text alone {min(without):.3f} to {max(without):.3f}, with the source's own loops "
        f"{min(loops.values()):.3f} to {max(loops.values()):.3f}.",
        f"`{LOOPS}` by training seed: {', '.join(f'{value:.3f}' for value in by_seed)}; below that range: "
        f"{', '.join(better) or 'nothing'}; above it: {', '.join(worse) or 'nothing'}.",
        f"Least repetition: {best}, {repeats[best]:.3f}, {by_name[best]['bits']:.3f} bits per byte, perplexity of "
        f"held-out text {kept[best] / kept['greedy']:.3f} times the source's.",
    ]
    size = bench.size
    return Finding(
        claim="Beyond 50 tokens it decides whether a pretrained model is taught where it loops itself; how strong the "
        "lesson is, how much of the text is loops, what becomes of people's text and how many weights learn do not.",
        finding=" ".join(told),
        verdict=lab.verdict([max(loops.values()) < min(without), not better and not worse]),
        rows=[*rows, *perplexity_rows(kept)],
        figure=draw(rows, kept, lab.budget.lengths[:-1]),
        text=tables(rows, (*MEASURES, "bits"))
        + f"\n\nEach {size.steps} steps of {size.batch} rows of {size.block} tokens; LoRA at {RATE:g}, every weight "
        f"at {EVERY_WEIGHT:g}; argmax without a penalty. Intervals: 95 %, bootstrap over prompts, of `{LOOPS}` over "
        f"its {len(SEEDS)} training seeds too.",
    )
