# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What decides beyond 50 tokens: lessons against a pretrained model's loops, and everything about them changed alone.

Prompts, judge and the tokens of a training are those of one round of `pretrained`. Two lessons are the beginnings:

- negatives: context negatives on people's text, which never meet the states in which the model loops; of tokens, or of
  what would complete a bigram that was there before.
- phrases: two thirds of the rows, or a third, are what the source writes without an end, its loops; there the model
  follows the source without its repeated phrases, distributions squared; people's text is learned as it stands.

The claim was fixed before a model was judged; it holds if every arm on loops repeats less than every arm without, at
the longest of the lengths that all prompts get. The negatives of 9 and 12 nats were added when 6 had turned out well,
and the arms that change those of 9 in one thing (trigrams, longer rows, chat answers among them) after that.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..evaluation.prompts import passages
from ..models import bf16_supported
from ..own_text import Prompt, chat_ids, load_own_text, write_own_text
from .lab import Finding, Lab, slug
from .peers import draw, examined
from .pretrained import MEASURES, NATS, PROMPT_TOKENS, RATE, Bench, Size, schedule
from .repetition import tables
from .target import perplexity_rows

ARGMAX = {"tail_length": 1, "alpha_max": 1.0}
EVERY_WEIGHT = 5e-5  # learning rate
ASKED = ("Go on with this text.", "What may come next here?", "Tell the rest in your own words.", "Who is this about?")


@dataclass(frozen=True)
class Arm:
    """A lesson: fields of the model's config and arguments of the training that say what it is; the share of rows that
    the source wrote without an end, and of those that it answered in a chat; how many times the steps of a round it
    takes, and how many times as long its rows are, which are so many fewer; whether every weight learns, or adapters.
    """

    fields: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    own: float = 0.0
    chats: float = 0.0
    times: int = 1
    longer: int = 1
    whole: bool = False

    def rows(self, size: Size) -> int:
        """Of a step."""
        return size.batch // self.longer


def negatives(nats: float = 3.0, chats: float = 0.0, times: int = 1, longer: int = 1, whole=False, **fields) -> Arm:
    return Arm({"context_negatives": nats, **fields}, chats=chats, times=times, longer=longer, whole=whole)


def phrases(own: float) -> Arm:
    return Arm({"phrase_penalty": NATS}, {"reference_sharpness": 2.0}, own=own)


ARMS = {
    "negatives": negatives(),
    "negatives, 6 nats": negatives(6.0),
    "negatives, 64 tokens back": negatives(context_window=64),
    "negatives of bigrams": negatives(context_ngram=2),
    "negatives of bigrams, 6 nats": negatives(6.0, context_ngram=2),
    "negatives of bigrams, 9 nats": negatives(9.0, context_ngram=2),
    "negatives of bigrams, 12 nats": negatives(12.0, context_ngram=2),
    "negatives of bigrams, 9 nats, twice the steps": negatives(9.0, times=2, context_ngram=2),
    "negatives of bigrams, 9 nats, rows four times as long": negatives(9.0, longer=4, context_ngram=2),
    "negatives of bigrams, 9 nats, a quarter chat answers": negatives(9.0, chats=1 / 4, context_ngram=2),
    "negatives of trigrams, 9 nats": negatives(9.0, context_ngram=3),
    "negatives, every weight": negatives(whole=True),
    "phrases": phrases(own=2 / 3),
    "phrases, a third of loops": phrases(own=1 / 3),
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
    settings = schedule(work, steps, arm.rows(size), rate, seed, bench.lab.device)
    settings |= {"bf16": bf16_supported(bench.lab.device.type == "cpu"), **arm.arguments}
    bench.teach(folder, rows_of(bench, arm), arm.fields, settings, whole=arm.whole)
    return folder


def rows_of(bench: Bench, arm: Arm) -> Dataset:
    """What an arm is taught on: people's text, and rows of the source's own, which may end earlier."""
    size = bench.size
    count, block = size.steps * arm.times * arm.rows(size), size.block * arm.longer
    own, chats = round(count * arm.own), round(count * arm.chats)
    texts = bench.lab.documents[0]["text"]
    people = passages(texts, bench.tokenizer, count - own - chats, block, seed=700).tolist()
    rows = [{"input_ids": ids, "tail_only": False} for ids in people]
    written = [(bench.own_text(0, None), own, True)] if own else []
    written += [(chat_answers(bench, chats, block), chats, False)] if chats else []
    for path, number, tail_only in written:
        for row in list(load_own_text(path))[:number]:
            ids = (row["prompt_ids"] + row["answer_ids"])[:block]
            rows.append({"input_ids": ids, "tail_only": tail_only})
    return Dataset.from_list(rows)


def chat_answers(bench: Bench, count: int, block: int) -> Path:
    """The source's answers to people who ask it to go on with a text; batches that are there are not written again."""
    path, tokenizer = bench.lab.path("own-chats.jsonl"), bench.tokenizer
    starts = passages(bench.lab.documents[0]["text"], tokenizer, count, PROMPT_TOKENS, seed=701)
    prompts = []
    for number, start in enumerate(starts):
        asked = f"{ASKED[number % len(ASKED)]}\n\n{tokenizer.decode(start)}"
        chat = [{"role": "user", "content": asked}]
        ids = chat_ids(tokenizer, chat) if tokenizer.chat_template else tokenizer(asked)["input_ids"]
        prompts.append(Prompt(ids, "chat"))
    new_tokens = max(block - max(len(prompt.ids) for prompt in prompts), PROMPT_TOKENS)
    settings = {"max_new_tokens": new_tokens, "stop_loops": False, "may_end": True}
    bench.lab.say(f"writing {count} chat answers")
    write_own_text(bench.load(), tokenizer, [prompts], path, settings)
    return path


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
        + f"\n\nEach, unless its name says otherwise, {size.steps} steps of {size.batch} rows of {size.block} tokens; "
        f"LoRA at {RATE:g}, every weight at {EVERY_WEIGHT:g}; argmax without a penalty. "
        "Intervals: 95 %, bootstrap over prompts; one training seed.",
    )
