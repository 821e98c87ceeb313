# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Draw a liquid tail while it matures: one row per step, committed text in black, tail tokens coloured by maturity.

python examples/picture_tail.py checkpoints/tokmat-stories "Once upon a time" --tail-length 8 --steps 14
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Recorder:
    """Keeps, for every step, the ids committed so far and the nearest tokens of the tail (transformers' protocol)."""

    def __init__(self):
        self.committed, self.steps = None, []

    def put(self, value):
        self.committed = value[0] if self.committed is None else torch.cat([self.committed, value])

    def put_draft(self, value, maturity=None, **kwargs):
        self.steps.append((self.committed, value[0], maturity))

    def end(self):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--tail-length", type=int, default=8)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--output", default="tail.png")
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, trust_remote_code=True).eval()
    ids = tokenizer(arguments.prompt, return_tensors="pt").input_ids
    recorder = Recorder()
    model.generate(
        ids,
        max_new_tokens=arguments.steps + arguments.tail_length,
        tail_length=arguments.tail_length,
        commit="front",
        streamer=recorder,
        eos_token_id=None,
    )
    draw(recorder.steps[: arguments.steps], ids.shape[1], tokenizer, arguments)
    print(f"Wrote {arguments.output}.")


def draw(steps, prompt_length, tokenizer, arguments):
    size, colours = 9.0, matplotlib.colormaps["viridis_r"]
    figure, axes = plt.subplots(figsize=(14, 0.32 * len(steps) + 1.3))
    axes.set_axis_off()
    figure.canvas.draw()
    renderer, width = figure.canvas.get_renderer(), 0.0

    def write(x, y, text, **style):
        nonlocal width
        drawn = axes.annotate(text, (x, y), xycoords="figure pixels", fontsize=size, family="monospace", **style)
        box = drawn.get_window_extent(renderer)
        width = max(width, box.x1)
        return box.x1

    line, top = 0.32 * figure.dpi, figure.bbox.height - 0.75 * figure.dpi
    title = (
        f"{arguments.prompt!r}, K = {arguments.tail_length}. One step per row: plain is committed, coloured liquid."
    )
    write(0.2 * figure.dpi, figure.bbox.height - 0.4 * figure.dpi, title, weight="bold")
    for row, (committed, tail, maturity) in enumerate(steps):
        y = top - row * line
        x = write(0.2 * figure.dpi, y, f"{row + 1:3d}  ", color="grey")
        new = [tokenizer.decode(i) for i in committed[prompt_length:]]
        x = write(x, y, "".join(new).replace("\n", "⏎"), color="black")
        for token, alpha in zip(tail, maturity, strict=True):
            text = tokenizer.decode(token).replace("\n", "⏎")
            background = {"facecolor": colours(float(alpha)), "alpha": 0.35, "edgecolor": "none", "pad": 1.2}
            x = write(x + 3, y, text or "∅", color="black", bbox=background)
    bar = axes.inset_axes([0.72, -0.02, 0.26, 0.02])
    scale = matplotlib.cm.ScalarMappable(cmap=colours)
    figure.colorbar(scale, cax=bar, orientation="horizontal", alpha=0.35).set_label("maturity", fontsize=8)
    figure.savefig(arguments.output, dpi=figure.dpi, bbox_inches="tight", pad_inches=0.15)


if __name__ == "__main__":
    main()
