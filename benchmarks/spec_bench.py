# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Lossless decoding of a pretrained model: its own greedy `generate`, transformers' prompt lookup, and its tail.

    python benchmarks/spec_bench.py --source SOURCE --model ATTACHED --spec-bench question.jsonl --dtype bf16
    python benchmarks/spec_bench.py --source SOURCE --model ATTACHED --data stories.txt wiki.txt --dtype fp32

Prompts are first turns of Spec-Bench (Xia et al. 2024, arXiv 2401.07851) through the source's chat template, and
beginnings of texts; batch 1, greedy. All decoders take turns on every prompt, and whether each wrote what `greedy`
wrote is checked token for token. `tokens/forward` is new tokens over forward passes, the one over the prompt included;
`accepted` the leaderboard's mean accepted tokens (new tokens over passes behind it); `speed` the median over prompts
of the decoder's tokens per second over greedy's: in half precision a text may end sooner. Answers that loop (Rep-3
over 0.3) are reported apart, since there a lookup wins for the wrong reason. The last line on stdout is one JSON
object.
"""

import argparse
import copy
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
import transformers
from decode import (
    DTYPES,
    allocator_set,
    command_line,
    machine_facts,
    machine_line,
    progress_bar,
    report,
    restart_tuned,
    stdout_console,
)
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_tokmat.draft_budget_tokmat import DraftBudget
from trainer.data import load_documents
from trainer.evaluation.metrics import rep_n
from trainer.models import machine_device
from trainer.own_text import LOOP, chat_ids

MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
PROMPT_TOKENS = 48  # of a text that is continued
COMPILED, COMPILED_TAIL = "greedy, compiled", "tail, compiled"
LOOKED_UP = 10  # tokens that a repeated n-gram proposes


def spec_bench_prompts(path: Path, per_category: int, tokenizer) -> list[tuple[str, torch.Tensor]]:
    """(category, ids) of the first questions of each category, as many of MT-bench's eight kinds together."""
    found, taken = [], defaultdict(int)
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        kind = "mt_bench" if question["category"] in MT_BENCH else question["category"]
        most = 2 if kind == "mt_bench" else per_category
        if taken[question["category"]] < most and taken[kind, "all"] < per_category:
            taken[question["category"]] += 1
            taken[kind, "all"] += 1
            chat = [{"role": "user", "content": question["turns"][0]}]
            found.append((kind, torch.tensor([chat_ids(tokenizer, chat)])))
    return found


def text_prompts(path: str, count: int, tokenizer) -> list[tuple[str, torch.Tensor]]:
    """(name of the file, ids) of beginnings of documents, spread over the file."""
    rows = [text for text in load_documents(path)["text"] if len(text) > 8 * PROMPT_TOKENS]
    step = max(len(rows) // count, 1)
    ids = [tokenizer(text[: 16 * PROMPT_TOKENS], return_tensors="pt").input_ids for text in rows[::step]]
    return [(Path(path).stem, row[:, :PROMPT_TOKENS]) for row in ids[:count] if row.shape[1] >= PROMPT_TOKENS]


class Passes:
    """Counts the forward passes of a model that does not tell them."""

    def __init__(self, model):
        self.count = 0
        model.register_forward_pre_hook(self._one)

    def _one(self, module, args) -> None:
        self.count += 1


def decoders_of(source, tokmat, names: list[str]) -> dict:
    """{name: (model, settings)}."""
    tail = {"commit": "verified", "prompt_lookup_num_tokens": None}
    known = {
        "greedy": (source, {}),
        # transformers compiles it on a GPU: a copy, because the hook that counts passes would break the graph.
        COMPILED: (copy.deepcopy(source) if COMPILED in names else source, {"cache_implementation": "static"}),
        "prompt lookup": (source, {"prompt_lookup_num_tokens": LOOKED_UP}),
        "K = 1": (tokmat, {"tail_length": 1, "alpha_max": 1.0, "commit": "front"}),
        "tail": (tokmat, tail),
        COMPILED_TAIL: (tokmat, tail | {"cache_implementation": "static"}),
        "tail + lookup": (tokmat, tail | {"prompt_lookup_num_tokens": LOOKED_UP}),
    }
    return {name: known[name] for name in ("greedy", *names)}


def measure(decoders: dict, prompts: list, args, advance, say) -> list[dict]:
    """One row per prompt and decoder; `say` is given a line per prompt, all that is left of a run that is killed."""
    counter = Passes(decoders["greedy"][0])
    rows = []
    for number, (kind, ids) in enumerate(prompts):
        ids, expected, took = ids.to(machine_device()), None, {}
        for repetition in range(args.repeats):
            for name, (model, settings) in decoders.items():
                before, start = counter.count, time.perf_counter()
                run = {"max_new_tokens": args.new_tokens, "do_sample": False, "return_dict_in_generate": True}
                output = model.generate(ids, attention_mask=torch.ones_like(ids), **run, **settings)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                took.setdefault(name, []).append(time.perf_counter() - start)
                new = output.sequences[0, ids.shape[1] :].tolist()
                expected = new if expected is None else expected
                if repetition == 0:
                    row = {"prompt": number, "kind": kind, "decoder": name, "tokens": len(new)}
                    told = output.get("num_forwards") or counter.count - before
                    row |= {"passes": told or len(new), "same_text": new == expected}
                    row |= {"loops": rep_n([expected], 3) > LOOP, "drafts_taken": output.get("drafts_taken")}
                    rows.append(row)
                advance(kind)
        ours = rows[-len(decoders) :]
        for row in ours:
            row["seconds"] = statistics.median(took[row["decoder"]])
        say(f"{kind} {number}: " + ", ".join(f"{row['decoder']} {row['seconds']:.1f} s" for row in ours))
    return rows


def summary(rows: list[dict]) -> dict:
    greedy = {row["prompt"]: row["tokens"] / row["seconds"] for row in rows if row["decoder"] == "greedy"}
    by_decoder = defaultdict(list)
    for row in rows:
        by_decoder[row["decoder"]].append(row)
    found = {}
    for name, mine in by_decoder.items():
        tokens, passes = sum(row["tokens"] for row in mine), sum(row["passes"] for row in mine)
        found[name] = {
            "prompts": len(mine),
            "tokens_per_forward": tokens / passes,
            "accepted": (tokens - len(mine)) / max(passes - len(mine), 1),
            "speed": statistics.median(row["tokens"] / row["seconds"] / greedy[row["prompt"]] for row in mine),
            "same_text": sum(row["same_text"] for row in mine),
        }
        taken = [row["drafts_taken"] for row in mine if row["drafts_taken"]]
        if taken:
            both = {arm: sum(one[arm] for one in taken) for arm in taken[0]}
            found[name]["drafts_taken"] = {arm: count / max(sum(both.values()), 1) for arm, count in both.items()}
    return found


def show(result: dict) -> None:
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    names = (
        "prompts",
        "decoder",
        "number",
        "tokens/forward",
        "accepted",
        "x greedy",
        "same text",
        "drafts: tail, lookup",
    )
    table = Table(*names, title=f"Lossless decoding, {result['dtype']}, at most {result['new_tokens']} new tokens")
    for kind, decoders in result["groups"].items():
        for number, (name, row) in enumerate(decoders.items()):
            shares = row.get("drafts_taken")
            table.add_row(
                kind if number == 0 else "",
                name,
                str(row["prompts"]),
                f"{row['tokens_per_forward']:.2f}",
                f"{row['accepted']:.2f}",
                f"{row['speed']:.2f}",
                f"{row['same_text']} of {row['prompts']}",
                "" if shares is None else f"{shares['tail']:.0%}, {shares['lookup']:.0%}",
                end_section=number == len(decoders) - 1,
            )
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="the autoregressive model: folder or Hub name")
    parser.add_argument("--model", required=True, help="the TokMat model made of it, with its tail")
    parser.add_argument("--spec-bench", type=Path, help="Spec-Bench's question.jsonl")
    parser.add_argument("--data", nargs="*", default=[], help="texts whose beginnings are continued")
    parser.add_argument("--per-category", type=int, default=10, help="prompts of each category and text")
    parser.add_argument("--decoders", nargs="*", default=["prompt lookup", "K = 1", "tail", "tail + lookup"])
    parser.add_argument("--draft-always", action="store_true", help="draft whatever it costs: most tokens per forward")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--repeats", type=int, default=1, help="of every call; seconds are medians")
    parser.add_argument("--threads", type=int, help="torch's intra-op threads")
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    parser.add_argument("--keep-environment", action="store_true", help="do not restart with glibc's allocator tuned")
    args = parser.parse_args()
    if not args.spec_bench and not args.data:
        parser.error("give --spec-bench or --data")
    return args


def main() -> None:
    args = parse_arguments()
    restart_tuned(args.keep_environment)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.draft_always:
        for name in list(vars(DraftBudget)):
            if name.endswith("_COST"):
                setattr(DraftBudget, name, 0.0)
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(args.source)
    given = {"dtype": DTYPES[args.dtype], "attn_implementation": args.attention}
    source = AutoModelForCausalLM.from_pretrained(args.source, **given).eval().to(machine_device())
    tokmat = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=True, **given).eval()
    tokmat.to(machine_device())
    prompts = spec_bench_prompts(args.spec_bench, args.per_category, tokenizer) if args.spec_bench else []
    for path in args.data:
        prompts += text_prompts(path, args.per_category, tokenizer)
    decoders = decoders_of(source, tokmat, args.decoders)
    longest = max((ids for _, ids in prompts), key=lambda ids: ids.shape[1])
    for model, settings in decoders.values():  # kernels are warm, and static caches as long as they will be
        model.generate(longest.to(model.device), max_new_tokens=args.new_tokens, do_sample=False, **settings)
    with progress_bar() as progress:
        task = progress.add_task("", total=len(prompts) * len(decoders) * args.repeats)

        def advance(text: str) -> None:
            progress.update(task, advance=1, description=text)

        rows = measure(decoders, prompts, args, advance, progress.console.print)
    groups = {
        kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(kind for kind, _ in prompts)
    }
    groups["all"] = rows
    groups["all that do not loop"] = [row for row in rows if not row["loops"]]
    groups["all that loop"] = [row for row in rows if row["loops"]]
    result = {"benchmark": "spec_bench", "command": command_line("spec_bench.py")}
    result |= {"machine": {**machine_facts(), "allocator_variables": allocator_set()}, "dtype": args.dtype}
    result |= {"new_tokens": args.new_tokens, "attention": args.attention, "repeats": args.repeats}
    result["groups"] = {kind: summary(found) for kind, found in groups.items() if found}
    show(result)
    report(result, args.output)


if __name__ == "__main__":
    main()
