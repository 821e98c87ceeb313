# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The studies of `tokmat reproduce`: one function `study(lab) -> Finding` per file, listed here in reading order."""

import importlib.util

STUDIES = {
    "repetition": "repetition and quality beside greedy decoding, 50, 200 and 1,000 tokens",
    "entropy": "entropy and direction of vectors while they mature",
    "tail_length": "tail length against diversity",
    "guidance": "what the tail knows of what is committed later, by guidance scale",
    "drift": "how far learned embeddings move",
    "templates": "what embryo noise changes: the skeleton of a text or its words",
    "ablations": "every choice of the recipe, changed alone",
    "failures": "detectors of four failures, on models made to fail",
    "structured": "code, dialogue and arithmetic",
    "diversity": "where diversity comes from, cause by cause",
    "look_ahead": "what makes a tail know what comes next, idea by idea",
    "pretrained": "a pretrained model under argmax, before and after it unlearns its phrases",
    "peers": "what unlikelihood training, DITTO and others do to a pretrained model on the same budget",
    "lessons": "what decides how much of a pretrained model's loops a lesson takes away, choice by choice",
    "decoding": "the lesson that unlearns most of a pretrained model's loops, beside every way to decode it",
    "practice": "a pretrained model that practises, round by round, to write without repeated phrases",
    "likeness": "MAUVE of what a pretrained model writes, decoder by decoder",
    "paper": "the paper's table of repetition, its recipe trained from a pretrained model's weights",
    "controls": "what noise, smoothing and slower turning do to a pretrained model's text, dose by dose",
}
# Those that can be asked of a pretrained model.
PRETRAINED = ("pretrained", "peers", "lessons", "decoding", "practice", "likeness", "paper", "controls")
PRETRAINED += ("entropy", "tail_length", "guidance", "templates", "structured")
# What a study needs beyond the package's own dependencies; the extra "eval" has all of it.
PICTURES = "matplotlib"  # every study draws one
NEEDS = {"tail_length": "nltk", "likeness": "mauve"}


def require_packages(names: list[str]) -> None:
    """Raises:
    ValueError: a package that one of the studies needs is not installed.
    """
    needed = {PICTURES: "every study", **{NEEDS[name]: name for name in names if name in NEEDS}}
    missing = [f"{package} ({who})" for package, who in needed.items() if importlib.util.find_spec(package) is None]
    if names and missing:
        raise ValueError(f"the studies need {' and '.join(missing)}: pip install 'tokmat[eval]'")
