# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat convert`: a TokMat model from a pretrained autoregressive one."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..conversion import Agreement, convert_folder


def print_agreement(found: Agreement) -> None:
    """How a converted model compares with its source."""
    table = Table(f"on {found.tokens:,} tokens of English", "source", "converted")
    table.add_row("perplexity", f"{found.source:.4f}", f"{found.converted:.4f}")
    table.add_row("same likeliest token", "", f"{found.same_top:.2%}")
    table.add_row("largest difference of a logit", "", f"{found.difference:.2g}")
    Console().print(table)


def run(source: str, folder: Path, geometry: str, tail_adapter_rank: int, gguf: Path | None) -> int:
    print_agreement(convert_folder(source, folder, geometry, tail_adapter_rank, gguf))
    print(f"Saved in {folder}: a TokMat model with the weights of {gguf or source}.")
    if geometry == "sphere":
        print("Its tokens lie on one sphere, as in the paper: it has to be trained before it writes well.")
    if tail_adapter_rank:
        print(f"Next: tokmat own-text {folder} --prompts TEXTS --output own.jsonl, then")
        print(f"      tokmat train --model {folder} --train tail --data own.jsonl --output-dir TRAINED", flush=True)
    else:
        print(f"Next: tokmat train --model {folder} --data SOURCE --output-dir TRAINED", flush=True)
    return 0
