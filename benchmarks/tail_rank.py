# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Tail adapters of another rank, which do what they did: room to learn more, or less to compute.

    python benchmarks/tail_rank.py runs/stories/widest-tail runs/stories/roomy 48
    python benchmarks/tail_rank.py runs/stories/roomy-tail runs/stories/narrow 24
    python benchmarks/tail_rank.py runs/smollm2-tail/tail runs/smollm2-tail/kept 24 --modules '.*(?<![kv]_proj)'

With `--modules` only those adapters are kept whose layers' names it matches: what `tail_adapter_modules` is. Of a
higher rank, what is new of A is drawn as in a new adapter, and what is new of B is zero. Of a lower one, each B A
is the best approximation that there is (its largest singular values).
"""

import argparse
import copy
from pathlib import Path

import torch

from modeling_tokmat import TokMatForContinuousLM
from trainer.checkpoints import load_model, load_tokenizer, save_whole
from trainer.tail_adapter import save_tail_adapter


def with_rank(model: TokMatForContinuousLM, rank: int, modules: str | None = None) -> TokMatForContinuousLM:
    """The same model with adapters of `rank`, and of layers alone whose names `modules` matches, where it is given.

    Raises:
        ValueError: where the model has no tail adapters, none of them is kept, or the rank is under 1.
    """
    config = copy.deepcopy(model.config)
    if config.tail_adapter_rank == 0 or rank < 1:
        raise ValueError(f"rank is {rank}, of a model with {config.tail_adapter_rank}; allowed: both at least 1")
    config.tail_adapter_rank, config.tail_adapter_modules = rank, modules or config.tail_adapter_modules
    config.check_fields()
    other, found = TokMatForContinuousLM(config), model.state_dict()
    weights = other.state_dict()
    for name in [name for name in found if name.endswith("lora_A") and name in weights]:
        of_b = name.replace("lora_A", "lora_B")
        if rank < len(found[name]):
            found[name], found[of_b] = narrowed(found[name], found[of_b], rank)
        weights[of_b].zero_()
    kept = {name: weight for name, weight in found.items() if name in weights or not name.startswith("tail_adapters.")}
    for name, weight in kept.items():
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
    parser.add_argument("--modules", help="regular expression of the layers that stay adapted, by default all")
    parser.add_argument("--beside", metavar="NAME", help="also write the tail apart, to be attached to this source")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = with_rank(load_model(arguments.source), arguments.rank, arguments.modules)
    tokenizer = load_tokenizer(arguments.source)
    save_whole(lambda folder: (model.save_pretrained(folder), tokenizer.save_pretrained(folder)), arguments.folder)
    if arguments.beside:
        save_tail_adapter(model, arguments.folder, arguments.beside)
    print(f"{arguments.folder}: adapters of rank {arguments.rank}")
