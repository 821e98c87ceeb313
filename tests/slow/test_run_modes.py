# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Run modes that take long to compile, or need packages that are not installed by default."""

import pytest
import torch

from modeling_tokmat import TokMatForContinuousLM

pytestmark = pytest.mark.slow

IDS = torch.arange(2, 22).view(2, 10)
MATURITY = torch.tensor([[1.0] * 7 + [0.6, 0.3, 0.0]]).repeat(2, 1)


@torch.no_grad()
def test_flex_attention(make_model):
    model = make_model("llama")
    given = {"maturity": MATURITY, "tail_length": 3}
    expected = model(IDS, **given).logits
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(IDS, **given).logits, expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["gpt2", "llama"])
def test_a_step_runs_in_onnx_at_other_lengths(make_model, backbone, tmp_path):
    """`pip install onnx onnxscript onnxruntime`."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Step(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, maturity):
            return self.model(input_ids, maturity=maturity, use_cache=False).logits

    model, free = make_model(backbone), {0: "batch", 1: "length"}
    exported = torch.onnx.export(Step(model).eval(), (IDS, MATURITY), dynamo=True, dynamic_shapes=(free, free))
    exported.save(tmp_path / "step.onnx")
    session = runtime.InferenceSession(tmp_path / "step.onnx")
    ids, maturity = IDS.view(4, 5) + 40, MATURITY[:, 5:].repeat(2, 1)
    names = [node.name for node in session.get_inputs()]
    (logits,) = session.run(None, dict(zip(names, (ids.numpy(), maturity.numpy()))))
    torch.testing.assert_close(torch.tensor(logits), model(ids, maturity=maturity).logits, atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["gpt2", "llama"])
def test_int8_weights_of_torchao(make_model, backbone, tmp_path):
    """`pip install torchao`."""
    from transformers import TorchAoConfig

    quantization = pytest.importorskip("torchao.quantization")
    model = make_model(backbone)
    model.save_pretrained(tmp_path / "whole")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    small = TokMatForContinuousLM.from_pretrained(tmp_path / "whole", quantization_config=config).eval()
    assert any(type(weight).__name__ == "Int8Tensor" for weight in small.parameters())
    logits = small(IDS).logits
    cosine = torch.nn.functional.cosine_similarity(logits, model(IDS).logits, dim=-1)
    assert cosine.min() > 0.99
    assert small.generate(IDS, max_new_tokens=4, tail_length=3, eos_token_id=None).shape == (2, 14)
    small.save_pretrained(tmp_path / "small")
    again = TokMatForContinuousLM.from_pretrained(tmp_path / "small").eval()
    assert torch.equal(again(IDS).logits, logits)
