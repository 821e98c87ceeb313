# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`transformers serve` loads a TokMat folder through the example, and only through it."""

import runpy
from pathlib import Path

import pytest
import torch
import transformers

SERVE = Path(__file__).parents[1] / "examples" / "serve.py"


def test_the_example_lets_the_server_load_a_model(models, monkeypatch):
    manager = pytest.importorskip("transformers.cli.serving.model_manager")
    server = object.__new__(manager.ModelManager)  # its constructor wants the server's packages
    server.attn_implementation, server.dtype, server.device = None, "auto", "cpu"
    server.trust_remote_code, server.quantization = False, None
    monkeypatch.delattr(transformers, "TokMatForContinuousLM", raising=False)
    with pytest.raises(AttributeError, match="TokMatForContinuousLM"):
        server._load_model(f"{models[0]}@main")
    monkeypatch.setattr(transformers, "TokMatForContinuousLM", None, raising=False)  # taken away again after the test
    runpy.run_path(str(SERVE), run_name="example")
    loaded = server._load_model(f"{models[0]}@main")
    assert loaded.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, min_new_tokens=2).shape == (1, 5)
