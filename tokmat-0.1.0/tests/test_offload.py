# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Weights that accelerate loads from disk when a module is called: the model reads its tables outside of one."""

import pytest
import torch

from modeling_tokmat import TokMatForContinuousLM

IDS = torch.arange(2, 22).view(2, 10)


@torch.no_grad()
@pytest.mark.parametrize("where", ["all", "backbone", "auto"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "converted", "converted, untied"])
def test_offloaded_weights_give_the_same_text(make_model, make_converted, tmp_path, kind, where):
    model = make_converted(tied=kind == "converted") if "converted" in kind else make_model(kind)
    given = {"max_new_tokens": 5, "eos_token_id": None, "tail_length": 4}
    expected = model.generate(IDS, **given)
    model.save_pretrained(tmp_path / "model")
    places = {"": "disk"}
    if where == "backbone":
        places = {name: "cpu" for name, _ in model.named_children()} | {"backbone": "disk"}
    room = None
    if where == "auto":  # half of it fits
        places, room = "auto", {"cpu": model.get_memory_footprint() // 2}
    loaded = TokMatForContinuousLM.from_pretrained(
        tmp_path / "model", device_map=places, max_memory=room, offload_folder=tmp_path / "offloaded"
    )
    assert "meta" in {weight.device.type for weight in loaded.backbone.parameters()}
    assert loaded.device.type == "cpu"
    assert torch.equal(loaded.generate(IDS, **given), expected)
