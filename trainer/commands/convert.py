# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat convert`: a TokMat model from a pretrained autoregressive one."""

from pathlib import Path

from ..models import convert_folder


def run(source: str, folder: Path) -> int:
    convert_folder(source, folder)
    print(f"Saved in {folder}: a TokMat model with the weights of {source}, which has not seen a tail yet.")
    print(f"Next: tokmat train --model {folder} --data SOURCE --output-dir TRAINED", flush=True)
    return 0
