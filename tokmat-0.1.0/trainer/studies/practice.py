# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The phrases' lesson (`pretrained`) at length: many rounds, each on fresh text of the model of that moment.

Target, test set and judge are those of `pretrained`, fixed there before a model was judged. Three things differ from
its rounds. People's rows are taught by cross-entropy on the text, as in the recipe of the stories model: people do
repeat short phrases, and a model that follows its source without them on people's text forgets how. Rows grow to 1,024
tokens, since text of 256 tokens holds few of the loops of 1,000. And there are some hundred times as many tokens: made
for a GPU (minutes), the rounds take days on two cores.

What the rounds add is also taken more than once (extrapolation of weights, Ilharco et al. 2022, arXiv 2212.04089),
which costs no step. How often was chosen on beginnings of training text, before a text of the test set was written.
"""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..evaluation.prompts import passages
from ..models import bf16_supported
from ..own_text import load_own_text
from .lab import Finding, Lab
from .pretrained import MEASURES, PEOPLES, PROMPT_TOKENS, Bench, schedule
from .repetition import tables
from .target import draw, judged_at_every_length, perplexity_rows

PRACTISED = "phrases, practised"
STRENGTHS = (1.5, 2.0)  # of what the adapters add, beyond what they were trained at; the last one is judged
RATE, FALL = 8e-4, 1e-4  # of the first round, and by how much each round's is lower
SHARPNESS = 2.0  # `reference_sharpness`: argmax reads what is likeliest


@dataclass(frozen=True)
class Drill:
    """How much is practised."""

    blocks: tuple[int, ...]  # tokens of a row, round by round
    own: int  # tokens that the model writes for a round
    step: int  # tokens of a step
    passes: int  # over the rows of a round


DRILLS = {
    "small": Drill(blocks=(48, 64), own=256, step=128, passes=1),
    "full": Drill(blocks=(256,) * 3 + (1024,) * 2, own=2**18, step=2**13, passes=2),
}


class Practice(Bench):
    """What the rounds are, and what they teach."""

    def __init__(self, lab: Lab):
        super().__init__(lab)
        self.drill = DRILLS[lab.budget.name]

    def practised(self, number: int) -> Path:
        """The folder of the adapters after so many rounds, trained unless they are there."""
        folder = self.lab.path(f"practised-{number}")
        if (folder / "adapter_model.safetensors").is_file():
            return folder
        before = self.practised(number - 1) if number > 1 else None
        drill, block = self.drill, self.drill.blocks[number - 1]
        rows = self.rows_of(number, before)
        batch = max(drill.step // block, 1)
        steps = drill.passes * max(len(rows) // batch, 1)
        self.lab.say(f"round {number}: {steps} steps of {batch} rows of {block} tokens")
        rate = RATE - (number - 1) * FALL
        work = folder.with_name(f"{folder.name}.training")
        settings = schedule(work, steps, batch, rate, number, self.lab.device)
        settings["bf16"] = self.lab.device.type != "cpu" and bf16_supported()
        self.follow(folder, before, rows, SHARPNESS, settings)
        return folder

    def rows_of(self, number: int, before: Path | None) -> Dataset:
        """Rows of what the model writes after the round before, and of people's text."""
        block = self.drill.blocks[number - 1]
        count = max(self.drill.own // block, 1)
        path = self.lab.path(f"own-practised-{number - 1}.jsonl")
        self.lab.say(f"writing {count} texts of {block} tokens after {number - 1} rounds")
        at_once = 80 if self.lab.device.type == "cpu" else 1024
        self.write_endless(self.load(before), path, count, 500 + number, block, at_once)
        own = [row["prompt_ids"] + row["answer_ids"] for row in load_own_text(path)]
        peoples = round(count * PEOPLES / (1 - PEOPLES))
        people = passages(self.lab.documents[0]["text"], self.tokenizer, peoples, block, seed=600 + number).tolist()
        rows = [{"input_ids": ids, "tail_only": True} for ids in own]
        return Dataset.from_list(rows + [{"input_ids": ids, "tail_only": False} for ids in people])


def study(lab: Lab) -> Finding:
    bench = Practice(lab)
    adapters = [bench.practised(number + 1) for number in range(len(bench.drill.blocks))]
    rows = bench.at_every_length(lambda most: decoders(bench, adapters, most))
    plans = {"source": (None, 1.0), **candidates(adapters)}
    kept = {name: bench.perplexity(bench.load(*plan)) for name, plan in plans.items()}
    return concluded(lab, bench, rows, kept)


def strengthened(strength: float) -> str:
    return f"{PRACTISED}, adapters x {strength:g}"


def candidates(adapters: list[Path]) -> dict[str, tuple[Path, float]]:
    """Adapters and how often they are taken: after the last round, then after those before."""
    last = {strengthened(strength): (adapters[-1], strength) for strength in STRENGTHS}
    before = {f"{PRACTISED}, round {number}": (each, 1.0) for number, each in enumerate(adapters[:-1], start=1)}
    return {PRACTISED: (adapters[-1], 1.0), **last, **before}


def decoders(bench: Practice, adapters: list[Path], most: bool):
    """(name, model or None for people, settings), one model at a time; the longest texts have fewer rivals."""
    argmax, greedy = {"tail_length": 1, "alpha_max": 1.0}, {"do_sample": False}
    yield "human", None, {}
    for name, plan in candidates(adapters).items():
        if most or name in (PRACTISED, strengthened(STRENGTHS[-1])):
            yield name, bench.load(*plan), argmax
    source = bench.lab.load(Path(bench.source))
    yield "greedy", source, greedy
    for penalty in (1.05, 1.1, 1.2) if most else (1.2,):
        yield f"penalty {penalty}", source, greedy | {"repetition_penalty": penalty}


def concluded(lab: Lab, bench: Practice, rows: list[dict], kept: dict[str, float]) -> Finding:
    ours = strengthened(STRENGTHS[-1])
    told, holds = judged_at_every_length(rows, lab.budget.lengths, ours)
    holds.append(kept[ours] <= 1.05 * kept["source"])
    told.append(f"Perplexity of held-out text, times the source's: {kept[ours] / kept['source']:.3f}.")
    longest = lab.budget.lengths[-2]
    found = {row["decoder"]: row["rep_2"] for row in rows if row["new_tokens"] == longest}
    rounds = [*(name for name in kept if ", round " in name), PRACTISED]
    told.append(f"Rep-2 at {longest} tokens, round by round: {', '.join(f'{found[name]:.3f}' for name in rounds)}.")
    taken = [f"x {strength:g} {found[strengthened(strength)]:.3f}" for strength in STRENGTHS]
    told.append(f"The last round's adapters {', '.join(taken)}.")
    drill = bench.drill
    return Finding(
        claim="A pretrained model that loops under argmax repeats no more than people do, at 50, 200 and 1,000 "
        "tokens, after it has practised to follow its source without repeated phrases on long text of its own, "
        "in many rounds, and takes what it learnt there twice; its text is judged no worse than with the weakest "
        "penalty at decoding that repeats as little, and it forgets nothing.",
        finding=" ".join(told),
        verdict=lab.verdict(holds),
        rows=[*rows, *perplexity_rows(kept)],
        figure=draw(rows, lab.budget.lengths, ours),
        text=tables(rows, (*MEASURES, "bits"))
        + f"\n\n{len(drill.blocks)} rounds, rows of {', '.join(map(str, drill.blocks))} tokens; {drill.own:,} tokens "
        f"of own text a round, seen {drill.passes} times, and half as many of people's; {drill.step:,} tokens a step. "
        f"Prompts of {PROMPT_TOKENS} tokens. bits: per byte, under a judge of another tokenizer. Intervals: 95 %, "
        "bootstrap over prompts.",
    )
