# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Writes docs/GALLERY.md: what the models in the box write after the first held-out prompts, unpicked.

    python benchmarks/gallery.py tinystories-valid.txt

Repeated phrases (three tokens that were there before) are bold.
"""

import argparse
import os
from pathlib import Path

import torch

from trainer.checkpoints import AR_STORIES, STORIES, load_model, load_tokenizer
from trainer.data import load_documents
from trainer.evaluation.decoders import continue_prompts
from trainer.evaluation.prompts import held_out_prompts
from trainer.evaluation.report import pieces

PROMPT_TOKENS, NEW_TOKENS, LONG = 16, 100, 500
PICTURE = (
    'tokmat picture animation stories "Once upon a time, there was a little girl named Lily who" --commit verified '
    "--output docs/gallery.gif"
)
FRONT = {"commit": "front"}
INTERVENTIONS = (
    ("as it is", FRONT),
    ("history_noise = 0.3", FRONT | {"history_noise": 0.3}),
    ("history_noise = 0.6", FRONT | {"history_noise": 0.6}),
    ("guidance_scale = 1.5", FRONT | {"guidance_scale": 1.5}),
    ("guidance_scale = 2", FRONT | {"guidance_scale": 2.0}),
)


def bold(tokenizer, ids: list[int]) -> str:
    text = ""
    for piece, repeated in pieces(tokenizer, ids):
        piece = " ".join(piece.split("\n"))
        core = piece.strip()
        text += piece.replace(core, f"**{core}**") if repeated and core else piece
    return text.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="held-out stories")
    parser.add_argument("--tokmat", default=STORIES, help="the TokMat model")
    parser.add_argument("--twin", default=AR_STORIES, help="the autoregressive model")
    parser.add_argument("--penalty", type=float, default=1.2, help="of the penalised row")
    parser.add_argument("--output", type=Path, default=Path("docs/GALLERY.md"))
    arguments = parser.parse_args()
    tokmat, twin = load_model(arguments.tokmat).eval(), load_model(arguments.twin).eval()
    tokenizer = load_tokenizer(arguments.tokmat)
    prompts = held_out_prompts(load_documents(arguments.data), tokenizer, 5, PROMPT_TOKENS, NEW_TOKENS)
    rows = (
        ("TokMat, argmax", tokmat, {}),
        ("twin, greedy", twin, {"do_sample": False}),
        (f"twin, greedy, penalty {arguments.penalty}", twin, {"repetition_penalty": arguments.penalty}),
        ("twin, nucleus 0.95", twin, {"do_sample": True, "top_p": 0.95, "top_k": 0}),
    )

    def write(model, ids, new_tokens, **settings) -> list[int]:
        torch.manual_seed(0)
        return continue_prompts(model, ids[None], new_tokens, **settings).sequences[0, len(ids) :].tolist()

    lines = [
        "# Gallery",
        "",
        "What the models in the box write, unpicked: the first five prompts that `tokmat evaluate` draws from",
        f"TinyStories' validation stories; {NEW_TOKENS} tokens, no end of text. Bold: three tokens that were",
        "there before.",
        "",
        "![A story maturing](gallery.gif)",
        "",
        f"<sub>From `{PICTURE}`.</sub>",
        "",
    ]
    for number, (ids, human) in enumerate(zip(prompts.ids, prompts.human), start=1):
        prompt = tokenizer.decode(ids, skip_special_tokens=True)
        lines += [f"## {number} · {' '.join(prompt.split())} ...", "", "| | |", "|---|---|"]
        texts = {"people": human.tolist()}
        texts |= {name: write(model, ids, NEW_TOKENS, **settings) for name, model, settings in rows}
        for name, written in texts.items():
            lines.append(f"| {name} | {bold(tokenizer, written)} |")
        lines.append("")

    lines += [f"## {LONG} tokens", "", "| | |", "|---|---|"]
    for name, model, settings in rows[:3]:
        lines.append(f"| {name} | {bold(tokenizer, write(model, prompts.ids[0], LONG, **settings))} |")
    lines += [
        "",
        "## Interventions",
        "",
        f"One token a step (`commit = front`), K = 8, after prompt 1, {NEW_TOKENS} tokens.",
        "",
    ]
    lines += ["| setting | text |", "|---|---|"]
    for name, settings in INTERVENTIONS:
        written = write(tokmat, prompts.ids[0], NEW_TOKENS, tail_length=8, **settings)
        lines.append(f"| {name} | {bold(tokenizer, written)} |")
    command = f"python benchmarks/gallery.py {Path(arguments.data).name}"
    lines += ["", f"<sub>From `{command}`; float32.</sub>", ""]
    temporary = arguments.output.with_suffix(".tmp")
    temporary.write_text("\n".join(lines), encoding="utf-8")
    os.replace(temporary, arguments.output)
    print(f"Wrote {arguments.output}.")


if __name__ == "__main__":
    main()
