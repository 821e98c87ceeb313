# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `tokmat evaluate` found as one HTML file that needs no other: tables, pictures as inline SVG, samples."""

import io
import re
from html import escape
from typing import Any

from ..pictures import RC, figure, guidance, heatmap
from ..traces import Run
from .table import COLUMNS, cell, columns

SAMPLES = 12
PICTURES = (
    "In the pictures bars are the intervals of the table and dotted lines human text; orange is TokMat, blue the "
    "baseline without chance, green the baseline with sampling."
)
INK = "#123456"  # drawn in this colour, and replaced by the page's own: black on white or white on black
WIDTH = 9.5  # of a picture, in inches
JUDGED = {"judge_perplexity": "perplexity under the judge", "judge_bits": "bits per byte under the judge"}
DRAWING: dict[Any, Any] = {
    **RC,
    "svg.hashsalt": "tokmat",  # the same ids in every run
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
STYLE = """
:root { color-scheme: light dark; --ink: #1b1d21; --paper: #fff; --faint: #6b7280; --line: #d9dce1; --mark: #ffe08a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #16181c; --faint: #9aa1ab; --line: #363a41; --mark: #6b5200; }
}
body { margin: 2rem auto; padding: 0 1rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; } svg { display: block; max-width: 100%; min-width: 40rem; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; } th { font-weight: 600; }
small, .note { color: var(--faint); font-size: .85rem; } td small { display: block; white-space: nowrap; }
.samples { width: 100%; } .samples td:last-child { text-align: left; width: 100%; overflow-wrap: anywhere; }
.text { white-space: pre-line; } .settings td { text-align: left; } mark { background: var(--mark); color: inherit; }
"""


def page(result: dict, samples: list[dict], watched: dict[str, Run] | None = None) -> str:
    """The whole page.

    Args:
        result: of `tokmat evaluate`, intervals as tuples.
        samples: per prompt {"prompt": text, name of a decoder: `pieces` of what it wrote, ...}.
        watched: by row of the table, how its text after the first prompt matured.
    """
    from matplotlib import rc_context

    title = escape(f"{', '.join(result['models'])}: evaluation")
    with rc_context(DRAWING):
        pictures = {"Repetition against the judge's opinion": _against_judge(result["decoders"])}
        pictures["Every measure"] = _measures(result)
        for name, found in _look_ahead(result).items():
            pictures[f"What the tail knows{name}: share of later commits foreseen by slot k"] = _tail(found)
        for name, run in (watched or {}).items():
            pictures[f"How the text after the first prompt matured, {name}"] = _svg(heatmap(run))
    parts = [f"<h1>{title}</h1>", _settings(result), _results(result), f'<p class="note">{PICTURES}</p>']
    for number, (heading, drawn) in enumerate(pictures.items()):
        if drawn:
            parts.append(f'<h2>{escape(heading)}</h2><div class="wide">{_relabelled(drawn, number)}</div>')
    parts += [_look_ahead_table(result), _samples(samples[:SAMPLES])]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body>\n</html>"
    )


# -- tables and text --------------------------------------------------------------------------------------------------


def _table(head: list[str], rows: list[list[str]], kind: str = "") -> str:
    """Cells are HTML already."""
    lines = [["th", *head]] * bool(head) + [["td", *row] for row in rows]
    body = "".join("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in row) + "</tr>" for tag, *row in lines)
    return f'<div class="wide"><table class="{kind}">{body}</table></div>'


def _number(row: dict, name: str) -> str:
    mean, _, rest = cell(row, name).partition(" ")
    return f"{escape(mean)}<small>{escape(rest)}</small>" if rest else escape(mean)


def _settings(result: dict) -> str:
    shown = {"model": ", ".join(result["models"]), "data": ", ".join(result["data"])}
    shown |= {"baseline": ", ".join(result["baselines"]) or "none", "judge": result["judge"] or "none"}
    shown |= {"prompts": f"{result['prompts']} of {result['prompt_tokens']} tokens"}
    shown |= {"continuations": f"{result['new_tokens']} tokens", "seeds": str(result["seeds"])}
    shown |= {name: str(value) for name, value in result["settings"].items()}
    return _table([], [[escape(name), escape(value)] for name, value in shown.items()], "settings")


def _results(result: dict) -> str:
    names = columns(result)
    rows = [[escape(row["name"]), *(_number(row, name) for name in names)] for row in result["decoders"]]
    notes = "".join(f'<p class="note">{escape(line)}</p>' for line in result["conventions"])
    return "<h2>Results</h2>" + _table(["", *names.values()], rows) + notes


def _look_ahead(result: dict) -> dict[str, dict]:
    """What was found per model, by what to call it in a heading."""
    found = {row["name"]: row["look_ahead"] for row in result["decoders"] if "look_ahead" in row}
    return {"": next(iter(found.values()))} if len(found) == 1 else {f", {name}": one for name, one in found.items()}


def _look_ahead_table(result: dict) -> str:
    tables = ""
    for name, found in _look_ahead(result).items():
        rows = [[escape(key), _number(found, key)] for key in found if key.startswith("verified")]
        tables += f"<h2>Verified commits{escape(name)}</h2>" + _table([], rows)
    return tables


def _samples(samples: list[dict]) -> str:
    note = "Seed 0. <mark>Marked</mark>: a trigram of tokens for the second time or more."
    parts = [f'<h2>Samples</h2><p class="note">{note}</p>']
    for sample in samples:
        rows = []
        for name, text in sample.items():
            if name != "prompt":
                html = "".join(f"<mark>{escape(part)}</mark>" if again else escape(part) for part, again in text)
                rows.append([escape(name), f'<span class="text">{html}</span>'])
        parts.append(f'<h3 class="text">{escape(sample["prompt"])} …</h3>' + _table([], rows, "samples"))
    return "\n".join(parts)


# -- pictures ---------------------------------------------------------------------------------------------------------


def _colour(name: str) -> str:
    if name == "human":
        return INK
    return "#e8590c" if name.startswith("tokmat") else "#2f9e44" if "nucleus" in name or "top-k" in name else "#3b82d6"


def _svg(drawn) -> str:
    text, left_out = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawn.savefig(text, format="svg", transparent=True, metadata=left_out)
    found = text.getvalue()
    found = re.sub(r' xmlns(:xlink)?="[^"]*"', "", found[found.index("<svg") :])  # HTML knows them
    return found.replace(INK, "currentColor")


def _relabelled(svg: str, number: int) -> str:
    """Ids that are not those of another picture on the page."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1p{number}-", svg)


def _error(value: tuple) -> list[list[float]]:
    mean, low, high = value
    return [[max(mean - low, 0)], [max(high - mean, 0)]]


def _against_judge(decoders: list[dict]) -> str:
    """Each decoder a point with both intervals; labels in a column in the points' order, so that none overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    rows = [row for row in decoders if any(name in row for name in JUDGED)]
    if not rows:
        return ""
    judged = next(name for name in JUDGED if name in rows[0])
    height = max(4.8, 0.32 * len(rows) + 1)  # inches
    drawn, axes = figure(WIDTH, height)
    axes = axes[0, 0]
    for row in rows:
        x, y, colour = row[judged], row["rep_2"], _colour(row["name"])
        shape = {"marker": "*", "markersize": 13} if row["name"] == "human" else {"marker": "o", "markersize": 6}
        axes.errorbar(x[0], y[0], xerr=_error(x), yerr=_error(y), color=colour, lw=1.2, zorder=3, **shape)
        if row["name"] == "human":
            axes.axvline(x[0], color=INK, lw=0.8, ls=":")
            axes.axhline(y[0], color=INK, lw=0.8, ls=":")
    values = [value for row in rows for value in row[judged]]
    spread = max(values) / min(values)
    if spread > 3:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1, 2, 3, 5, 7) if spread < 30 else (1, 2, 5) if spread < 1000 else (1,))
        )
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(JUDGED[judged] + (" (log scale)" if axes.get_xscale() == "log" else ""))
    axes.set_ylabel("Rep-2")
    low, high = axes.get_ylim()
    rows.sort(key=lambda row: row["rep_2"][0])
    gap = 0.24 / height
    places = [(row["rep_2"][0] - low) / (high - low) for row in rows]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    for i in reversed(range(len(places))):  # and not beyond the top
        places[i] = min(places[i], 1 - (len(places) - 1 - i) * gap)
    for row, place in zip(rows, places):
        axes.annotate(
            row["name"],
            (row[judged][0], row["rep_2"][0]),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            color=INK,
            arrowprops={"arrowstyle": "-", "color": _colour(row["name"]), "lw": 0.7, "alpha": 0.6, "relpos": (0, 0.5)},
        )
    return _svg(drawn)


def _measures(result: dict) -> str:
    """A panel per measure but the judge's, decoders below one another, the human value as a line."""
    rows, left_out = result["decoders"], (*JUDGED, "held_out_perplexity")
    names = [name for name in columns(result) if name not in left_out]
    down = -(-len(names) // 3)
    drawn, axes = figure(WIDTH, down * (0.26 * len(rows) + 0.9), down, 3, sharey=True)
    for one, name in zip(axes.flat, names):
        one.set_title(COLUMNS[name], fontsize=10)
        for place, row in enumerate(rows):
            one.errorbar(row[name][0], place, xerr=_error(row[name]), fmt="o", ms=4.5, color=_colour(row["name"]))
            if row["name"] == "human":
                one.axvline(row[name][0], color=INK, lw=0.8, ls=":")
        one.locator_params(axis="x", nbins=4)
    for one in axes.flat[len(names) :]:
        one.set_visible(False)
    drawn.get_layout_engine().set(wspace=0.06, hspace=0.06)
    axes[0, 0].set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes[0, 0].invert_yaxis()
    return _svg(drawn)


def _tail(found: dict) -> str:
    """tail_acc_k, without guidance and with it."""
    names = {"as decoded": "tail_acc", "guidance 2": "guided_tail_acc"}
    slots = range(2, sum(name.startswith("tail_acc") for name in found) + 1)
    if not slots:
        return ""
    return _svg(guidance({label: [found[f"{name}_{slot}"] for slot in slots] for label, name in names.items()}))
