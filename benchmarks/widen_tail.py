# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Room to learn more: a model whose tail adapters have a higher rank, and do as yet what they did.

    python benchmarks/widen_tail.py runs/stories/widest-tail runs/stories/roomy 48

What is new of A is drawn as in a new adapter, what is new of B is zero.
"""

import argparse
import copy
from pathlib import Path

import torch

from modeling_tokmat import TokMatForContinuousLM
from trainer.checkpoints import load_model, load_tokenizer, save_whole


def widened(model: TokMatForContinuousLM, rank: int) -> TokMatForContinuousLM:
    """The same model with adapters of `rank`.

    Raises:
        ValueError: where that is not more than it has, or it has none.
    """
    config = copy.deepcopy(model.config)
    if not 0 < config.tail_adapter_rank < rank:
        raise ValueError(f"rank is {rank}; allowed: more than the model's own, {config.tail_adapter_rank}, above 0")
    config.tail_adapter_rank = rank
    wider = TokMatForContinuousLM(config)
    weights = wider.state_dict()
    for name, weight in model.state_dict().items():
        if name.endswith("lora_B"):
            weights[name].zero_()
        weights[name][tuple(map(slice, weight.shape))] = weight
    wider.load_state_dict(weights)
    wider.generation_config = model.generation_config
    return wider


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of a model with a tail")
    parser.add_argument("folder", type=Path, help="where it goes")
    parser.add_argument("rank", type=int, help="of the adapters, more than they have")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    wider, tokenizer = widened(load_model(arguments.source), arguments.rank), load_tokenizer(arguments.source)
    save_whole(lambda folder: (wider.save_pretrained(folder), tokenizer.save_pretrained(folder)), arguments.folder)
    print(f"{arguments.folder}: adapters of rank {arguments.rank}")
