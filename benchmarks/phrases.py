# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What an autoregressive model would write without its phrases: the bar of `phrase_penalty`, which teaches just that.

    python benchmarks/phrases.py TWIN JUDGE tinystories-valid.txt --new-tokens 50 200

Greedy text with the penalty on phrases at decoding (`modeling_tokmat.losses_tokmat.phrases`: nats off a token that
would complete a bigram of the text, twice as many for a trigram, four times from there on), beside transformers'
penalties of single tokens and its ban of repeated n-grams. The last line on stdout is one JSON object.
"""

import argparse
import math
from pathlib import Path

import torch
from decode import command_line, machine_facts, machine_line, report, stdout_console
from rich.progress import track
from rich.table import Table
from transformers import LogitsProcessorList

from trainer.checkpoints import load_model, load_tokenizer
from trainer.data import load_documents
from trainer.evaluation.decoders import PhrasePenalty, continue_prompts
from trainer.evaluation.measures import interval, per_prompt
from trainer.evaluation.prompts import held_out_prompts

MEASURES = ("rep_2", "rep_3", "loop")


def decoders() -> dict[str, dict]:
    found: dict[str, dict] = {"greedy": {}}
    found |= {f"repetition_penalty {value}": {"repetition_penalty": value} for value in (1.1, 1.2, 1.3)}
    found |= {f"no_repeat_ngram_size {size}": {"no_repeat_ngram_size": size} for size in (3, 4)}
    for nats in (1.0, 1.5, 2.5, 5.0):
        found[f"phrases, {nats:g} nats"] = {"logits_processor": LogitsProcessorList([PhrasePenalty(nats)])}
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
    for name, ids in written.items():
        row = {"name": name}
        for length in args.new_tokens:
            values = per_prompt([ids[:, :length]], prompts, judge)
            row[str(length)] = {measure: interval(values[measure]) for measure in MEASURES}
            row[str(length)]["judge_perplexity"] = tuple(map(math.exp, interval(values["judge_nll"])))
        result["rows"].append(row)

    lengths = [str(length) for length in args.new_tokens]
    table = Table("", *(f"{measure}, {length} tokens" for length in lengths for measure in (*MEASURES, "judge")))
    for row in result["rows"]:
        cells = [row[length][name][0] for length in lengths for name in (*MEASURES, "judge_perplexity")]
        table.add_row(row["name"], *(f"{cell:.3f}" for cell in cells))
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    console.print(table)
    report(result, args.output)


if __name__ == "__main__":
    main()
