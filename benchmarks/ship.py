# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A trained model as it is shipped: weights rounded to bfloat16, which load as float32; tokenizer, settings, code.

    python benchmarks/ship.py runs/stories/tail checkpoints/tokmat-stories

Files that the target folder holds already, such as its card, stay.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing

from trainer.checkpoints import load_model, load_tokenizer, save_whole


def ship(source: str, folder: Path) -> None:
    # All of it: a tail's adapters are read into float32 whatever they were saved in.
    model = load_model(source).to(torch.bfloat16).eval()
    tokenizer = load_tokenizer(source)
    # Training rows begin with bos; so shall prompts.
    bos = tokenizer.bos_token
    special = [(bos, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=special)

    def save(temporary):
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        path = Path(temporary) / "config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values["dtype"] = "float32"  # CPUs without instructions for bfloat16 are slow at it
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    save_whole(save, folder)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    print(f"{folder}: {model.num_parameters():,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of a trained model")
    parser.add_argument("folder", type=Path, help="where it goes")
    arguments = parser.parse_args()
    ship(arguments.source, arguments.folder)
