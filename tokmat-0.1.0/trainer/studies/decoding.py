# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The lesson that unlearns most (`lessons`: negatives of bigrams), by training seed, beside every way to decode.

Target, test set and judge are those of `pretrained`, fixed there before a model was judged. How many nats the lesson
has was chosen on beginnings of training text: the most that keep the perplexity of other passages within the target.
Beside it sequence unlikelihood (`peers`), of whose second round nothing good came (docs/RESULTS.md).
"""

from ..evaluation.decoders import PhrasePenalty
from .lab import Finding, Lab
from .lessons import ARGMAX, taught
from .peers import SEARCH, SEQUENCE, merged, worn
from .pretrained import MEASURES, Bench, row_of
from .repetition import tables
from .target import draw, judged_at_every_length, perplexity_rows

LESSON = "negatives of bigrams, 9 nats, twice the steps"
SEEDS = (1, 2, 3)
SAMPLING = {
    "nucleus 0.95": {"top_p": 0.95, "top_k": 0},
    "min-p 0.1": {"min_p": 0.1, "top_k": 0},
    "typical 0.9": {"typical_p": 0.9, "top_k": 0},
}


def study(lab: Lab) -> Finding:
    bench = Bench(lab)
    rows = bench.at_every_length(lambda most: decoders(bench, most))
    return concluded(lab, bench, [*over_seeds(bench), *rows], perplexities(bench))


def named(lesson: str, seed: int) -> str:
    """Of one training seed; `SEQUENCE` alone is that of the first one, as in `peers`."""
    return lesson if (lesson, seed) == (SEQUENCE, 1) else f"{lesson}, seed {seed}"


def decoders(bench: Bench, most: bool):
    """(name, model or None for people, settings), one model at a time; the longest texts have fewer rivals."""
    greedy = {"do_sample": False}
    yield "human", None, {}
    for seed in SEEDS:
        yield named(LESSON, seed), bench.load(taught(bench, LESSON, seed)), ARGMAX
    for seed in SEEDS if most else SEEDS[:1]:
        yield named(SEQUENCE, seed), worn(bench, SEQUENCE, seed), greedy
    source = merged(bench)
    yield "greedy", source, greedy
    for penalty in (1.05, 1.1, 1.2, 1.3) if most else (1.2,):
        yield f"penalty {penalty}", source, greedy | {"repetition_penalty": penalty}
    if most:
        for n in (3, 4):
            yield f"no repeated {n}-gram", source, greedy | {"no_repeat_ngram_size": n}
        for nats in (1.5, 3.0):
            yield f"phrases, {nats:g} nats", source, greedy | {"logits_processor": [PhrasePenalty(nats)]}
        yield "contrastive search", source, greedy | SEARCH
        for name, settings in SAMPLING.items():
            yield name, source, {"do_sample": True} | settings


def over_seeds(bench: Bench) -> list[dict]:
    """Rows of the lesson by all its training seeds at once, intervals over prompts and seeds."""
    rows = []
    for prompts, lengths in bench.test_sets():
        found = [
            bench.values(named(LESSON, seed), bench.load(taught(bench, LESSON, seed)), ARGMAX, prompts, lengths)
            for seed in SEEDS
        ]
        for place, length in enumerate(lengths):
            joined = {measure: [values[place][measure] for values in found] for measure in found[0][place]}
            rows.append(row_of(LESSON, length, joined))
    return rows


def perplexities(bench: Bench) -> dict[str, float]:
    """Of held-out text, under the source and under what was taught."""
    found = {"source": bench.perplexity(merged(bench), "source")}
    for seed in SEEDS:
        name = named(LESSON, seed)
        found[name] = bench.perplexity(bench.load(taught(bench, LESSON, seed)), name)
    mean = sum(found[named(LESSON, seed)] for seed in SEEDS) / len(SEEDS)
    unlikely = {named(SEQUENCE, seed): bench.perplexity(worn(bench, SEQUENCE, seed)) for seed in SEEDS}
    return found | {LESSON: mean} | unlikely


def concluded(lab: Lab, bench: Bench, rows: list[dict], kept: dict[str, float]) -> Finding:
    told, holds = judged_at_every_length(rows, lab.budget.lengths, LESSON)
    times = [kept[named(LESSON, seed)] / kept["source"] for seed in SEEDS]
    holds.append(max(times) <= 1.05)
    by_seed = []
    for seed in SEEDS:
        found = [row for row in rows if row["decoder"] == named(LESSON, seed)]
        by_seed.append(", ".join(f"{row['rep_2']:.3f} at {row['new_tokens']}" for row in found) + f" (seed {seed})")
    told.append(f"Rep-2 by training seed: {'; '.join(by_seed)}.")
    told.append(f"Perplexity of held-out text, times the source's: {', '.join(f'{each:.3f}' for each in times)}.")
    size = bench.size
    return Finding(
        claim="A pretrained model that loops under argmax repeats no more than people do, at 50, 200 and 1,000 "
        "tokens, after context negatives of bigrams on people's text; its text is judged no worse than with the "
        "weakest penalty at decoding that repeats as little, and it forgets nothing.",
        finding=" ".join(told),
        verdict=lab.verdict(holds),
        rows=[*rows, *perplexity_rows(kept)],
        figure=draw(rows, lab.budget.lengths, LESSON),
        text=tables(rows, (*MEASURES, "bits"))
        + f"\n\n{size.steps} steps of {size.batch} rows of {size.block} tokens. bits: per byte, under a judge of "
        f"another tokenizer. Intervals: 95 %, bootstrap over prompts, of `{LESSON}` over its {len(SEEDS)} training "
        "seeds too.",
    )
