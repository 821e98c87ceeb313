# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What accelerators need: an end that is seen late, and compiled steps."""

import pytest
import torch
from transformers.generation import CompileConfig

from modeling_tokmat.decoding_tokmat import Run

NEW = 20
NOISY = {"embryo_norm": 1.0, "alpha_max": 0.7, "eos_token_id": None}


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("eos", [None, 5, [3, 9, 50, 12], list(range(40, 97))])
@pytest.mark.parametrize("rows", [1, 3])
def test_an_end_that_is_seen_late_gives_the_same_text(make_model, prompt, monkeypatch, eos, rows):
    """On an accelerator the flag that all rows have ended is read a step later, and that step is taken back."""
    model = make_model(double=True)
    runs = [
        {**NOISY, "eos_token_id": eos, "max_new_tokens": NEW, "pad_token_id": 1},
        {**NOISY, "eos_token_id": eos, "max_length": 9 + 1, "pad_token_id": 1},
        {**NOISY, "eos_token_id": eos, "max_time": 0.0, "pad_token_id": 1},
    ]
    expected = [model.generate(prompt[:rows], tail_length=4, **run) for run in runs]
    monkeypatch.setattr(Run, "accelerated", lambda self: True)
    late = [model.generate(prompt[:rows], tail_length=4, **run) for run in runs]
    for one, other in zip(expected, late, strict=True):
        assert torch.equal(one, other)
    assert eos is None or rows > 1 or isinstance(eos, int) or expected[0].shape[1] < 9 + NEW


def test_compiled_steps_give_the_same_text(make_model, prompt):
    """The step that transformers compiles on accelerators, here without a compiler."""
    model = make_model(double=True)
    settings = {"max_new_tokens": 12, "tail_length": 4, "cache_implementation": "static", **NOISY}
    expected = model.generate(prompt, **settings)
    compiling = CompileConfig(backend="eager", fullgraph=False)
    compiling._compile_all_devices = True
    assert torch.equal(model.generate(prompt, compile_config=compiling, **settings), expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_compiler_gives_the_same_text(make_model, prompt):
    """torch.compile of the decode step with a static cache, through the C++ compiler where there is no accelerator."""
    model = make_model(double=True)
    settings = {"max_new_tokens": NEW, "tail_length": 4, "cache_implementation": "static", **NOISY}
    expected = model.generate(prompt, **settings)
    compiling = CompileConfig(fullgraph=True, mode="default")
    compiling._compile_all_devices = True
    torch._dynamo.utils.counters.clear()
    assert torch.equal(model.generate(prompt, compile_config=compiling, **settings), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
