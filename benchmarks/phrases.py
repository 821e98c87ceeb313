# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What an autoregressive model would write without its phrases: the bar of `phrase_penalty`, which teaches just that.

    python benchmarks/phrases.py TWIN JUDGE tinystories-valid.txt --new-tokens 50 200

Greedy text with the penalty on phrases at decoding (`modeling_tokmat.losses_tokmat.phrases`: nats off a token that
would complete a bigram of the text, twice as many for a trigram, four times from there on), beside transformers'
penalties of single tokens and its ban of repeated n-grams; and what the penalty costs a model that takes the nats off
in people's text as well: perplexity of their continuations, of every repetition, or where that changes the argmax and
only as far (half a nat below what is wanted). The last line on stdout is one JSON object.
"""

import argparse
import math
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from decode import command_line, machine_facts, machine_line, report, stdout_console
from rich.progress import track
from rich.table import Table
from transformers import LogitsProcessorList

from modeling_tokmat.losses_tokmat import phrases, without_phrases
from trainer.checkpoints import load_model, load_tokenizer
from trainer.data import load_documents
from trainer.evaluation.decoders import PhrasePenalty, continue_prompts
from trainer.evaluation.measures import interval, per_prompt
from trainer.evaluation.prompts import Prompts, held_out_prompts

MEASURES = ("rep_2", "rep_3", "loop")
NATS = (1.0, 1.5, 2.5, 5.0)
MARGIN = 0.5  # nats between what is wanted and what was likelier


def decoders() -> dict[str, dict]:
    found: dict[str, dict] = {"greedy": {}}
    found |= {f"repetition_penalty {value}": {"repetition_penalty": value} for value in (1.1, 1.2, 1.3)}
    found |= {f"no_repeat_ngram_size {size}": {"no_repeat_ngram_size": size} for size in (3, 4)}
    for nats in NATS:
        found[penalised(nats)] = {"logits_processor": LogitsProcessorList([PhrasePenalty(nats)])}
    return found


def penalised(nats: float) -> str:
    return f"phrases, {nats:g} nats"


@torch.no_grad()
def costs(model, prompts: Prompts) -> dict[str, dict[str, float]]:
    """Perplexity of people's continuations, by name of the decoder: with no penalty, and with both kinds of each."""
    ids, start = torch.cat([prompts.ids, prompts.human], dim=1), prompts.ids.shape[1]
    losses: dict[tuple[str, str], list[torch.Tensor]] = defaultdict(list)
    for row in ids.split(1):
        scores, targets = model(row).logits.float(), row[0, start:]
        told = {("greedy", "held_out"): scores}
        for nats in NATS:
            taken = without_phrases(scores, phrases(row, torch.zeros_like(row), nats))
            wanted, likeliest = taken.argmax(-1, keepdim=True), scores.argmax(-1, keepdim=True)
            level = scores.gather(-1, wanted)
            least = torch.minimum(scores, level - MARGIN).scatter(-1, wanted, level)
            told[penalised(nats), "held_out"] = taken
            told[penalised(nats), "held_out_least"] = torch.where(wanted == likeliest, scores, least)
        for name, values in told.items():
            losses[name].append(F.cross_entropy(values[0, start - 1 : -1], targets))
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for (name, kind), values in losses.items():
        found[name][kind] = math.exp(torch.stack(values).mean().item())
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an autoregressive model")
    parser.add_argument("judge", help="another one of the same tokenizer")
    parser.add_argument("data", help="held-out text")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--prompts", type=int, default=80)
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    args = parse_arguments()
    model, judge, tokenizer = load_model(args.model).eval(), load_model(args.judge).eval(), load_tokenizer(args.model)
    documents, longest = load_documents(args.data), max(args.new_tokens)
    prompts = held_out_prompts(documents, tokenizer, args.prompts, 16, longest)
    result = {"benchmark": "phrases", "command": command_line("phrases.py"), "machine": machine_facts()}
    result |= {"prompts": args.prompts, "rows": []}
    written = {"people": prompts.human}
    for name, settings in track(decoders().items(), description="writing"):
        output = continue_prompts(model, prompts.ids, longest, do_sample=False, **settings)
        written[name] = output.sequences[:, prompts.ids.shape[1] :]
    cost = costs(model, prompts)
    for name, ids in written.items():
        row = {"name": name, **cost.get(name, {})}
        for length in args.new_tokens:
            values = per_prompt([ids[:, :length]], prompts, judge)
            row[str(length)] = {measure: interval(values[measure]) for measure in MEASURES}
            row[str(length)]["judge_perplexity"] = tuple(map(math.exp, interval(values["judge_nll"])))
        result["rows"].append(row)

    lengths = [str(length) for length in args.new_tokens]
    kinds = {"held_out": "held-out ppl", "held_out_least": "least"}
    table = Table(
        "", *kinds.values(), *(f"{measure}, {length} tokens" for length in lengths for measure in (*MEASURES, "judge"))
    )
    for row in result["rows"]:
        cells = [row[length][name][0] for length in lengths for name in (*MEASURES, "judge_perplexity")]
        costly = [f"{row[kind]:.3f}" if kind in row else "" for kind in kinds]
        table.add_row(row["name"], *costly, *(f"{cell:.3f}" for cell in cells))
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    console.print(table)
    report(result, args.output)


if __name__ == "__main__":
    main()
