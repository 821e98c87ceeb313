# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Counting, without a GPU, what would make the host wait for one: reads of values that depend on the device's."""

import traceback
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
# Operations whose result, or its shape, the host reads: `item`, `bool`, `float`, `int` and `if` are the first.
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.equal}
METHODS = ("tolist", "numpy", "cpu", "__array__")  # on the CPU no operation, or another one


class HostReads(TorchDispatchMode):
    """While it is active, `found` counts reads of tensors that follow from those that were given to `on_device`, by
    the place that asked for them, the innermost one that is not torch's: {("package/file.py", "function"): times}.

    Tensors that the host made itself (seeds, draws, an optimizer's step count) may be read freely.
    """

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self._device = WeakTensorKeyDictionary()
        self._patches = ExitStack()

    def on_device(self, tensors) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor):
                self._device[tensor] = True

    def _is_on_device(self, values) -> bool:
        return any(isinstance(value, torch.Tensor) and value in self._device for value in tree_leaves(values))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        follows = self._is_on_device((args, kwargs))
        packet = function.overloadpacket
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if follows and (packet in READS or by_mask):
            self._note()
        result = function(*args, **kwargs)
        if follows:
            self.on_device(result)
        return result

    def _note(self) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        frame = next(frame for frame in reversed(frames) if frame.filename != __file__)
        self.found["/".join(Path(frame.filename).parts[-2:]), frame.name] += 1

    def __enter__(self):
        for name in METHODS:
            plain = getattr(torch.Tensor, name)

            def read(tensor, *args, _plain=plain, **kwargs):
                if tensor in self._device:
                    self._note()
                    with _disable_current_modes():
                        tensor = tensor.clone()  # the host's own from here on
                return _plain(tensor, *args, **kwargs)

            self._patches.enter_context(mock.patch.object(torch.Tensor, name, read))
        return super().__enter__()

    def __exit__(self, *error):
        self._patches.close()
        return super().__exit__(*error)
