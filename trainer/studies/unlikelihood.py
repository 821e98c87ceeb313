# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Sequence unlikelihood, and once more on what the model then writes, beside every way to decode the source.

Target, test set and judge are those of `pretrained`, fixed there before a model was judged. The first round is that
of `peers`. Then the model writes on, without an end, and learns from that and from the loops of the source again;
people's text keeps half of the rows. A second round without the source's loops, in which repeated tokens counted
alone, made things worse (docs/RESULTS.md).
"""

import math
from pathlib import Path

import torch
from datasets import Dataset

from ..evaluation.decoders import PhrasePenalty
from ..evaluation.measures import judge_nll
from ..evaluation.prompts import passages
from .lab import Finding, Lab
from .peers import SEQUENCE, merged, own_rows, rows_of, taught
from .pretrained import MEASURES, Bench, draw, judged
from .repetition import tables

ROUNDS = 2
SAMPLING = {
    "nucleus 0.95": {"top_p": 0.95, "top_k": 0},
    "min-p 0.1": {"min_p": 0.1, "top_k": 0},
    "typical 0.9": {"typical_p": 0.9, "top_k": 0},
}


def study(lab: Lab) -> Finding:
    bench, rows = Bench(lab), []
    rounds = trained_rounds(bench)
    lengths = lab.budget.lengths
    for count, some in ((bench.size.prompts, lengths[:-1]), (bench.size.long_prompts, lengths[-1:])):
        prompts = bench.prompts(count, some[-1])
        for name, model, settings in decoders(bench, rounds, most=some[-1] < lengths[-1]):
            for row in bench.measured(name, model, settings, prompts, some):
                rows.append(row)
                lab.say(
                    f"{row['new_tokens']} tokens, {name}: Rep-2 {row['rep_2']:.3f}, {row['bits']:.3f} bits per byte"
                )
    return concluded(lab, bench, rows, perplexities(bench, rounds))


def named(number: int) -> str:
    return f"argmax, unlikelihood, round {number}"


def trained_rounds(bench: Bench) -> list[Path]:
    """The adapters after every round."""
    first = taught(bench, f"peer-{SEQUENCE.replace(' ', '-')}", SEQUENCE, lambda: rows_of(bench, SEQUENCE))
    return [first, taught(bench, "unlikelihood-2", SEQUENCE, lambda: rows_of_the_second(bench, first), first, seed=2)]


def rows_of_the_second(bench: Bench, first: Path) -> Dataset:
    """People's text in half of the rows, the source's loops in a quarter, in a quarter what the first round writes."""
    quarter, path = bench.size.steps * bench.size.batch // 4, bench.lab.path("own-unlikelihood-1.jsonl")
    bench.lab.say(f"writing {quarter} texts after one round")
    bench.write_endless(merged(bench, first), path, quarter, seed=402)
    texts = bench.lab.documents[0]["text"]
    people = passages(texts, bench.tokenizer, 2 * quarter, bench.size.block, seed=502).tolist()
    own = own_rows(bench.own_text(0, None), quarter) + own_rows(path, quarter)
    return Dataset.from_list([*({"input_ids": ids, "period": 0} for ids in people), *own])


def decoders(bench: Bench, rounds: list[Path], most: bool):
    """(name, model or None for people, settings), one model at a time; the longest texts have fewer rivals."""
    greedy = {"do_sample": False}
    yield "human", None, {}
    for number, folder in enumerate(rounds, start=1):
        if most or number == len(rounds):
            yield named(number), merged(bench, folder), greedy
    source = merged(bench)
    yield "greedy", source, greedy
    for penalty in (1.05, 1.1, 1.2, 1.3) if most else (1.2,):
        yield f"penalty {penalty}", source, greedy | {"repetition_penalty": penalty}
    if most:
        for n in (3, 4):
            yield f"no repeated {n}-gram", source, greedy | {"no_repeat_ngram_size": n}
        for nats in (1.5, 3.0):
            yield f"phrases, {nats:g} nats", source, greedy | {"logits_processor": [PhrasePenalty(nats)]}
        for name, settings in SAMPLING.items():
            yield name, source, {"do_sample": True} | settings


def perplexities(bench: Bench, rounds: list[Path]) -> dict[str, float]:
    """Of held-out text, under the source and after every round."""
    size, found = bench.size, {}
    texts = passages(bench.lab.documents[1]["text"], bench.tokenizer, size.held_out, size.block, seed=1)
    plans: dict[str, list[Path]] = {"source": []}
    plans |= {named(number): [folder] for number, folder in enumerate(rounds, start=1)}
    for name, folders in plans.items():
        with torch.no_grad():
            nats = judge_nll(merged(bench, *folders), texts[:, :1], texts[:, 1:], batch_size=4)
        found[name] = math.exp(float(nats.mean()))
    return found


def concluded(lab: Lab, bench: Bench, rows: list[dict], kept: dict[str, float]) -> Finding:
    last, told, holds = named(ROUNDS), [], []
    for length in lab.budget.lengths:
        text, reached = judged([row for row in rows if row["new_tokens"] == length], last)
        told.append(f"{length} tokens: {text}")
        holds += reached
    times = [f"{kept[named(number)] / kept['source']:.3f}" for number in range(1, ROUNDS + 1)]
    holds.append(kept[last] <= 1.05 * kept["source"])
    told.append(f"Perplexity of held-out text after the rounds, times the source's: {', '.join(times)}.")
    size = bench.size
    return Finding(
        claim="A pretrained model that loops under argmax repeats no more than people do, at 50, 200 and 1,000 "
        "tokens, after rounds of sequence unlikelihood on its own text; its text is judged no worse than with the "
        "weakest penalty at decoding that repeats as little, and it forgets nothing.",
        finding=" ".join(told),
        verdict=lab.verdict("holds" if all(holds) else "partly" if any(holds) else "does not hold"),
        rows=[*rows, *({"decoder": f"held-out text, {name}", "perplexity": p} for name, p in kept.items())],
        figure=draw(rows, lab.budget.lengths, last),
        text=tables(rows, (*MEASURES, "bits"))
        + f"\n\n{ROUNDS} rounds of {size.steps} steps of {size.batch} rows of {size.block} tokens, half of them "
        "people's text. bits: per byte, under a judge of another tokenizer. Intervals: 95 %, bootstrap over prompts; "
        "one training seed.",
    )
