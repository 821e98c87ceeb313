# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat card`: a model card of what lies in a folder and what was measured."""

from pathlib import Path

from ..cards import CardOptions, write_card
from ..checkpoints import in_the_box


def run(model: Path, known: dict, overwrite: bool) -> int:
    model = Path(in_the_box(str(model)))
    print(f"Saved {write_card(model, CardOptions(**known), overwrite)}.", flush=True)
    return 0
