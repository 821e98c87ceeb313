# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a pass over several positions costs beside one over a single position, by how linear layers are computed.

    python benchmarks/wide_pass.py models/smollm2-135m-instruct --threads 1

Drafts pay where a wide pass is nearly as cheap as a narrow one. Measured are all linear layers of a model alone, the
output table included, one after the other as in a pass (so that weights come from memory as there), and the whole
model behind a cache. Ways of computing y = x W^T in float32:

    plain       torch.nn.functional.linear, what transformers does
    transposed  weights stored the other way round
    swapped     (W x^T)^T
    MKL         weights packed by oneMKL for this number of rows: what torch.compile with `freezing` takes where it can
    oneDNN      weights packed by oneDNN: what it takes otherwise
    compiled    torch.compile with `freezing`, of the layers alone, where asked for: minutes, and a C++ compiler
    int8        weights of 8 bits, which change the text (torch's own kernel, that of torchao)
    bf16        where the CPU has instructions for it, or where asked for

Time is processor time over threads, the least of `--repeats`: other work only ever adds to it. The last line on stdout
is one JSON object.
"""

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from decode import command_line, integers, machine_facts, machine_line, progress_bar, report, stdout_console
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from modeling_tokmat.inputs_tokmat import CACHE
from trainer.models import bf16_supported

Kernel = Callable[[torch.Tensor, int], Callable[[torch.Tensor], torch.Tensor]]


def transposed(weight, rows):
    stored = weight.t().contiguous()
    return lambda vectors: vectors @ stored


def swapped(weight, rows):
    return lambda vectors: (weight @ vectors.flatten(0, -2).t()).t().view(*vectors.shape[:-1], -1)


def mkl(weight, rows):
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return lambda vectors: torch.ops.mkl._mkl_linear(vectors, packed, weight, None, rows)


def onednn(weight, rows):
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda vectors: torch.ops.mkldnn._linear_pointwise(vectors, packed, None, "none", [], "")


def int8(weight, rows):
    scales = weight.abs().amax(dim=1) / 127
    small = (weight / scales[:, None]).round().to(torch.int8)

    def multiply(vectors):
        return torch._weight_int8pack_mm(vectors.flatten(0, -2), small, scales).view(*vectors.shape[:-1], -1)

    return multiply


def plain(weight, rows):
    return lambda vectors: F.linear(vectors, weight)


def bf16(weight, rows):
    half = weight.bfloat16()
    return lambda vectors: F.linear(vectors.bfloat16(), half).to(vectors.dtype)


KERNELS: dict[str, Kernel] = {"plain": plain, "transposed": transposed, "swapped": swapped, "MKL": mkl}
COMPILED = "compiled"  # of the layers alone
LONGEST = 2000.0  # milliseconds of one measurement
KERNELS |= {"oneDNN": onednn, "int8": int8, "bf16": bf16}


def milliseconds(call, repeats: int) -> float:
    """Least processor time of a call over torch's threads; fewer calls than `repeats` of what is slow."""
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) <= repeats and sum(taken) < LONGEST):
        start = time.process_time()
        call()
        taken.append(1000 * (time.process_time() - start) / torch.get_num_threads())
    return min(taken[1:])


def layers_alone(layers: list[nn.Linear], rows: int, kernel: Kernel | None, repeats: int) -> float:
    """All linear layers, one after the other; compiled as one function with its weights frozen without a kernel."""
    inputs = {layer.in_features: torch.randn(rows, layer.in_features) for layer in layers}
    if kernel is not None:
        calls = [(inputs[layer.in_features], kernel(layer.weight, rows)) for layer in layers]
        return milliseconds(lambda: [multiply(vectors) for vectors, multiply in calls], repeats)
    module = nn.ModuleList(layers).eval()
    module.forward = lambda given: [layer(given[layer.in_features]) for layer in layers]
    torch._dynamo.reset()
    compiled = torch.compile(module, options={"freezing": True}, fullgraph=True)
    compiled(inputs)
    return milliseconds(lambda: compiled(inputs), repeats)


def whole_model(model, layers: list[nn.Linear], positions: int, prefix: int, kernel: Kernel, repeats: int) -> float:
    """A forward pass behind a cache, logits of every position included."""
    cache = DynamicCache(config=model.config)
    vectors = torch.randn(1, max(prefix, positions), model.config.hidden_size)
    model(inputs_embeds=vectors[:, :prefix], logits_to_keep=1, **{CACHE: cache})
    for layer in layers:
        layer.forward = kernel(layer.weight, positions)

    def call():
        model(inputs_embeds=vectors[:, :positions], **{CACHE: cache})
        cache.crop(-positions)

    found = milliseconds(call, repeats)
    for layer in layers:
        del layer.forward
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="an autoregressive model: folder or Hub name")
    parser.add_argument("--positions", type=integers, default=[1, 2, 4, 8, 16, 24], help="comma-separated")
    parser.add_argument("--prefix", type=int, default=200, help="positions in the cache of the whole model")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, help="torch's intra-op threads")
    parser.add_argument(
        "--kernels", type=lambda text: text.split(","), help='comma-separated (default: all but "compiled")'
    )
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args()
    possible = [*KERNELS, COMPILED]
    has_bf16 = bf16_supported(use_cpu=True)
    args.kernels = args.kernels or [name for name in KERNELS if name != "bf16" or has_bf16]
    if unknown := set(args.kernels) - set(possible):
        parser.error(f"--kernels: {', '.join(sorted(unknown))}; allowed: {', '.join(possible)}")
    return args


@torch.no_grad()
def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.source, dtype=torch.float32).eval()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    kernels = {name: KERNELS.get(name) for name in args.kernels}
    result = {"benchmark": "wide_pass", "command": command_line(__file__), "machine": machine_facts()}
    result |= {"positions": args.positions, "prefix": args.prefix, "repeats": args.repeats, "rows": []}
    with progress_bar() as progress:
        task = progress.add_task("", total=2 * len(kernels) * len(args.positions))
        for name, kernel in kernels.items():
            alone, whole = [], []
            for positions in args.positions:
                progress.update(task, advance=2, description=f"{name}, {positions} positions")
                alone.append(layers_alone(layers, positions, kernel, args.repeats))
                if kernel is not None:
                    whole.append(whole_model(model, layers, positions, args.prefix, kernel, args.repeats))
                gc.collect()
            for what, found in (("linear layers", alone), ("whole model", whole)):
                if found:
                    result["rows"].append({"of": what, "kernel": name, "milliseconds": found})
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    heads = ["1 position, ms", *(f"{positions}, x 1" for positions in args.positions[1:])]
    table = Table("", "computed", *heads, title="A pass over several positions, in passes over one")
    for what in ("linear layers", "whole model"):
        for row in [row for row in result["rows"] if row["of"] == what]:
            first, *others = row["milliseconds"]
            table.add_row(what, row["kernel"], f"{first:.1f}", *(f"{time / first:.2f}" for time in others))
    console.print(table)
    report(result, args.output)


if __name__ == "__main__":
    main()
