# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The lesson that unlearns most (`peers`: sequence unlikelihood), by training seed, beside every way to decode.

Target, test set and judge are those of `pretrained`, fixed there before a model was judged. Of a second round on what
the first one's model writes nothing good came (docs/RESULTS.md).
"""

from ..evaluation.decoders import PhrasePenalty
from .lab import Finding, Lab
from .peers import SEARCH, SEQUENCE, merged, worn
from .pretrained import MEASURES, Bench
from .repetition import tables
from .target import draw, judged_at_every_length, perplexity_rows

SEEDS = (1, 2, 3)
SAMPLING = {
    "nucleus 0.95": {"top_p": 0.95, "top_k": 0},
    "min-p 0.1": {"min_p": 0.1, "top_k": 0},
    "typical 0.9": {"typical_p": 0.9, "top_k": 0},
}


def study(lab: Lab) -> Finding:
    bench = Bench(lab)
    rows = bench.at_every_length(lambda most: decoders(bench, most))
    return concluded(lab, bench, rows, perplexities(bench))


def named(seed: int) -> str:
    return SEQUENCE if seed == SEEDS[0] else f"{SEQUENCE}, seed {seed}"


def decoders(bench: Bench, most: bool):
    """(name, model or None for people, settings), one model at a time; the longest texts have fewer rivals."""
    greedy = {"do_sample": False}
    yield "human", None, {}
    for seed in SEEDS if most else SEEDS[:1]:
        yield named(seed), worn(bench, SEQUENCE, seed), greedy
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


def perplexities(bench: Bench) -> dict[str, float]:
    """Of held-out text, under the source and under what was taught."""
    found = {"source": bench.perplexity(merged(bench))}
    return found | {named(seed): bench.perplexity(worn(bench, SEQUENCE, seed)) for seed in SEEDS}


def concluded(lab: Lab, bench: Bench, rows: list[dict], kept: dict[str, float]) -> Finding:
    ours = named(SEEDS[0])
    told, holds = judged_at_every_length(rows, lab.budget.lengths, ours)
    holds.append(kept[ours] <= 1.05 * kept["source"])
    others = []
    for seed in SEEDS[1:]:
        found = [f"{row['rep_2']:.3f} at {row['new_tokens']}" for row in rows if row["decoder"] == named(seed)]
        others.append(f"seed {seed} {', '.join(found)} tokens")
    told.append(f"Rep-2 by other training seeds: {'; '.join(others)}.")
    times = [f"{kept[named(seed)] / kept['source']:.3f}" for seed in SEEDS]
    told.append(f"Perplexity of held-out text by training seed, times the source's: {', '.join(times)}.")
    size = bench.size
    return Finding(
        claim="A pretrained model that loops under argmax repeats no more than people do, at 50, 200 and 1,000 "
        "tokens, after sequence unlikelihood on its own loops; its text is judged no worse than with the weakest "
        "penalty at decoding that repeats as little, and it forgets nothing.",
        finding=" ".join(told),
        verdict=lab.verdict(holds),
        rows=[*rows, *perplexity_rows(kept)],
        figure=draw(rows, lab.budget.lengths, ours),
        text=tables(rows, (*MEASURES, "bits"))
        + f"\n\n{size.steps} steps of {size.batch} rows of {size.block} tokens, half of them people's text. bits: per "
        "byte, under a judge of another tokenizer. Intervals: 95 %, bootstrap over prompts.",
    )
