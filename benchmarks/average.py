# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The weighted mean of two models of one shape (Wortsman et al. 2022, arXiv 2203.05482), saved as the first one is.

    python benchmarks/average.py runs/stories/round5 runs/stories/round3 runs/stories/front --weight 0.7

What the first has alone, such as a tail, stays as it is.
"""

import argparse
from pathlib import Path

import torch

from trainer.checkpoints import load_model, load_tokenizer, save_whole


@torch.no_grad()
def average(first: str, second: str, folder: Path, weight: float) -> None:
    """
    Args:
        weight: of the first, in [0, 1]; the second has the rest.

    Raises:
        ValueError: a weight out of range, or a second model that has other tensors than the first.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"--weight is {weight}, but it must lie in [0, 1]")
    model, others = load_model(first, dtype=torch.float32), load_model(second, dtype=torch.float32).state_dict()
    tensors = model.state_dict()
    strange = [name for name, tensor in others.items() if name not in tensors or tensors[name].shape != tensor.shape]
    if strange:
        raise ValueError(f"{second} is no model of the shape of {first}: {strange[0]}")
    for name, tensor in others.items():
        if tensor.is_floating_point():
            tensors[name].lerp_(tensor, 1 - weight)
    tokenizer = load_tokenizer(first)

    def save(temporary):
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)

    save_whole(save, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", help="folder of a model")
    parser.add_argument("second", help="folder of another")
    parser.add_argument("folder", type=Path, help="where the mean goes")
    parser.add_argument("--weight", type=float, default=0.5, help="of the first")
    arguments = parser.parse_args()
    try:
        average(arguments.first, arguments.second, arguments.folder, arguments.weight)
    except (OSError, ValueError) as error:
        raise SystemExit(f"average: {error}") from error
