# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a tail beside a frozen source foresees, by what its slots hold and how its drafts are read off.

    python benchmarks/tail_accuracy.py TAIL own.jsonl --answers 100

For held-out answers of `tokmat own-text` (the last ones of the file), in one table: the share of slots 2, 3, ...
whose likeliest token is the one committed there later. Slots hold fresh embryos, what one or more decoding steps leave
there ("carried"), or a mixture with the true future, which decoding never has. "raw" reads z^ itself, "successor" goes
through the successor head, with the true token before. Tokens per forward: 1 + the mean length of the run of right
drafts over all places, had every step as many drafts as there are slots. The last line on stdout is one JSON object.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from decode import DTYPES, command_line, machine_facts, machine_line, report, stdout_console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM

from modeling_tokmat.training_tokmat import loss_weights, simulate_tails
from trainer.own_text import load_own_text

STATES = {
    "fresh embryos": {"maturation": "rollout", "rollout_passes": 0},
    "carried, 1 step": {"maturation": "rollout", "rollout_passes": 1},
    "carried, 2 steps": {"maturation": "rollout", "rollout_passes": 2},
    "true future": {"maturation": "simulated"},
}


@torch.no_grad()
def right_slots(model, answers, state: dict) -> dict[str, torch.Tensor]:
    """Per way of reading, which slots were right, (tails, slots), 0 or 1; only tails all of whose slots are asked."""
    config, vocabulary = model.config, model.vocabulary()
    found = {"raw": []} | ({} if model.successor is None else {"successor": []})
    for name, value in state.items():
        setattr(config, name, value)
    for number, answer in enumerate(answers):
        ids = torch.tensor([answer["prompt_ids"] + answer["answer_ids"]])
        labels = ids.clone()
        labels[:, : len(answer["prompt_ids"])] = -100
        tails, weights = simulate_tails(config, torch.tensor([number]), labels)
        none = torch.empty(0, dtype=torch.long)
        predicted = model(ids, labels=labels, tails=tails, logits_to_keep=none).predicted_embeds
        targets = tails.at_place(F.pad(labels[:, 1:], (0, 1)).clamp(min=0))
        previous = tails.at_place(model.embed_tokens(ids))
        shape = config.parallel_tails, -1
        whole = (loss_weights(labels, tails.documents, tails, config=model.config)[0] > 0).view(shape).all(dim=1)
        ways = {"raw": predicted}
        if model.successor is not None:
            ways["successor"] = model.successor(predicted, previous, vocabulary.radius)
        for name, vectors in ways.items():
            found[name].append((vocabulary.nearest(vectors) == targets)[0].view(shape)[whole])
    return {name: torch.cat(parts).float() for name, parts in found.items()}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a TokMat model with a tail beside its source")
    parser.add_argument("data", type=Path, help="a file of tokmat own-text")
    parser.add_argument("--answers", type=int, default=100, help="how many of its last answers")
    parser.add_argument("--loop-share", type=float, default=1.0, help="most of them that may loop")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rows = load_own_text(args.data, 1.0)
    rows = rows if args.loop_share == 1 else rows.filter(lambda row: not row["loops"])
    answers = [row for row in rows if len(row["answer_ids"]) > 8][-args.answers :]
    model = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=True, dtype=DTYPES[args.dtype]).eval()
    model.config.rollout_jump = 0
    result = {"benchmark": "tail_accuracy", "command": command_line("tail_accuracy.py"), "machine": machine_facts()}
    result |= {"answers": len(answers), "rows": []}
    for name, state in track(STATES.items(), description="reading"):
        for way, right in right_slots(model, answers, state).items():
            chain = right.cumprod(dim=1).sum(dim=1).mean().item()
            row = {"slots": name, "read": way, "accuracy": right.mean(dim=0).tolist()}
            result["rows"].append(row | {"tokens_per_forward": 1 + chain, "places": len(right)})
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    count = len(result["rows"][0]["accuracy"])
    table = Table("slots hold", "read", *(f"slot {k}" for k in range(2, count + 2)), "tokens per forward")
    for row in result["rows"]:
        table.add_row(
            row["slots"], row["read"], *(f"{a:.3f}" for a in row["accuracy"]), f"{row['tokens_per_forward']:.2f}"
        )
    console.print(table)
    report(result, args.output)


if __name__ == "__main__":
    main()
