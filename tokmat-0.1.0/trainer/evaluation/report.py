# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The files of an evaluation: figures, texts and a page with both."""

import json
import os
from itertools import groupby
from pathlib import Path

from . import metrics
from .page import page
from .run import Evaluation
from .table import markdown


def pieces(tokenizer, ids: list[int]) -> list[tuple[str, bool]]:
    """The text of `ids` cut where repetition starts and ends: (text, whether it repeats a trigram)."""
    text, cut, start, found = tokenizer.decode(ids), 0, 0, []
    for repeated, group in groupby(metrics.repeated_ngrams(ids)):
        cut += len(list(group))
        # A token may end in the middle of a character, which then belongs to the next piece.
        end = len(text) if cut == len(ids) else len(tokenizer.decode(ids[:cut]).rstrip("\N{REPLACEMENT CHARACTER}"))
        found.append((text[start:end], repeated))
        start = max(start, end)
    return found


def save(evaluation: Evaluation, folder: Path) -> None:
    """Write results.json, results.md, samples.json and index.html."""
    result, tokenizer = evaluation.result, evaluation.tokenizer
    samples, marked = [], []
    for number, ids in enumerate(evaluation.prompts.ids.tolist()):
        entry = {"prompt": tokenizer.decode(ids, skip_special_tokens=True)}
        written = {row.name: row.runs[0][number].tolist() for row in evaluation.written}
        samples.append(entry | {name: tokenizer.decode(ids) for name, ids in written.items()})
        marked.append(entry | {name: pieces(tokenizer, ids) for name, ids in written.items()})
    texts = {
        "results.json": json.dumps(result, indent=2),
        "results.md": markdown(result),
        "samples.json": json.dumps(samples, indent=2, ensure_ascii=False),
        "index.html": page(result, marked, evaluation.watched),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.tmp").write_text(text + "\n", encoding="utf-8")
        os.replace(folder / f"{name}.tmp", folder / name)
    print(f"Saved in {folder}: {', '.join(texts)}")
