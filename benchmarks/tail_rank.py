# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Tail adapters of another rank, which do what they did: room to learn more, or less to compute.

    python benchmarks/tail_rank.py runs/stories/widest-tail runs/stories/roomy 48
    python benchmarks/tail_rank.py runs/stories/roomy-tail runs/stories/narrow 24

Of a higher rank, what is new of A is drawn as in a new adapter, and what is new of B is zero. Of a lower one, each B A
is the best approximation that there is (its largest singular values).
"""

import argparse
import copy
from pathlib import Path

import torch

from modeling_tokmat import TokMatForContinuousLM
from trainer.checkpoints import load_model, load_tokenizer, save_whole


def with_rank(model: TokMatForContinuousLM, rank: int) -> TokMatForContinuousLM:
    """The same model with adapters of `rank`.

    Raises:
        ValueError: where the model has no tail adapters, or the rank is under 1.
    """
    config = copy.deepcopy(model.config)
    if config.tail_adapter_rank == 0 or rank < 1:
        raise ValueError(f"rank is {rank}, of a model with {config.tail_adapter_rank}; allowed: both at least 1")
    config.tail_adapter_rank = rank
    other, found = TokMatForContinuousLM(config), model.state_dict()
    weights = other.state_dict()
    for name in [name for name in found if name.endswith("lora_A")]:
        of_b = name.replace("lora_A", "lora_B")
        if rank < len(found[name]):
            found[name], found[of_b] = narrowed(found[name], found[of_b], rank)
        weights[of_b].zero_()
    for name, weight in found.items():
        weights[name][tuple(map(slice, weight.shape))] = weight
    other.load_state_dict(weights)
    other.generation_config = model.generation_config
    return other


def narrowed(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r) of a lower rank, whose product is nearest to B A."""
    out, left = torch.linalg.qr(b.double())
    inner, right = torch.linalg.qr(a.double().T)
    u, values, v = torch.linalg.svd(left @ right.T)
    root = values[:rank].sqrt()
    return (root[:, None] * (v[:rank] @ inner.T)).to(a), (out @ u[:, :rank] * root).to(b)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of a model with a tail")
    parser.add_argument("folder", type=Path, help="where it goes")
    parser.add_argument("rank", type=int, help="of the adapters")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model, tokenizer = with_rank(load_model(arguments.source), arguments.rank), load_tokenizer(arguments.source)
    save_whole(lambda folder: (model.save_pretrained(folder), tokenizer.save_pretrained(folder)), arguments.folder)
    print(f"{arguments.folder}: adapters of rank {arguments.rank}")
