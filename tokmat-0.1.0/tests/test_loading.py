# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What is saved is loaded whole or not at all, and no code of a folder is run unasked."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import assert_one_line_error, invoke
from safetensors.torch import load_file, save_file

from modeling_tokmat import TokMatForContinuousLM
from trainer.checkpoints import load_config, load_model

pytestmark = pytest.mark.usefixtures("own_folder")

CODE = "from pathlib import Path\nPath('{mark}').write_text('run')\n"


def plant_code(folder: Path, mark: Path) -> None:
    """Code in a folder that leaves a mark when it is run, in place of any that is there."""
    for name in ("configuration_tokmat", "modeling_tokmat", "configuration_own", "modeling_own", "tokenization_own"):
        before = folder / f"{name}.py"
        text = before.read_text() if before.is_file() else "class OwnConfig: pass\nclass OwnModel: pass\n"
        before.write_text(CODE.format(mark=mark) + text)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "mark"


@pytest.fixture
def foreign(models, mark):
    """A folder whose model type nobody knows and which brings code."""
    shutil.copytree(models[2], "foreign")
    values = json.loads(Path("foreign/config.json").read_text())
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    values |= {"model_type": "own", "auto_map": auto_map}
    Path("foreign/config.json").write_text(json.dumps(values))
    plant_code(Path("foreign"), mark)
    return "foreign"


def test_commands_do_not_run_the_code_of_a_tokmat_folder(models, mark, story_file):
    shutil.copytree(models[0], "ours")
    plant_code(Path("ours"), mark)
    result = invoke("generate", "ours", "hello", "--max-new-tokens", 2)
    assert result.exit_code == 0, result.output
    flags = ["--block-size", 16, "--max-steps", 1, "--validation-fraction", 0, "--output-dir", "on"]
    assert invoke("train", "--data", story_file, "--model", "ours", *flags).exit_code == 0
    assert not mark.exists()
    assert type(load_model("ours")) is TokMatForContinuousLM


@pytest.mark.parametrize(
    "command",
    [
        "generate foreign hello",
        "train --data STORY --model foreign --output-dir out",
        "train --data STORY --model foreign --objective ar --output-dir out --block-size 16 --tokenizer MODEL",
        "evaluate MODEL --data STORY --judge foreign --prompts 2 --new-tokens 4 --mauve-continuations 0",
        "evaluate MODEL --data STORY --judge foreign --prompts 2 --new-tokens 4 --mauve-continuations 0 "
        "--trust-remote-code",
        "evaluate MODEL --data STORY --baseline foreign --prompts 2 --new-tokens 4",
        "own-text foreign --prompts STORY --output own.jsonl",
        "convert foreign converted",
    ],
)
def test_foreign_code_is_not_run_unasked(command, foreign, mark, models, story_file):
    known = {"STORY": str(story_file), "MODEL": str(models[0])}
    arguments = [known.get(word, word) for word in command.split()]
    expected = "not a TokMat model" if "ar" not in arguments and arguments[0] in ("generate", "train") else "own"
    assert_one_line_error(invoke(*arguments), f"tokmat {arguments[0]}: ", "foreign", expected)
    assert not mark.exists()


def test_a_judge_that_needs_code_is_refused_whether_or_not_it_is_a_baseline_too(foreign, mark, models, story_file):
    command = ["evaluate", models[0], "--data", story_file, "--prompts", 2, "--new-tokens", 4, "--judge", foreign]
    command += ["--mauve-continuations", 0]
    for trust in ([], ["--trust-remote-code"]):
        assert_one_line_error(invoke(*command, *trust), "--judge foreign needs code of its own, but")
        for baseline in (foreign, "./foreign/", Path(foreign).absolute()):
            result = invoke(*command, "--baseline", baseline, *trust)
            assert_one_line_error(result, "--judge foreign needs code of its own and is a --baseline too, but")
    assert not mark.exists()


@pytest.mark.parametrize("trust", [[], ["--trust-remote-code"]])
def test_a_judge_is_loaded_without_code_that_it_does_not_need(trust, mark, models, story_file, monkeypatch):
    loaded = []

    def load(name, *args, **kwargs):
        loaded.append((str(name), args[0]))
        return load_model(name, *args, **kwargs)

    monkeypatch.setattr("trainer.evaluation.run.load_model", load)
    shutil.copytree(models[2], "known")
    values = json.loads(Path("known/config.json").read_text())
    values["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnModel"}
    Path("known/config.json").write_text(json.dumps(values))
    plant_code(Path("known"), mark)
    command = ["evaluate", models[0], "--data", story_file, "--prompts", 2, "--new-tokens", 4, "--judge", "known"]
    command += ["--mauve-continuations", 0, "--seeds", 1, "--look-ahead", 0, "--output", "out"]
    result = invoke(*command, "--baseline", "./known", models[2], *trust)
    assert result.exit_code == 0, result.output
    # One copy of what is both, without its code; trust is for the others.
    assert loaded == [(str(models[0]), bool(trust)), ("./known", False), (str(models[2]), bool(trust))]
    assert "one of the baselines" in Path("out/results.md").read_text() and not mark.exists()


@pytest.mark.parametrize("kind", [["tokmat"], {"tokmat": 1}, 5])
def test_a_model_type_that_is_no_name_is_refused_in_one_line(kind, models):
    shutil.copytree(models[0], "ours")
    values = json.loads(Path("ours/config.json").read_text())
    Path("ours/config.json").write_text(json.dumps(values | {"model_type": kind}))
    for command in (["generate", "ours", "hello"], ["convert", "ours", "converted"]):
        assert_one_line_error(invoke(*command), "ours has the `model_type` ", "must be a name")
    for text in ("[]", '"x"', "3", "null"):
        Path("ours/config.json").write_text(text)
        assert_one_line_error(invoke("generate", "ours", "hello"), "ours")


def test_foreign_code_is_run_when_it_is_trusted(foreign, mark):
    with pytest.raises(ValueError, match="trust-remote-code"):
        load_config(foreign)
    with pytest.raises(Exception):  # noqa: B017 - that configuration is an empty class
        load_config(foreign, trust_remote_code=True)
    assert mark.exists()


# -- incomplete files -------------------------------------------------------------------------------------------------


def without(folder, *prefixes):
    """Take tensors out of a saved model."""
    path = Path(folder) / "model.safetensors"
    kept = {name: weight for name, weight in load_file(path).items() if not name.startswith(prefixes)}
    save_file(kept, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name", ["head.weight", "tail_length_film.table.weight", "backbone.h.1.ln_2.bias", "token_counts"]
)
def test_a_missing_tensor_is_refused_by_file_and_name(name, make_model):
    make_model(negatives="unigram").save_pretrained("saved")
    without("saved", name)
    with pytest.raises(ValueError, match="without") as error:
        TokMatForContinuousLM.from_pretrained("saved")
    assert "saved/model.safetensors" in str(error.value) and name in str(error.value)
    assert TokMatForContinuousLM.from_pretrained("saved", initialise_missing=True).head is not None


@pytest.mark.parametrize("part", ["tail_adapters", "successor", "lm_head"])
def test_what_was_saved_for_the_tail_is_missed_and_what_is_new_is_drawn(part, make_model):
    fields = {"geometry": "pretrained", "negatives": "all", "regression_weight": 0.0}
    parts = {"tail_adapter_rank": 2, "successor_head": True}
    make_model(**fields).save_pretrained("plain")
    loaded = TokMatForContinuousLM.from_pretrained("plain", **parts)
    assert loaded.tail_adapters is not None and loaded.successor is not None
    loaded.save_pretrained("whole")
    assert TokMatForContinuousLM.from_pretrained("whole").successor is not None
    without("whole", part)
    with pytest.raises(ValueError, match=part):
        TokMatForContinuousLM.from_pretrained("whole")


@pytest.mark.parametrize("text", ["", '{"tail_length": 5, "schedu'])
def test_damaged_settings_are_not_dropped(text, make_model):
    make_model().save_pretrained("saved")
    Path("saved/generation_config.json").write_text(text)
    with pytest.raises(ValueError, match="saved/generation_config.json is damaged"):
        TokMatForContinuousLM.from_pretrained("saved")


def test_commands_tell_what_is_incomplete(models, story_file):
    for source, name, tensor in ((models[0], "ours", "head.weight"), (models[2], "theirs", "model.norm.weight")):
        shutil.copytree(source, name)
        without(name, tensor)
        command = ["own-text", name, "--prompts", story_file, "--output", "own.jsonl", "--texts", 2]
        assert_one_line_error(invoke(*command), name, tensor)
    for file in ("generation_config.json", "tokenizer.json", "model.safetensors", "tokenizer_config.json"):
        shutil.copytree(models[0], file.replace(".", "-"))
        path = Path(file.replace(".", "-"), file)
        path.write_bytes(path.read_bytes()[:-40])
        result = invoke("generate", path.parent, "hello", "--max-new-tokens", 2)
        assert_one_line_error(result, str(path.parent))


def test_weights_of_another_shape_are_refused_in_one_line(models):
    shutil.copytree(models[0], "ours")
    weights = load_file("ours/model.safetensors")
    weights["head.weight"] = torch.zeros(3, 3)
    save_file(weights, "ours/model.safetensors", metadata={"format": "pt"})
    assert_one_line_error(invoke("generate", "ours", "hello", "--max-new-tokens", 2), "ours")
