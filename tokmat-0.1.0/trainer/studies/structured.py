# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Structured text: code, dialogue and arithmetic, a baseline and a TokMat model for each (`Lab.domain_models`)."""

import ast
import itertools
import random
import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from ..builtin_corpus import library_files
from ..checkpoints import load_tokenizer
from ..data import END_OF_TEXT, load_documents
from ..evaluation.measures import interval, per_prompt
from . import templates
from .lab import Finding, Lab, with_ends, write_documents

NEW_TOKENS = 50
CODE_CHARACTERS = 3_000_000
KINDS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SUMS = 4000  # documents of arithmetic
LOOPING = 0.5  # Rep-2 above which a text is mostly the same again, and its template means nothing
EMBRYO_NORM = 1.0  # noise as long as an embedding, so that siblings vary at all
WROTE = ("TokMat", "greedy", "human")


def code_documents(characters: int = CODE_CHARACTERS, least: int = 300) -> list[str]:
    """Functions and classes of the standard library, one document each, of files in a fixed mixed order. Prompts are
    beginnings of documents, and whole modules begin with prose."""
    files, found, length = library_files(), [], 0
    random.Random(0).shuffle(files)
    for file in files:
        try:
            source = file.read_text(encoding="utf-8")
            parts = ast.parse(source).body
        except (OSError, SyntaxError, ValueError):
            continue
        lines = source.splitlines(keepends=True)
        for part in parts:
            text = "".join(lines[part.lineno - 1 : part.end_lineno]) if isinstance(part, KINDS) else ""
            if len(text) >= least and END_OF_TEXT not in text:
                found, length = [*found, text], length + len(text)
            if length > characters:
                return found[:-1]
    return found


def dialogue_documents(source: str, least: int = 800) -> list[str]:
    """Exchanges of at least `least` characters, cut between speeches, which blank lines separate."""
    found = []
    for text in load_documents(source)["text"]:
        found.append("")
        for speech in re.split(r"\n\s*\n", text):
            if len(found[-1]) >= least:
                found.append("")
            found[-1] = f"{found[-1]}\n\n{speech}".strip("\n")
    return [text for text in found if text.strip()]


def sums(count: int = SUMS, lines: int = 16, seed: int = 0) -> list[str]:
    """Documents of additions and subtractions of numbers below 100, such as "12 + 7 = 19", no result below 0."""
    draw = random.Random(seed)

    def line() -> str:
        first, second = draw.randrange(100), draw.randrange(100)
        less = f"{max(first, second)} - {min(first, second)} = {abs(first - second)}"
        return f"{first} + {second} = {first + second}" if draw.random() < 0.5 else less

    return ["\n".join(line() for _ in range(lines)) for _ in range(count)]


def correct_sums(text: str) -> tuple[int, int]:
    """Correct lines, and all lines, among those that are whole: what is before the first and after the last line break
    is left out. A line that is not a sum at all counts as wrong."""
    lines = [line for line in text.split("\n")[1:-1] if line.strip()]
    matches = filter(None, (re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", line.strip()) for line in lines))
    parts = (match.groups() for match in matches)
    return sum(int(a) + int(sign + b) == int(result) for a, sign, b, result in parts), len(lines)


@torch.no_grad()
def measure_domain(lab: Lab, name: str, documents: list[str], frequent: int):
    """Rows of the table, `templates.agreements` of TokMat's and of sampled siblings, and samples of a domain."""
    held_out, train = documents[::20], [text for place, text in enumerate(documents) if place % 20]
    (lab.folder / "data").mkdir(parents=True, exist_ok=True)
    baseline, tokmat = lab.domain_models(name, write_documents(lab.folder / "data" / f"{name}.txt", train))
    tokenizer = load_tokenizer(str(baseline))
    enough = [text for text in held_out if len(tokenizer(text, verbose=False)["input_ids"]) > 16 + NEW_TOKENS]
    count = min(lab.budget.prompts, 50, len(enough))
    prompts = lab.beginnings(enough, tokenizer, count, 16, NEW_TOKENS)
    seeds = range(max(2, min(lab.budget.continuations, 5)))
    matured, plain = lab.load_tokmat(tokmat), lab.load(baseline)
    greedy = lab.continuations(plain, prompts, [0], do_sample=False)
    runs = {"TokMat": lab.continuations(matured, prompts, [0]), "greedy": greedy, "human": [prompts.human]}
    beginnings, rows = tokenizer.batch_decode(prompts.ids, skip_special_tokens=True), []
    for who, written in runs.items():
        row: dict[str, Any] = {"domain": name, "text": who}
        for metric, values in per_prompt(written, prompts).items():
            row |= with_ends(metric, interval(values))
        if name == "arithmetic":
            checked = [correct_sums(text) for text in tokenizer.batch_decode(written[0], skip_special_tokens=True)]
            correct, lines = np.array(checked).sum(axis=0)
            row |= {"correct": correct / max(lines, 1), "lines": lines}
        rows.append(row)
    kept, found = templates.frequent_words(train, frequent), {}
    sampled = lab.continuations(plain, prompts, seeds, **templates.CONTROLS["nucleus 0.95"])
    siblings = {"TokMat": lab.continuations(matured, prompts, seeds, embryo_norm=EMBRYO_NORM), "sampling": sampled}
    for who, written in siblings.items():
        groups = templates.as_groups(written, tokenizer)
        found[who] = templates.agreements(groups, kept)
        row = rows[0] if who == "TokMat" else {"domain": name, "text": who}
        row |= dict(zip(("word_agreement", "skeleton_agreement"), found[who].mean(axis=0)))
        row |= with_ends("gain", templates.gain_interval(found[who]))
        row["identical_siblings"] = templates.identical_share(groups)
        row["prompts_that_vary"] = sum(len(set(group)) > 1 for group in groups)
    rows.append(row)
    samples = [f"{who}:\n{beginnings[0]}[...]{tokenizer.decode(written[0][0])}" for who, written in runs.items()]
    shown = re.sub(r"\n{3,}", "\n\n", "\n\n".join(samples))
    return rows, found, f"{name}\n\n```\n{shown}\n```"


def study(lab: Lab) -> Finding:
    domains = {"code": (code_documents(), templates.FREQUENT), "arithmetic": (sums(), 3)}  # which keeps +, - and =
    if lab.dialogue is not None:
        domains["dialogue"] = (dialogue_documents(lab.dialogue), templates.FREQUENT)
    rows, found, samples = [], {}, []
    for name, (documents, frequent) in domains.items():
        more, found[name], sample = measure_domain(lab, name, documents, frequent)
        rows, samples = rows + more, [*samples, sample]
    table = {(row["domain"], row["text"]): row for row in rows}
    pair = {name: (both["TokMat"], both["sampling"]) for name, both in found.items()}
    ours = {name: table[name, "TokMat"] for name in found}
    looping = [name for name in found if ours[name]["rep_2"] > LOOPING]
    varied = [name for name in found if ours[name]["prompts_that_vary"] >= templates.FEWEST and name not in looping]
    draws = {name: templates.gain_draws(*pair[name], seed) for seed, name in enumerate(varied)}
    pairs, different = list(itertools.combinations(varied, 2)), []
    for first, second in pairs:  # 95 % for all comparisons together
        low, high = np.nanpercentile(draws[first] - draws[second], [2.5 / len(pairs), 100 - 2.5 / len(pairs)])
        if low > 0 or high < 0:
            different.append(f"{first} less {second}: {low:+.2f} to {high:+.2f}")
    parts = []
    for name in domains:
        repetition = ", ".join(f"{table[name, who]['rep_2']:.3f} {who}" for who in WROTE)
        excess = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*templates.gain_interval(*pair[name]))
        identical = f"{ours[name]['identical_siblings']:.0%} of siblings identical"
        parts.append(f"{name}: {excess} ({identical}), Rep-2 {repetition}")
    correct = ", ".join(f"{table['arithmetic', who]['correct']:.0%} {who}" for who in WROTE)
    return Finding(
        claim="Templates emerge under embryo noise more in one kind of structured text than in another.",
        finding="Of what differs in words between siblings, the share that masking rare words makes alike, less that "
        f"of the baseline's samples: {'; '.join(parts)}. Correct sums: {correct}. Differences among "
        f"{', '.join(varied) or 'no domain'} (whose siblings vary enough and do not loop): "
        + ("; ".join(different) or "none")
        + "."
        + (f" Too little trained to say more, their text loops: {', '.join(looping)}." if looping else "")
        + (" Dialogue was left out: no text was given." if lab.dialogue is None else ""),
        verdict=lab.verdict("cannot tell" if not pairs else bool(different)),
        rows=rows,
        figure=_figure(table, list(domains)),
        text="\n\n".join(samples),
    )


def _figure(table, domains):
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    panels = (
        ("rep_2", "Rep-2", WROTE),
        ("loop", "share that repeats a trigram", WROTE),
        ("gain", "of what differs in words between siblings,\nshare that masking makes alike", ("TokMat", "sampling")),
    )
    styles = dict(zip((*WROTE, "sampling"), (("o", "C0"), ("s", "C1"), ("^", "C2"), ("D", "0.3"))))
    for axis, (column, label, who) in zip(axes, panels):
        for place, name in enumerate(who):
            found = [[table[domain, name][column + end] for domain in domains] for end in ("", "_low", "_high")]
            middle, low, high = np.array(found)
            at = np.arange(len(domains)) + 0.15 * (place - (len(who) - 1) / 2)
            marker, color = styles[name]
            axis.errorbar(at, middle, (middle - low, high - middle), fmt=marker, color=color, capsize=3, label=name)
        axis.set_xticks(range(len(domains)), domains)
        axis.set(ylabel=label, xlim=(-0.5, len(domains) - 0.5), ylim=(-0.03, 1.03) if column != "gain" else None)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return figure
