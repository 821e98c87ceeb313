# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What makes TokMat checkpoints: data, collator, trainer, command line, live streamer."""

from importlib import import_module
from importlib.metadata import version

_HOMES = {
    "MaturationStreamer": "streamers",
    "TokMatDataCollator": "collator",
    "TokMatTrainer": "tokmat_trainer",
    "TokMatTrainingArguments": "training_args",
    "load_documents": "data",
    "tokenize_and_pack": "data",
    "train_tokenizer": "data",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    # On demand: `tokmat --help` need not wait for torch and datasets.
    if name == "__version__":
        return version("tokmat")
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
