# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat attach`: a source and the tail that was trained beside it, as one model."""

from pathlib import Path

from ..tail_adapter import attach_folder
from .convert import print_agreement


def run(source: str, adapter: str, folder: Path) -> int:
    print_agreement(attach_folder(source, adapter, folder))
    print(f"Saved in {folder}: {source} with the tail of {adapter}. It writes the source's greedy text.")
    print(f'Next: tokmat generate {folder} "Once upon a time" --watch', flush=True)
    return 0
