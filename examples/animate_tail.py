# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Animate a liquid tail: a frame per step, committed text in black, what is still liquid coloured by maturity.

python examples/animate_tail.py stories "Once upon a time" --new-tokens 60 --output tail.gif
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.animation import FuncAnimation, PillowWriter
from picture_tail import Recorder

from trainer.checkpoints import load_model, load_tokenizer
from trainer.streamers import render_tail, wrap_rows

COLUMNS, SIZE = 76, 10.0  # characters of a row, points of a character
HOLD = 12  # frames for which the whole text stays


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, Hub name or short name")
    parser.add_argument("prompt")
    parser.add_argument("--tail-length", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--frames-per-second", type=int, default=6)
    parser.add_argument("--output", default="tail.gif")
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model).eval(), load_tokenizer(arguments.model)
    inputs, recorder = tokenizer(arguments.prompt, return_tensors="pt", return_token_type_ids=False), Recorder()
    model.generate(**inputs, max_new_tokens=arguments.new_tokens, tail_length=arguments.tail_length, streamer=recorder)
    frames = [render_tail(*step, tokenizer) for step in recorder.steps]
    whole = render_tail(recorder.committed, [], [], tokenizer)
    animate([*frames, *[whole] * HOLD], arguments)
    print(f"Wrote {arguments.output}: {len(frames)} steps.")


def animate(frames, arguments):
    """Args:
    frames: of each step the pieces of text with their maturity, as `render_tail` gives them.
    """
    rows = max(len(wrap_rows("".join(text for text, _ in pieces), COLUMNS)) for pieces in frames)
    advance, line = 0.602 * SIZE / 72, 1.5 * SIZE / 72  # of a character of DejaVu Sans Mono, in inches
    width, height = COLUMNS * advance + 0.4, rows * line + 0.4
    figure, colours = plt.figure(figsize=(width, height)), matplotlib.colormaps["viridis_r"]

    def draw(pieces):
        figure.clear()
        text = "".join(text for text, _ in pieces)
        levels = [level for piece, level in pieces for _ in piece]
        for row, (start, end) in enumerate(wrap_rows(text, COLUMNS)):
            y = 1 - (0.2 + (row + 0.7) * line) / height
            for place in range(start, end):
                level = levels[place]
                style = {}
                if level is not None:
                    shade = colours(0.25 + 0.75 * level)
                    style = {"bbox": {"facecolor": shade, "alpha": 0.35, "edgecolor": "none", "pad": 0.6}}
                x = (0.2 + (place - start) * advance) / width
                figure.text(x, y, text[place], family="monospace", fontsize=SIZE, **style)
        return []

    animation = FuncAnimation(figure, draw, frames=frames, init_func=lambda: [])
    animation.save(arguments.output, writer=PillowWriter(fps=arguments.frames_per_second))


if __name__ == "__main__":
    main()
