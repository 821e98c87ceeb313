# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Presets, and models made of others."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from modeling_tokmat import TokMatForContinuousLM


def test_presets_are_models(tokenizer):
    from trainer.models import make_model
    from trainer.recipes import PRESETS

    for name in ("tiny", "small"):
        model = make_model(None, name, {}, tokenizer)
        assert isinstance(model, TokMatForContinuousLM) and model.config.vocab_size == len(tokenizer)
    assert set(PRESETS) == {"tiny", "small", "gpt2", "gpt2-medium"}


def test_a_converted_model_ranks_tokens_like_its_source(models):
    """With one table for input and output, and rows of nearly one norm, as a fresh one has."""
    tokmat = AutoModelForCausalLM.from_pretrained(models[0], trust_remote_code=True).eval()
    source = AutoModelForCausalLM.from_pretrained(models[2]).eval()
    ids = torch.randint(2, 200, (4, 12))
    with torch.no_grad():
        ours, theirs = tokmat(ids), source(ids)
    cosine = torch.nn.functional.cosine_similarity(ours.logits, theirs.logits, dim=-1)
    assert cosine.mean() > 0.9
    radius = tokmat.embedding_radius
    assert radius == pytest.approx(source.get_input_embeddings().weight.norm(dim=-1).mean().item(), rel=1e-4)
    assert ours.predicted_embeds.norm(dim=-1).mean().item() == pytest.approx(radius, rel=0.3)


@pytest.mark.parametrize("named", [torch.device("cuda"), RuntimeError("no accelerator device"), None])
def test_where_torch_finds_no_accelerator_the_cpu_computes(monkeypatch, named):
    def current_accelerator():  # torch names what it was built for; 2.6 refuses
        if isinstance(named, Exception):
            raise named
        return named

    from trainer.models import machine_device

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    assert machine_device() == torch.device("cpu")
