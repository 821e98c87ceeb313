# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What drafts cost: a step of `commit="verified"`, in steps of K = 1, by what it feeds.

    python benchmarks/draft_costs.py smol --dtype fp32

Some beginnings are continued by K = 1, by the tail, by prompt lookup and by both, in turn, batch 1; every step but the
first is timed. Its time is then explained, by least squares, as that of K = 1 and

    drafting    of a step with drafts or slots at all
    slots       of one with slots, where adapters act
    position    of each position that a draft or a slot takes

which are what `DraftBudget` weighs, shown beside it. Here the tail drafts even where those prices forbid it. The last
line on stdout is one JSON object.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch
import transformers
from decode import (
    DTYPES,
    command_line,
    machine_facts,
    machine_line,
    progress_bar,
    report,
    restart_tuned,
    stdout_console,
)
from rich.table import Table
from spec_bench import LOOKED_UP
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_tokmat.draft_budget_tokmat import DraftBudget
from trainer.models import machine_device

BEGINNINGS = (
    "Dear Anna, our journey to the sea began",
    "The history of the railway begins",
    "def shortest_path(graph, source, target):\n",
    "Once upon a time there was a little fox",
    "A bicycle stays upright because",
    "Five facts about the moon:\n1.",
)
PARTS = ("drafting", "slots", "position")
SLOW = 6.0  # steps of K = 1; what takes longer was held up by something else
WIDTHS = (1, 2, 4, 8, 16, 32)  # positions of a group, each up to the next


class Steps:
    """Seconds of every step and what it fed: (seconds, positions, whether slots), as the budget is told of it."""

    def __init__(self):
        self.found, self.before = [], None
        learn = DraftBudget.learn

        def timed(budget, trees, walks):
            now, slots = time.perf_counter(), sum(trees[0].slots)
            if self.before is not None:
                self.found.append((now - self.before, len(trees[0]) + slots, slots > 0))
            self.before = now
            return learn(budget, trees, walks)

        DraftBudget.learn = timed

    def of(self, model, ids: torch.Tensor, **settings) -> list[tuple]:
        self.found, self.before = [], None
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, commit="verified", **settings)
        return self.found


def explained(steps: list[tuple], base: float) -> dict[str, float]:
    """Each part's cost in steps of K = 1, by least squares over all steps that drafted."""
    usual = [step for step in steps if step[1] and step[0] < SLOW * base]
    parts = torch.tensor([[1.0, float(slots), float(positions)] for _, positions, slots in usual])
    beyond = torch.tensor([seconds / base - 1 for seconds, _, _ in usual])
    return dict(zip(PARTS, torch.linalg.lstsq(parts, beyond).solution.tolist()))


def by_width(steps: list[tuple], base: float) -> list[dict]:
    groups = defaultdict(list)
    for seconds, positions, slots in steps:
        if positions:
            groups[slots, max(width for width in WIDTHS if width <= positions)].append(seconds / base)
    return [
        {"slots": slots, "positions": positions, "steps": len(found), "median": median(found)}
        for (slots, positions), found in sorted(groups.items())
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a TokMat model with a tail: folder or Hub name")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument(
        "--new-tokens", type=int, default=128, help="of each beginning and way of decoding, at least 2"
    )
    parser.add_argument("--threads", type=int, help="torch's intra-op threads")
    parser.add_argument("--keep-environment", action="store_true", help="do not restart with allocator variables set")
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args()
    if args.new_tokens < 2:
        parser.error(f"--new-tokens: {args.new_tokens}; at least 2, since the first step is the prompt's")
    return args


def main() -> None:
    args = parse_arguments()
    restart_tuned(args.keep_environment)
    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=True, dtype=DTYPES[args.dtype]).eval()
    model.to(machine_device())
    one, wide = {"tail_length": 1}, torch.finfo(model.dtype).bits > 16
    ways = [one, {}, one | {"prompt_lookup_num_tokens": LOOKED_UP}, {"prompt_lookup_num_tokens": LOOKED_UP}]
    large = model.num_parameters() >= DraftBudget.LARGE
    priced = DraftBudget(1, 1, wide, True, model.tail_adapters is not None, model.device.type != "cpu", large)
    DraftBudget.LARGE = float("inf")  # so that the tail drafts
    steps, alone, drafted = Steps(), [], []
    with progress_bar() as progress:
        task = progress.add_task("", total=len(BEGINNINGS) * len(ways))
        for beginning in BEGINNINGS:
            ids = tokenizer(beginning, return_tensors="pt").input_ids.to(model.device)
            for way in ways:
                progress.update(task, advance=1, description=beginning.splitlines()[0])
                found = steps.of(model, ids, max_new_tokens=args.new_tokens, eos_token_id=None, **way)
                (alone if way is one else drafted).extend(found)
    base = median(seconds for seconds, _, _ in alone)
    result = {"benchmark": "draft_costs", "command": command_line(__file__), "machine": machine_facts()}
    result |= {"dtype": args.dtype, "milliseconds": 1000 * base, "costs": explained(drafted, base)}
    result["prices"] = dict(zip(PARTS, (priced.draft_cost, priced.slots_cost, priced.position_cost)))
    result["widths"] = by_width(drafted, base)
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    title = f"A step of K = 1 takes {1000 * base:.1f} ms; in such steps"
    table = Table("", *PARTS, title=title)
    for name in ("costs", "prices"):
        table.add_row(name, *(f"{result[name][part]:.3f}" for part in PARTS))
    console.print(table)
    table = Table("positions", "slots among them", "steps", "median", title="Steps that drafted")
    for row in result["widths"]:
        table.add_row(f"{row['positions']} and more", str(row["slots"]), str(row["steps"]), f"{row['median']:.2f}")
    console.print(table)
    report(result, args.output)


if __name__ == "__main__":
    main()
