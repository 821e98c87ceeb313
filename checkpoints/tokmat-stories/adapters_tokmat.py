# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a frozen source is given to foresee itself: adapters that act in the tail alone, and the successor head.

Committed positions pass through the source as it is, to the bit: an adapter adds nothing where the gate is shut.
"""

import re
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.pytorch_utils import Conv1D

from .checks_tokmat import require


class Gate(NamedTuple):
    """g: which positions of a pass are slots. `start`: the first that may be one; all before it are committed.
    `mask`: (batch or 1, length - start, 1), 1 at slots, 0 elsewhere; None where all positions from `start` on are."""

    start: int
    mask: torch.Tensor | None = None
    in_place: bool = False  # whether what adapters add may be added in place: nobody else looks at it


_RUNNING: ContextVar[Gate | None] = ContextVar("tail_gate")


class TailGate:
    """The gate of the forward pass that is running: each thread its own, all adapters of a model the same one."""

    def __init__(self):
        self.last: Gate | None = None

    def set(self, gate: Gate | None) -> None:
        """Not undone after a pass: gradient checkpointing runs the layers again in the backward pass."""
        if gate is not None and gate.mask is None and not torch.is_grad_enabled():
            gate = gate._replace(in_place=True)
        self.last = gate
        if not torch.compiler.is_compiling():
            _RUNNING.set(gate)

    def get(self) -> Gate | None:
        # A backward pass on an accelerator runs in a thread of its own, which has seen no forward pass.
        return self.last if torch.compiler.is_compiling() else _RUNNING.get(self.last)


class TailAdapter(nn.Module):
    """y = W x + g * B (A x) for one linear layer, whose forward calls it; B starts at zero."""

    def __init__(self, in_features: int, out_features: int, rank: int, gate: TailGate):
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.empty(out_features, rank, dtype=torch.float32))
        self.gate = gate

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init.kaiming_uniform_(self.lora_A, a=5**0.5)
        init.zeros_(self.lora_B)

    def forward(self, vectors: torch.Tensor, output: torch.Tensor, gate: Gate) -> torch.Tensor:
        """What the layer reads and what it makes of it -> what it makes with the adapter, (batch, length, out)."""
        start, mask, in_place = gate
        if in_place and output.shape[0] == 1 and output.dtype == self.lora_B.dtype:
            # Two products, the second of which adds, and no copy: of small models most of the time goes to calls.
            output[0, start:].addmm_(F.linear(vectors[0, start:], self.lora_A), self.lora_B.t())
            return output
        added = F.linear(F.linear(vectors[:, start:].to(self.lora_A.dtype), self.lora_A), self.lora_B)
        if in_place:
            output[:, start:].add_(added)
            return output
        added = (added if mask is None else added * mask).to(output.dtype)
        return output + added if start == 0 else torch.cat([output[:, :start], output[:, start:] + added], dim=1)


def _adapted(layer: nn.Module, adapter: TailAdapter, vectors: torch.Tensor) -> torch.Tensor:
    """The forward of a layer that has an adapter: a hook would cost a third of what a small layer does."""
    output, gate = type(layer).forward(layer, vectors), adapter.gate.get()
    # The layer is kept from the adapter: accelerate moves whatever an offloaded module is given.
    return output if gate is None else adapter(vectors, output, gate)


class TailAdapters(nn.ModuleDict):
    """
    One `TailAdapter` per linear layer of a backbone, under the layer's name with `/` for `.`.

    Args:
        backbone: any module; its `nn.Linear` and `Conv1D` layers are adapted.
        rank: r, the inner size of each adapter.
        modules: regular expression that the names of the adapted layers match whole; None for all.

    Raises:
        ValueError: no name matches.
    """

    # Read by transformers when the model is made. Small, and on a CPU their products are faster in float32.
    _keep_in_fp32_modules_strict = ["tail_adapters"]

    def __init__(self, backbone: nn.Module, rank: int, modules: str | None = None):
        super().__init__()
        self.gate = TailGate()
        for name, layer in backbone.named_modules():
            if isinstance(layer, nn.Linear):
                inner, outer = layer.in_features, layer.out_features
            elif isinstance(layer, Conv1D):
                inner, outer = layer.nx, layer.nf
            else:
                continue
            if modules is not None and not re.fullmatch(modules, name):
                continue
            adapter = TailAdapter(inner, outer, rank, self.gate)
            setattr(layer, "forward", partial(_adapted, layer, adapter))  # noqa: B010, a method to a type checker
            self[name.replace(".", "/")] = adapter
        require(len(self) > 0, "tail_adapter_modules", modules, "a match of linear layers' names in the backbone")


class TokMatSuccessorHead(nn.Module):
    """
    S of z^' = z^ + S(z^, e_prev): makes the guess for a slot coherent with the token before it. Zero at the start.

    Args:
        hidden_size: d. radius: R, the length of what comes in and goes out.
    """

    _keep_in_fp32_modules_strict = ["successor"]  # as the adapters

    def __init__(self, hidden_size: int):
        super().__init__()
        self.fc_in = nn.Linear(2 * hidden_size, hidden_size, dtype=torch.float32)
        self.fc_out = nn.Linear(hidden_size, hidden_size, dtype=torch.float32)

    def forward(self, predicted: torch.Tensor, previous: torch.Tensor, radius: float) -> torch.Tensor:
        """z^ of a slot and the committed vector of the token before it, both (..., d) -> z^', (..., d)."""
        unit = predicted.shape[-1] ** 0.5 / radius  # both have norm R or so: elements of size 1
        both = torch.cat([predicted, previous.to(predicted.dtype)], dim=-1) * unit
        return predicted + self.fc_out(F.silu(self.fc_in(both.to(self.fc_in.weight.dtype)))).to(predicted.dtype) / unit
