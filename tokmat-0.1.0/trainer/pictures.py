# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Pictures of a maturing tail, of what it knows, and of training. matplotlib is imported when one is drawn.

    save(heatmap(watch(model, tokenizer, "Once upon a time", 40)), Path("tail.png"))

Every function takes what was measured, and returns a matplotlib `Figure` that pyplot knows nothing of.
"""

import contextlib
import functools
import os
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .streamers import render_tail, wrap_rows
from .traces import Run

RC: dict[str, Any] = {"font.size": 10, "text.parse_math": False}  # tokens and names of folders may hold dollars
FORMATS, MOVING = (".png", ".svg", ".pdf"), (".gif",)
COLOURS = ("#e8590c", "#3b82d6", "#2f9e44", "#9c36b5", "#868e96", "#f08c00")
RAW, MATURE = "#f3f4f6", "#4cbb83"  # behind black text: of a vector far from every token, and of one that is a token
SHADES = 40  # with more, an SVG would hold its colour bar as a bitmap
OFF, NOTE = "#5b6470", "#8a9099"  # a token that is not the one committed there later; what explains a picture
SHOWN_SLOTS, TOKEN, CONTEXT = 12, 12, 30  # of a heat map: columns, characters of a token, of the text before the tail
# Of an animation: characters of a row, pixels of a character (of DejaVu Sans Mono), of a line and around all of it,
# frames of the whole text.
COLUMNS, ADVANCE, LINE, MARGIN, HOLD = 76, 8, 20, 14, 12


class NotInstalled(ValueError):
    """There is no matplotlib."""


def require_matplotlib(what: str) -> None:
    """Raises:
    NotInstalled: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise NotInstalled(f'{what} needs matplotlib: pip install "tokmat[eval]"') from error


def drawing(function):
    """A function that draws: it needs matplotlib, and text in it is text."""

    @functools.wraps(function)
    def drawn(*args, **kwargs):
        require_matplotlib("a picture")
        from matplotlib import rc_context

        with rc_context(RC):
            return function(*args, **kwargs)

    return drawn


def figure(width: float, height: float, rows: int = 1, across: int = 1, **kwargs):
    """(Figure, array of axes (rows, across)), in inches, without the frame's upper and right line."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    found = Figure((width, height), layout="constrained")
    axes = found.subplots(rows, across, squeeze=False, **kwargs)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color=rcParams["text.color"], alpha=0.12)
        one.set_axisbelow(True)
    return found, axes


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, of the same kind, that becomes `path` when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@drawing
def save(picture, path: Path) -> None:
    """Write a figure to a .png, .svg or .pdf file."""
    with replacing(path) as temporary:
        picture.savefig(temporary, dpi=110, bbox_inches="tight", pad_inches=0.12, facecolor="white")


# -- a text while it matures ------------------------------------------------------------------------------------------


def shown(text: str, characters: int, end: bool = False) -> str:
    """Text on one line, at most so many characters of its beginning, or whole words of its end."""
    text = "".join(one if one.isprintable() else "\N{RETURN SYMBOL}" if one == "\n" else " " for one in text)
    if len(text) <= characters:
        return text
    return "… " + text[2 - characters :].partition(" ")[2] if end else text[: characters - 1] + "…"


@drawing
def heatmap(run: Run, steps: int = 16):
    """The nearest token of every slot (columns) at the first `steps` steps (rows), coloured by its distance."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    rows = run.steps[:steps]
    slots = max(len(row["token_ids"]) for row in rows)
    width = min(slots, SHOWN_SLOTS)
    distance = np.full((len(rows), width), np.nan)
    words = {}
    for place, row in enumerate(rows):
        found = [value for value, later in zip(row["distance"], run.later(row)) if later is not None][:width]
        distance[place, : len(found)] = found
        for slot in range(len(found)):
            token = row["token_ids"][slot]
            word = shown(run.tokenizer.decode([token]).strip(" "), TOKEN) or "\N{OPEN BOX}"
            words[place, slot] = word, token == run.later(row)[slot]
    inches = 0.3 + 0.085 * max(map(len, (word for word, _ in words.values())))
    picture, axes = figure(3.6 + inches * width, 1.5 + 0.27 * len(rows))
    axis = axes[0, 0]
    axis.grid(False)
    axis.spines[:].set_visible(False)
    colours = LinearSegmentedColormap.from_list("maturity", [MATURE, RAW], N=SHADES)
    corners = (np.arange(width + 1) + 0.5, np.arange(len(rows) + 1) + 0.5)
    cells = axis.pcolormesh(*corners, distance, cmap=colours, vmin=0, vmax=max(1.0, np.nanmax(distance)),
                            edgecolor="white", linewidth=1.2)  # fmt: skip
    for (place, slot), (word, right) in words.items():
        colour, slant = ("black", "normal") if right else (OFF, "italic")
        axis.text(slot + 1, place + 1, word, ha="center", va="center", fontsize=9, color=colour, style=slant)
    for place, row in enumerate(rows, start=1):
        outline: dict[str, Any] = {"fill": False, "edgecolor": "#1b7f4d", "linewidth": 1.1}
        if row["committed"]:
            axis.add_patch(Rectangle((0.54, place - 0.44), min(row["committed"], width) - 0.08, 0.88, **outline))
    texts = [run.tokenizer.decode(run.committed(row), skip_special_tokens=True) for row in rows]
    numbers = [f"{step:2d}".replace(" ", "\N{FIGURE SPACE}") for step in range(1, len(rows) + 1)]
    axis.set_yticks(
        range(1, len(rows) + 1), [f"{shown(text, CONTEXT, True)}   {step}" for text, step in zip(texts, numbers)]
    )
    # Of what was drafted and is checked, maturity is not that of its slot.
    whole = max(rows, key=lambda row: len(row["token_ids"]))["maturity"]
    levels = [""] * width if run.commit == "verified" else [f"\n{level:.2f}" for level in whole]
    axis.set_xticks(range(1, width + 1), [f"{slot + 1}{levels[slot]}" for slot in range(width)])
    axis.tick_params(length=0, labelsize=9)
    axis.xaxis.tick_top()
    axis.invert_yaxis()
    more = f", the first {width} of {slots}" if slots > width else ""
    axis.set_xlabel(f"slot{more}{', and its maturity' if any(levels) else ''}", fontsize=9)
    axis.xaxis.set_label_position("top")
    note = (
        "One step per row: the text so far, then the nearest token of each slot, greener the nearer it is. Outlined: "
        "committed in this step. Grey: another token is committed there in the end."
    )
    axis.text(0, -0.02, textwrap.fill(note, int(13 * inches * width)), transform=axis.transAxes, va="top", fontsize=8,
              color=NOTE)  # fmt: skip
    bar = picture.colorbar(cells, ax=axis, fraction=0.03, pad=0.02)
    bar.set_label("distance to the nearest embedding, in R", fontsize=9)
    bar.outline.set_visible(False)
    return picture


@drawing
def animate(run: Run, path: Path, frames_per_second: int = 6) -> None:
    """Write a .gif, a frame per step: committed text in black, what is still liquid coloured by maturity."""
    from matplotlib.animation import PillowWriter
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    frames = [*map(run.frame, run.steps), *[render_tail(run.ids, [], [], run.tokenizer)] * HOLD]
    frames = [[(text.translate({0x0D: None, 0x09: " "}), level) for text, level in pieces] for pieces in frames]
    rows = max(len(wrap_rows("".join(text for text, _ in pieces), COLUMNS)) for pieces in frames)
    width, height, dpi = COLUMNS * ADVANCE + 2 * MARGIN, rows * LINE + 2 * MARGIN, 100
    picture, colours = (
        Figure((width / dpi, height / dpi)),
        LinearSegmentedColormap.from_list("maturity", [RAW, MATURE], N=SHADES),
    )
    size = ADVANCE / 0.602 * 72 / dpi  # points
    writer = PillowWriter(fps=frames_per_second)
    with replacing(path) as temporary:
        writer.setup(picture, str(temporary), dpi=dpi)
        for pieces in frames:
            picture.clear()
            text = "".join(text for text, _ in pieces)
            owners = [number for number, (piece, _) in enumerate(pieces) for _ in piece]
            for row, (start, end) in enumerate(wrap_rows(text, COLUMNS)):
                y = 1 - (MARGIN + (row + 0.7) * LINE) / height
                for number, group in groupby(range(start, end), key=owners.__getitem__):
                    places, level = [*group], pieces[number][1]
                    x = (MARGIN + (places[0] - start) * ADVANCE) / width
                    if level is not None:
                        corner, across = (x, y - 0.25 * LINE / height), len(places) * ADVANCE / width
                        picture.add_artist(Rectangle(corner, across, 0.9 * LINE / height, color=colours(level), lw=0))
                    picture.text(x, y, text[places[0] : places[-1] + 1], family="monospace", fontsize=size)
            writer.grab_frame()
        writer.finish()


# -- figures of many steps --------------------------------------------------------------------------------------------

LABELS = {
    "entropy_logit_scale": "at the model's logit scale",
    "entropy_temperature_1": "at temperature 1",
    "cosine_to_committed": "cosine to the committed embedding",
    "top_is_committed": "nearest token is the committed one",
    "displacement": "displacement in the update, in R",
    "distance": "distance to the nearest embedding, in R",
}


@drawing
def entropy(rows: list[dict]):
    """Entropy (left) and how a vector settles (right) against its age; `rows` as `by_slot` gives them."""
    picture, axes = figure(10, 3.6, across=2)
    ages = [row["age"] for row in rows]
    for name, label in LABELS.items():
        if name in rows[0]:
            axis = axes[0, 0 if name.startswith("entropy") else 1]
            colour = COLOURS[len(axis.lines)]
            axis.plot(ages, [row[name] for row in rows], marker="o", ms=4, label=label, color=colour)
    axes[0, 0].set(xlabel="updates since the embryo", ylabel="entropy, nats", ylim=(0, None))
    axes[0, 1].set(xlabel="updates since the embryo", ylabel="share, or length in R", ylim=(0, None))
    for axis in axes.flat:
        axis.legend(frameon=False, fontsize=9)
    return picture


@drawing
def guidance(shares: dict[str, list[tuple[float, float, float]]]):
    """What the tail knows: the share of steps in which a slot holds what is committed there later.

    Args:
        shares: for each setting (mean, low, high) by slot, from slot 2 on: slot 1 is what is committed.
    """
    picture, axes = figure(9.5, 3.6)
    axis = axes[0, 0]
    for place, (label, values) in enumerate(shares.items()):
        mean, low, high = (np.array(column) for column in zip(*values))
        slots = np.arange(2, len(values) + 2) + 0.08 * (place - (len(shares) - 1) / 2)
        error = (np.maximum(mean - low, 0), np.maximum(high - mean, 0))
        axis.errorbar(slots, mean, error, fmt="o-", ms=4.5, lw=1.2, capsize=2, label=label,
                      color=COLOURS[place % len(COLOURS)])  # fmt: skip
    axis.set(xlabel="slot", ylabel="share later committed there", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return picture


def drifts(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """(V,): 1 - cosine of each row of two tables of embeddings (V, d).

    Raises:
        ValueError: tables of different shapes.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"the embeddings have shapes {tuple(before.shape)} and {tuple(after.shape)}: drift is between a model and "
            "what it started from"
        )
    return (1 - torch.cosine_similarity(before.float(), after.float(), dim=-1)).detach().cpu().numpy()


@drawing
def drift(values: np.ndarray, names: Sequence[str], counts: np.ndarray | None = None):
    """How far the embeddings of tokens moved, `drifts`, and against `counts` in a text, or else the token's id."""
    picture, axes = figure(10, 3.6, across=2)
    axes[0, 0].hist(values, bins=60, color=COLOURS[1])
    axes[0, 0].set(xlabel="drift: 1 - cosine, before and after training", ylabel="tokens", yscale="log")
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    against, label = np.arange(len(values)), "token id"
    seen = against
    if counts is not None:
        against, label, seen = counts, "occurrences in the training text", np.flatnonzero(counts)
        axes[0, 1].set_xscale("log")
        axes[0, 1].xaxis.set_major_formatter("{x:g}")
    axes[0, 1].scatter(against[seen], values[seen], s=4, alpha=0.4, color=COLOURS[1])
    axes[0, 1].set(xlabel=label, ylabel="drift")
    order = seen[np.argsort(values[seen])[::-1]]
    named: list[int] = []
    for token in [*order[:8], order[-1]] if len(order) else []:  # names that would lie over others are left out
        if all(abs(values[token] - values[other]) > 0.04 * np.ptp(values) for other in named):
            named.append(token)
            axes[0, 1].annotate(shown(names[token], TOKEN), (against[token], values[token]), fontsize=7, xytext=(3, 2),
                                textcoords="offset points")  # fmt: skip
    return picture


# -- training ---------------------------------------------------------------------------------------------------------

CURVES = {
    "loss": {"loss": "training", "eval_loss": "held out", "contrastive_loss": "contrastive term",
             "regression_loss": "regression term"},
    "accuracy": {"accuracy": "next token, training", "eval_accuracy": "next token, held out",
                 **{f"slot_acc_{slot}": f"slot {slot}, training" for slot in range(2, 6)}},
    "held-out perplexity": {"eval_perplexity": "held out"},
}  # fmt: skip


def curves(history: list[dict]) -> dict[str, dict[str, tuple[list, list]]]:
    """What a run logged, (steps, values) by panel and label.

    Args:
        history: `log_history` of trainer_state.json.

    Raises:
        ValueError: no loss was logged.
    """
    found: dict[str, dict] = {}
    for panel, names in CURVES.items():
        for name, label in names.items():
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                found.setdefault(panel, {})[label] = tuple(map(list, zip(*points)))
    if "loss" not in found:
        raise ValueError("no loss was logged in this training, so there is no curve to draw")
    return found


@drawing
def losses(history: list[dict]):
    """The curves of a training run, from the `log_history` of its trainer_state.json."""
    panels = curves(history)
    picture, axes = figure(4.6 * len(panels), 3.4, across=len(panels))
    for axis, (panel, lines) in zip(axes.flat, panels.items()):
        for place, (label, (steps, values)) in enumerate(lines.items()):
            axis.plot(steps, values, marker="o", ms=3, lw=1.3, label=label, color=COLOURS[place % len(COLOURS)])
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(panel, fontsize=10)
        all_values = [value for _, values in lines.values() for value in values]
        if panel.endswith("perplexity") and max(all_values) > 10 * min(all_values):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:,.0f}")
        if len(lines) > 1:
            axis.legend(frameon=False, fontsize=8)
    return picture
