# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The command line as a user meets it: what it prints, what it leaves behind, how it exits."""

import dataclasses
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from typer.testing import CliRunner

from modeling_tokmat import MaturationSettings, TokMatConfig, TokMatForContinuousLM
from modeling_tokmat.configuration_tokmat import tokmat_fields
from trainer import cli, recipes, training_run
from trainer.arguments import optional_fields
from trainer.checkpoints import last_complete_checkpoint, missing_from
from trainer.commands.train import make_parser
from trainer.training_args import TokMatTrainingArguments

TINY = (
    "--backbone tiny --max-steps 4 --block-size 32 --vocab-size 300 --per-device-train-batch-size 4 --seed 3".split()
)
PROMPT = "Once upon a time"


@pytest.fixture(autouse=True)
def quiet_cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKMAT_DEBUG", raising=False)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def start(*arguments, **kwargs):
    """The command as a process of its own."""
    command = [sys.executable, "-c", "from trainer.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    return subprocess.Popen(command, env=environment, **kwargs)


def assert_one_line_error(result, *expected):
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("tokmat ")]
    assert len(lines) == 1 and "usage" not in result.output and "Traceback" not in result.output
    assert result.stderr.rstrip().endswith(lines[0])
    for text in expected:
        assert text in lines[0]


@pytest.fixture(scope="session")
def trained(story_file, tmp_path_factory):
    """(output folder, what was printed) of a finished run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    result = invoke(
        "train", "--data", story_file, "--output-dir", folder, *TINY, "--save-steps", 2, "--logging-steps", 1
    )
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_help_lists_the_commands():
    output = invoke("--help").output
    assert all(name in output for name in ("train", "generate", "demo"))


def test_top_level_help_does_not_import_torch():
    script = "import sys; from trainer.cli import app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_every_field_is_a_flag_in_both_spellings():
    flags = make_parser()._option_string_actions
    init = [item.name for item in dataclasses.fields(TokMatTrainingArguments) if item.init]
    assert len(init) > 100
    for name in [*init, "embedding_radius", "negatives", "text_column"]:
        assert {f"--{name}", f"--{name.replace('_', '-')}"} <= set(flags), name
    values = make_parser().parse(
        "--data a b --learning_rate 0.5 --adam-beta2 0.5 --freeze-embeddings --max_tail_length 4".split()
    )
    assert values["data"] == ["a", "b"] and values["learning_rate"] == 0.5 and values["adam_beta2"] == 0.5
    assert values["freeze_embeddings"] is True and values["max_tail_length"] == 4
    assert values["weight_decay"] == 0.1 and values["alpha_max"] is None  # the command's default, and "not given"


def test_every_field_of_the_configuration_has_a_help_text():
    names = tokmat_fields()
    documented = optional_fields(TokMatConfig, "title", names).__dataclass_fields__
    assert [name for name in names if not documented[name].metadata["help"]] in ([], ["tie_word_embeddings"])


def test_every_maturation_setting_is_an_option():
    output = invoke("generate", "--help").output
    names = {item.name for item in dataclasses.fields(MaturationSettings)} - {"output_maturation"}
    assert [name for name in names if f"--{name.replace('_', '-')}" not in output] == []


def test_help_of_train_and_generate():
    for command, flags in (("train", ["--data", "--learning-rate", "--context-negatives"]), ("generate", ["--watch"])):
        result = invoke(command, "--help")
        assert result.exit_code == 0 and all(flag in result.output for flag in flags)


# -- train ------------------------------------------------------------------------------------------------------------


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


def test_debug_shows_the_traceback(monkeypatch):
    assert isinstance(invoke("train", "--data", "nowhere.txt", "--debug").exception, FileNotFoundError)
    monkeypatch.setenv("TOKMAT_DEBUG", "1")
    assert isinstance(invoke("generate", "nowhere", "hello").exception, FileNotFoundError)


def test_the_baseline_is_trained_converted_and_trained_on(story_file):
    """The same batches by transformers' Trainer; its packed documents stay apart; TokMat goes on from its weights."""
    from transformers import AutoModelForCausalLM

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


def test_a_used_output_folder_is_refused_and_overwritten_on_demand(trained, story_file, tmp_path):
    shutil.copytree(trained[0], "out")
    flags = ["train", "--data", story_file, "--output-dir", "out", *TINY, "--max-steps", 1]
    assert_one_line_error(invoke(*flags), "a finished model", "--resume-from-checkpoint last", "--overwrite")
    Path("out/config.json").unlink()
    assert_one_line_error(invoke(*flags), "checkpoints", "--resume-from-checkpoint last", "--overwrite")
    assert invoke(*flags, "--overwrite").exit_code == 0
    assert [path.name for path in Path("out").glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_tokenizer_of_ones_own(tokenizer, story_file):
    tokenizer.save_pretrained("tokens")
    flags = [*TINY, "--tokenizer", "tokens", "--max-steps", 1, "--validation-fraction", 0]
    assert invoke("train", "--data", story_file, "--output-dir", "out", *flags).exit_code == 0
    assert AutoTokenizer.from_pretrained("out").get_vocab() == tokenizer.get_vocab()


# -- interrupted and resumed ------------------------------------------------------------------------------------------


def same_weights(one, other):
    one, other = (load_file(Path(folder) / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_resuming_skips_a_half_written_checkpoint_and_ends_with_the_same_weights(trained, story_file):
    shutil.copytree(trained[0], "out")
    Path("out/config.json").unlink()
    Path("out/model.safetensors").unlink()
    Path("out/checkpoint-4/trainer_state.json").write_text('{"epoch": ')  # killed while it was written
    assert missing_from(Path("out/checkpoint-4")) == ["trainer_state.json"]
    assert last_complete_checkpoint(Path("out")) == Path("out/checkpoint-2")
    flags = [*TINY, "--save-steps", 2, "--logging-steps", 1, "--resume-from-checkpoint", "last"]
    result = invoke("train", "--data", story_file, "--output-dir", "out", *flags)
    assert result.exit_code == 0, result.output
    assert "Skipping out/checkpoint-4: incomplete, without trainer_state.json" in result.output
    assert same_weights("out", trained[0])


def test_without_a_complete_checkpoint_resuming_begins_anew(story_file):
    Path("out/checkpoint-2").mkdir(parents=True)
    result = invoke(
        "train",
        "--data",
        story_file,
        "--output-dir",
        "out",
        *TINY,
        "--max-steps",
        1,
        "--resume-from-checkpoint",
        "last",
    )
    assert result.exit_code == 0, result.output
    assert "begins at step 0" in result.output


LONGER = [*TINY, "--max-steps", 60, "--logging-steps", 1, "--validation-fraction", 0]


@pytest.fixture(scope="module")
def whole_run(story_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    assert invoke("train", "--data", story_file, "--output-dir", folder, *LONGER).exit_code == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_from_which_training_ends_as_without_it(number, story_file, whole_run):
    command = ["train", "--data", story_file, "--output-dir", "out", *LONGER]
    process = start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "'loss'" in line:
            break
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(60) == 128 + number, rest
    assert "Go on with the same command and --resume-from-checkpoint last" in rest
    (checkpoint,) = Path("out").glob("checkpoint-*")
    assert not missing_from(checkpoint) and 0 < int(checkpoint.name.partition("-")[2]) < 60

    result = invoke(*command, "--resume-from-checkpoint", "last")
    assert result.exit_code == 0, result.output
    assert same_weights("out", whole_run)


# -- generate ---------------------------------------------------------------------------------------------------------


def expected_text(folder, prompt, **settings):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = model.eval().generate(**tokenizer(prompt, return_tensors="pt"), **settings)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def test_generate_prints_the_text_with_and_without_watch(trained):
    expected = expected_text(trained[0], PROMPT, max_new_tokens=12, tail_length=4, rate="consistent", alpha_max=1.0)
    settings = ["--tail_length", 4, "--rate", "consistent", "--alpha-max", 1.0]
    for extra in ([], ["--watch"], ["--dtype", "float32"]):
        result = invoke("generate", trained[0], *extra, PROMPT, "--max-new-tokens", 12, *settings)
        assert (result.exit_code, result.stdout) == (0, expected + "\n")


def test_generate_several_prompts_as_one_batch(trained):
    prompts = [PROMPT, "The fox"]
    texts = [expected_text(trained[0], prompt, max_new_tokens=8) for prompt in prompts]
    for extra in ([], ["--watch"]):
        result = invoke("generate", trained[0], *prompts, "--max-new-tokens", 8, *extra)
        assert result.stdout == f"[0] {texts[0]}\n[1] {texts[1]}\n"
    result = invoke("generate", trained[0], "Fox", "--max-new-tokens", 4, "--num-return-sequences", 3)
    assert [line[:3] for line in result.stdout.splitlines() if line.startswith("[")] == ["[0]", "[1]", "[2]"]


def test_generate_from_an_empty_prompt_begins_with_bos(trained):
    expected = expected_text(trained[0], "<|endoftext|>", max_new_tokens=6)
    for prompts in ([], [""]):
        assert invoke("generate", trained[0], *prompts, "--max-new-tokens", 6).stdout == expected + "\n"


def test_generate_watch_on_a_terminal(trained):
    expected = expected_text(trained[0], PROMPT, max_new_tokens=10)
    ours, theirs = pty.openpty()
    process = start(
        "generate", trained[0], PROMPT, "--max-new-tokens", 10, "--watch", stdout=theirs, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    output, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            output += part
    os.close(ours)
    assert process.wait(10) == 0
    output = output.decode()
    assert "\x1b[38;" in output and "\x1b[J" in output  # coloured by maturity, redrawn in place
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output.split("\x1b[J")[-1])
    assert "".join(plain.split()) == "".join(expected.split())


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("nowhere hello", "there is no folder nowhere"),
        ("./nowhere/at/all hello", "there is no folder ./nowhere/at/all"),
        ("MODEL hello --tail-length 0", "`tail_length` is 0"),
        ("MODEL hello --tail-length two", "invalid int value"),
        ("MODEL hello --rate slow", "`rate` is 'slow'"),
        ("MODEL hello --max-new-tokens 0", "`max_new_tokens` is 0"),
        ("MODEL hello --max-new-tokens 2000", "too many for the model's 1024 positions"),
        ("MODEL hello --dtype float8", "--dtype"),
        ("MODEL hello --tail-lenght 3", "did you mean --tail-length?"),
        ("gpt hello", "there is no folder gpt"),
        ("other hello", "not a TokMat model"),
        ("", "required: model"),
    ],
)
def test_errors_of_generate_are_one_line(flags, expected, trained):
    LlamaConfig().save_pretrained("other")
    flags = [str(trained[0]) if flag == "MODEL" else flag for flag in flags.split()]
    result = invoke("generate", *flags)
    assert_one_line_error(result, "tokmat generate: ", expected)
    assert result.stdout == ""


def test_an_interrupted_folder_points_to_its_checkpoint(trained):
    shutil.copytree(trained[0] / "checkpoint-4", "out/checkpoint-4")
    for name in ("tokenizer.json", "tokenizer_config.json"):  # saved before training begins
        shutil.copy(trained[0] / name, "out")
    assert_one_line_error(invoke("generate", "out", "hello"), "its last checkpoint is out/checkpoint-4")


# -- demo -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_demo(monkeypatch):
    monkeypatch.setattr(recipes, "DEMO", {"backbone": "tiny", "vocab_size": 300, "block_size": 32})


def test_demo_trains_reloads_and_shows_the_tail(small_demo, story_file, capfd):
    arguments = ["--output-dir", "demo", "--steps", 3, "--data", story_file]
    first = invoke("demo", *arguments)
    shown = capfd.readouterr().out  # of the fresh process
    assert first.exit_code == 0, first.output
    assert "Training 3 steps: about" in first.output and "Held-out perplexity: " in first.output
    assert "Code: transformers_modules." in shown and shown.count("tail: ") > 2
    assert all(prompt in shown for prompt in recipes.DEMO_PROMPTS)

    again = invoke("demo", *arguments)
    assert again.exit_code == 0 and "already holds a trained model" in again.output
    assert capfd.readouterr().out.strip() == shown.strip()


def test_demo_goes_on_where_it_was_interrupted(small_demo, trained, story_file, monkeypatch):
    seen = []
    monkeypatch.setattr("trainer.commands.demo.fit", lambda plan: seen.append(plan) or 130)
    shutil.copytree(trained[0] / "checkpoint-4", "demo/checkpoint-4")
    assert invoke("demo", "--output-dir", "demo", "--steps", 9).exit_code == 130
    (plan,) = seen
    assert plan.training["resume_from_checkpoint"] == "last" and plan.go_on == "tokmat demo --output-dir demo"


def test_show_uses_no_modelling_code_of_ours():
    script = "import sys, trainer.show; sys.exit('modeling_tokmat' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_presets_are_models(tokenizer):
    from trainer.models import make_model
    from trainer.recipes import PRESETS

    for name in ("tiny", "small"):
        model = make_model(None, name, {}, tokenizer)
        assert isinstance(model, TokMatForContinuousLM) and model.config.vocab_size == len(tokenizer)
    assert set(PRESETS) == {"tiny", "small", "gpt2", "gpt2-medium"}
