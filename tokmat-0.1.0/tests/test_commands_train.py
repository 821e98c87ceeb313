# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat train`: what it prints, what it leaves behind, how it exits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import TINY, assert_one_line_error, invoke
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from trainer import recipes, training_run

pytestmark = pytest.mark.usefixtures("own_folder")


def test_train_leaves_a_folder_that_loads_with_its_own_code(trained, tmp_path):
    folder, output = trained
    assert all(text in output for text in ("perplexity", "accuracy", "loss", "tokmat generate", str(folder)))
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert type(model).__module__.startswith('transformers_modules.'), type(model)\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "ids = model.generate(**tokenizer('Once', return_tensors='pt'), max_new_tokens=3)\n"
        "config, generation = model.config, model.generation_config\n"
        "for name in ('bos', 'eos', 'pad'):\n"
        "    token = getattr(tokenizer, f'{name}_token_id')\n"
        "    for holder in (config, config.backbone_config, generation):\n"
        "        assert getattr(holder, f'{name}_token_id') == token is not None\n"
        "assert config.vocab_size == len(tokenizer)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_MODULES_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, str(folder)], cwd=tmp_path, env=environment, check=True)


def test_defaults_of_a_model_from_scratch(trained):
    config = AutoConfig.from_pretrained(trained[0])
    assert (config.negatives, config.regression_weight, config.embedding_radius) == ("all", 0.1, 8.0)
    assert (config.max_tail_length, config.alpha_max) == (32, 0.9)


@pytest.mark.parametrize("kind", ["backbone file", "tokmat folder"])
def test_backbone_from_a_configuration_file(kind, story_file, tmp_path):
    backbone = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    config = backbone if kind == "backbone file" else TokMatConfig(backbone_config=backbone, logit_scale=7.0)
    config.save_pretrained(tmp_path / "made")
    source = tmp_path / "made" / ("config.json" if kind == "backbone file" else "")
    flags = ["--backbone", source, *TINY[2:], "--context_negatives", 2, "--max-steps", 1, "--validation-fraction", 0]
    result = invoke("train", "--data", story_file, "--output-dir", "out", *flags)
    assert result.exit_code == 0, result.output
    config = AutoConfig.from_pretrained("out")
    assert (config.hidden_size, config.vocab_size, config.context_negatives) == (32, 300, 2.0)
    if kind == "backbone file":
        assert (config.logit_scale, config.negatives, config.embedding_radius) == (20.0, "all", 32**0.5)
    else:  # the file's own fields win over the command's defaults
        assert (config.logit_scale, config.negatives, config.regression_weight) == (7.0, "uniform", 1.0)


def test_a_continued_model_keeps_its_fields_and_takes_the_flags_given(trained, story_file):
    flags = ["--max-steps", 1, "--block-size", 32, "--alpha-max", 0.8, "--learning-rate", 0, "--weight-decay", 0]
    result = invoke("train", "--data", story_file, "--model", trained[0], "--output-dir", "more", *flags)
    assert result.exit_code == 0, result.output
    config = AutoConfig.from_pretrained("more")
    assert (config.negatives, config.regression_weight, config.alpha_max) == ("all", 0.1, 0.8)
    assert json.loads(Path("more/generation_config.json").read_text())["alpha_max"] == 0.8
    before, after = (load_file(folder / "model.safetensors") for folder in (trained[0], Path("more")))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (trained[0] / "tokenizer.json").read_text() == Path("more/tokenizer.json").read_text()


def test_streaming(story_file):
    flags = ["--streaming", "--validation-data", story_file, "--max-steps", 2, "--eval-steps", 1]
    result = invoke("train", "--data", story_file, "--output-dir", "out", *TINY, *flags)
    assert result.exit_code == 0, result.output
    assert "perplexity" in result.output


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("--learning-rat 1", "did you mean --learning-rate?"),
        ("--learning-rate fast", "invalid float value: 'fast'"),
        ("--packing maybe", "--packing"),
        ("--data nowhere.txt", "nowhere.txt"),
        ("--data empty.txt", "no document with text"),
        ("--block-size 4096 --max-steps 1 --backbone small", "block_size=4096"),
        ("--block-size 2048 --data long.txt", "2048 is more than the model's 1024 positions"),
        ("--negatives nearest", "`negatives` is 'nearest'"),
        ("--max-tail-length 65", "`max_tail_length` is 65"),
        ("--tail-data x.txt --tail-share 1.5", "`tail_share` is 1.5"),
        ("--tail-data x.txt --streaming --max-steps 2", "--tail-data cannot be mixed into a stream"),
        ("--objective ar --tail-data x.txt", "--objective ar has no tails"),
        ("--objective ar --alpha-max 0.5", "--objective ar has no maturation, so --alpha-max means nothing"),
        ("--backbone huge", "neither a preset"),
        ("--backbone broken.json", "is not JSON"),
        ("--backbone bert.json", "bert"),
        ("--backbone wrong.json", "hidden_size"),
        ("--model MODEL --negatives nearest", "`negatives` is 'nearest'"),
        ("--model nowhere", "there is no folder nowhere"),
        ("--model . --backbone tiny", "give one of them"),
        ("--vocab-size 10", "vocab_size=10"),
        ("--warmup-steps -1", "warmup_steps"),
        ("--slot-metrics 99", "`slot_metrics` is 99"),
        ("--resume-from-checkpoint nowhere", "nowhere: the folder does not exist"),
    ],
)
def test_errors_of_train_are_one_line(flags, expected, story_file, trained):
    Path("empty.txt").write_text("\n<|endoftext|>\n\n")
    Path("long.txt").write_text("\n<|endoftext|>\n".join(["many words " * 2000] * 3))
    Path("broken.json").write_text("{")
    Path("bert.json").write_text('{"model_type": "bert"}')
    Path("wrong.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    flags = flags.replace("MODEL", str(trained[0]))
    data = [] if "--data" in flags else ["--data", story_file]
    backbone = [] if "--model" in flags or "--backbone" in flags else TINY[:2]
    result = invoke("train", *data, "--output-dir", "out", *backbone, *TINY[2:], *flags.split())
    assert_one_line_error(result, "tokmat train: ", expected)
    assert not Path("out").exists()  # nothing was begun


def test_the_baseline_is_trained_converted_and_trained_on(story_file):
    """The same batches by transformers' Trainer; its packed documents stay apart; TokMat goes on from its weights."""

    flags = ["--data", story_file, *TINY, "--output-dir", "ar", "--objective", "ar"]
    result = invoke("train", *flags)
    assert result.exit_code == 0, result.output
    assert json.loads(Path("ar/eval_results.json").read_text())["eval_perplexity"] > 1
    baseline = AutoModelForCausalLM.from_pretrained("ar")
    assert baseline.config.model_type == "llama" and baseline.config.use_cache
    assert (
        baseline.config.tie_word_embeddings
        and baseline.get_output_embeddings().weight is baseline.get_input_embeddings().weight
    )
    assert invoke("convert", "ar", "converted").exit_code == 0
    assert_one_line_error(invoke("convert", "ar", "converted"), "tokmat convert: ", "already holds a model")
    model = TokMatForContinuousLM.from_pretrained("converted")
    for name, weight in baseline.base_model.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], weight), name
    flags_on = ["--block-size", 32, "--max-steps", 1, "--output-dir", "on"]
    result = invoke("train", "--data", story_file, "--model", "converted", *flags_on)
    assert result.exit_code == 0, result.output
    flags[flags.index("--max-steps") + 1] = "5"
    again = invoke("train", *flags, "--resume-from-checkpoint", "last", "--overwrite")
    assert again.exit_code == 0, again.output


def test_look_ahead_stands_for_its_settings(trained, story_file):
    flags = ["--data", story_file, "--model", trained[0], "--look-ahead", "--parallel-tails", 2, "--max-steps", 1]
    result = invoke("train", *flags, "--block-size", 32, "--output-dir", "ahead")
    assert result.exit_code == 0, result.output
    config = AutoConfig.from_pretrained("ahead", trust_remote_code=True)
    expected = recipes.LOOK_AHEAD | {"parallel_tails": 2}
    assert {name: getattr(config, name) for name in expected} == expected
    model = TokMatForContinuousLM.from_pretrained("ahead")
    assert model.generation_config.tail_length == 8


def test_tail_data_is_mixed_in_and_marked(story_file, tmp_path, monkeypatch):
    seen = []
    mix = training_run.with_tail_rows
    monkeypatch.setattr(training_run, "with_tail_rows", lambda *args: seen.append(mix(*args)) or seen[-1])
    own = tmp_path / "own.txt"
    own.write_text("The fox went home. The fox slept.\n<|endoftext|>\n" * 12, encoding="utf-8")
    flags = ["--data", story_file, "--tail-data", own, "--tail-share", 0.4, "--block-size", 16, "--vocab-size", 300]
    flags += ["--backbone", "tiny", "--max-steps", 2, "--parallel-tails", 3, "--film-scope", "tail"]
    result = invoke("train", *flags, "--output-dir", "own-model")
    assert result.exit_code == 0, result.output
    (rows,) = seen
    marked = [row["input_ids"] for row in rows if row["tail_only"]]
    assert 0.3 < len(marked) / len(rows) < 0.5
    assert len({tuple(ids) for ids in marked}) < len(marked)  # the rarer kind, repeatedly


def test_a_tokenizer_of_ones_own(tokenizer, story_file):
    tokenizer.save_pretrained("tokens")
    flags = [*TINY, "--tokenizer", "tokens", "--max-steps", 1, "--validation-fraction", 0]
    assert invoke("train", "--data", story_file, "--output-dir", "out", *flags).exit_code == 0
    assert AutoTokenizer.from_pretrained("out").get_vocab() == tokenizer.get_vocab()
