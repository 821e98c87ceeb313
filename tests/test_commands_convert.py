# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""From a saved autoregressive model to one with a tail beside it, by commands: convert, own-text, train, attach."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import assert_one_line_error, invoke
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from modeling_tokmat import TokMatForContinuousLM
from trainer.conversion import from_autoregressive
from trainer.recipes import SOURCE_TAIL
from trainer.tail_adapter import save_tail_adapter


@pytest.fixture
def source(tokenizer, tmp_path, monkeypatch):
    """A small random Llama with a chat template, in the working folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 1}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, tie_word_embeddings=True, **sizes)
    model = LlamaForCausalLM(config).eval()
    for name, value in tokens.items():
        setattr(model.generation_config, name, value)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(8)
    model.save_pretrained("source")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained("source")
    tokenizer.chat_template = None
    return "source"


def greedy(folder, prompt="Once upon a time", **settings):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    run = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None} | settings
    return model.generate(**tokenizer(prompt, return_tensors="pt", return_token_type_ids=False), **run)[0].tolist()


def test_convert_prints_how_near_it_is_and_keeps_text_and_template(source):
    result = invoke("convert", source, "converted")
    assert result.exit_code == 0, result.output
    assert "100.00%" in result.output and "perplexity" in result.output
    assert greedy("converted") == greedy(source)
    tokenizer = AutoTokenizer.from_pretrained("converted")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Once"}], tokenize=False) == "Once"
    assert invoke("convert", source, "again").exit_code == 0
    first, again = (TokMatForContinuousLM.from_pretrained(name).state_dict() for name in ("converted", "again"))
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    sphere = invoke("convert", source, "sphere", "--geometry", "sphere")
    assert sphere.exit_code == 0 and "has to be trained" in sphere.output


def test_a_tail_is_trained_saved_apart_attached_and_writes_the_same_text(source, story_file):
    assert invoke("convert", source, "converted", "--tail-adapter-rank", "2").exit_code == 0
    own = ("own-text", "converted", "--prompts", story_file, "--texts", "8", "--max-new-tokens", "24", "--batch-size")
    assert invoke(*own, "4", "--output", "own.jsonl").exit_code == 0
    flags = ("--max-steps", "2", "--per-device-train-batch-size", "2", "--block-size", "64", "--tail-metrics", "0")
    flags += ("--loop-share", "1", "--validation-fraction", "0.3", "--parallel-tails", "3", "--logging-steps", "1")
    start = ("train", "--model", "converted", "--train", "tail", "--data", "own.jsonl")
    other = invoke(*start, "--output-dir", "tail", "--tail-adapter-rank", "3")
    assert_one_line_error(other, "tokmat train: ", "has adapters of rank 2")
    trained = invoke(*start, "--output-dir", "tail", *flags)
    assert trained.exit_code == 0, trained.output
    assert "slot_acc_2" in trained.output
    before, after = (TokMatForContinuousLM.from_pretrained(name).state_dict() for name in ("converted", "tail"))
    changed = {name for name, weight in after.items() if name not in before or not torch.equal(weight, before[name])}
    assert changed and not any(name.startswith(("backbone.", "head.")) for name in changed)

    attached = invoke("attach", source, "tail", "attached")
    assert attached.exit_code == 0, attached.output
    assert "100.00%" in attached.output
    assert greedy("attached") == greedy(source) == greedy("attached", prompt_lookup_num_tokens=4)
    written = invoke("generate", "attached", "Once upon", "--prompt-lookup-num-tokens", "4", "--max-new-tokens", "8")
    assert written.exit_code == 0 and "Once upon" in written.output
    assert_one_line_error(invoke("attach", source, "tail", "attached"), "tokmat attach: ", "already holds a model")


SHIPPED_TAIL = Path(__file__).parents[1] / "checkpoints" / "smollm2-135m-instruct-tail"


def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(source):
    assert invoke("convert", source, "converted", "--tail-adapter-rank", "2").exit_code == 0
    for arguments, words in (
        (("attach", source, source, "out"), "holds no tail adapter"),
        (("attach", source, "nowhere", "out"), "nowhere"),
        (("attach", "nowhere", "converted", "out"), "holds no tail adapter"),
        (("attach", SHIPPED_TAIL, source, "out"), "the order is SOURCE ADAPTER OUT"),
        (("convert", source, "out", "--geometry", "sphere", "--tail-adapter-rank", "4"), '"sphere"'),
        (("convert", "nowhere.gguf", "out", "--gguf"), "there is no file nowhere.gguf"),
        (("convert", "converted", "out"), "converted is a TokMat model already"),
        (("attach", "converted", SHIPPED_TAIL, "out"), "converted is a TokMat model already"),
    ):
        assert_one_line_error(invoke(*arguments), "tokmat ", words)
    shutil.copytree(source, "windowed")
    path = Path("windowed/config.json")
    values = json.loads(path.read_text()) | {"sliding_window": 4, "model_type": "mistral"}
    path.write_text(json.dumps(values))
    assert_one_line_error(invoke("convert", "windowed", "out"), "tokmat convert: ", "sliding_window=4")
    assert not Path("out").exists()


def test_heads_and_vocabularies_that_do_not_fit_are_named(source, tokenizer):
    sizes = LlamaConfig.from_pretrained(source).to_dict() | {"tie_word_embeddings": False}
    words = sizes["vocab_size"]
    plain = {name: sizes[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    odd = LlamaForCausalLM(LlamaConfig.from_dict(sizes))
    odd.lm_head = torch.nn.Linear(32, words + 7, bias=False)
    few = LlamaForCausalLM(LlamaConfig.from_dict(sizes | {"vocab_size": 100}))
    narrow = OPTForCausalLM(OPTConfig(**plain, ffn_dim=64, word_embed_proj_dim=16))
    pooled = BertLMHeadModel(BertConfig(**plain, intermediate_size=64, is_decoder=True))
    models = {"odd": odd, "few": few, "narrow": narrow, "pooled": pooled, "mute": few}
    for name, model in models.items():
        model.save_pretrained(name)
        if name != "mute":
            tokenizer.save_pretrained(name)
    for name, expected in (
        ("odd", "odd cannot be loaded: its tensors have other sizes than its config.json says"),
        ("few", f"the tokenizer has {words} tokens, but few only 100"),
        ("narrow", f"opt with hidden states of size 32, embeddings of ({words}, 16)"),
        ("pooled", "a bert model whose decoder is not that of AutoModel: pooler"),
        ("mute", "mute holds no tokenizer"),
    ):
        assert_one_line_error(invoke("convert", name, "out"), "tokmat convert: ", expected)
    Path("file").write_text("")
    for place in ("file", "file/out"):
        assert_one_line_error(invoke("convert", source, place), "tokmat convert: ", f"{place} cannot be a folder")
    assert not Path("out").exists()


def test_a_damaged_tail_adapter_is_named(source):
    fields = SOURCE_TAIL | {"tail_adapter_rank": 2}
    save_tail_adapter(from_autoregressive(LlamaForCausalLM.from_pretrained(source), **fields), Path("tail"))
    path = Path("tail/tail_adapter_config.json")
    whole = json.loads(path.read_text())
    for part, value, words in (
        ("fingerprint", None, "`fingerprint` is None"),
        ("fingerprint", {}, "`row_norms` is None"),
        ("config", [1], "`config` is [1]"),
        ("config", whole["config"] | {"tail_adapter_rank": 3}, "rank 3 need"),
        ("config", whole["config"] | {"backbone_config": {}, "copy": True}, "`config` is ['backbone_config', 'copy']"),
        ("generation", whole["generation"] | {"tail_length": "x"}, "`tail_length` is 'x'"),
        ("generation", {"haste": 1}, "`generation` is ['haste']"),
    ):
        path.write_text(json.dumps(whole | {part: value}))
        assert_one_line_error(invoke("attach", source, "tail", "out"), "tokmat attach: ", words)
        assert not Path("out").exists()


@pytest.mark.parametrize("part", ["model.safetensors", "tokenizer.json", "adapter_config.json"])
def test_a_folder_that_holds_part_of_another_model_is_left_alone(source, part):
    Path("held").mkdir()
    Path("held", part).write_text("precious")
    for arguments in (("convert", source, "held"), ("attach", source, SHIPPED_TAIL, "held")):
        assert_one_line_error(invoke(*arguments), f"tokmat {arguments[0]}: ", f"held already holds {part}")
    assert [path.name for path in Path("held").iterdir()] == [part]
    assert Path("held", part).read_text() == "precious"
    Path("held", part).rename("held/notes.txt")
    assert invoke("convert", source, "held").exit_code == 0 and Path("held/notes.txt").read_text() == "precious"


def test_what_cannot_be_a_backbone_is_refused_before_its_weights_are_read(source, monkeypatch):
    monkeypatch.setattr("trainer.conversion.load_model", None)
    Path("nested").mkdir()
    Path("nested/config.json").write_text(json.dumps({"model_type": "gemma3"}))
    assert_one_line_error(
        invoke("convert", "nested", "out"), "tokmat convert: ", "'gemma3'", "backbone_config.model_type"
    )
