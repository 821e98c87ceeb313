# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What of a folder goes up, and what must not: without any network."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import assert_one_line_error, invoke
from huggingface_hub import RepoCard

from trainer.hub import prepare, push

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "hub_cards"


@pytest.fixture
def folder(trained, tmp_path):
    """A finished training run, whose card was written by hand."""
    shutil.copytree(trained[0], tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    return tmp_path / "model"


def test_weights_code_tokenizer_settings_and_card_go_up_and_nothing_else(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "tail.png").write_bytes(b"\x89PNG")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"")
    upload = prepare(folder)
    code = {path.name for path in (ROOT / "modeling_tokmat").glob("*_tokmat.py")}
    assert upload.files.keys() >= code and upload.repo_type == "model"
    assert upload.files.keys() - code == {
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("README.md", "eval_results.json", "origin.json", "tail.png"),
    }
    assert upload.files["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert upload.left_out == {
        **dict.fromkeys(("checkpoint-2/", "checkpoint-4/", "training_args.bin"), "state of training"),
        **{"trainer_state.json": "state of training", "notes.txt": "not part of a model"},
    }


def test_a_dry_run_lists_files_with_sizes_and_touches_no_network(folder, monkeypatch):
    monkeypatch.setattr("trainer.commands.push.push", None)
    (folder / "README.md").unlink()
    result = invoke("push", folder, "me/story", "--dry-run", "--revision", "v1")
    assert result.exit_code == 0, result.output
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size / 1e3:.1f} kB  model.safetensors" in result.output and "modeling_tokmat.py" in result.output
    assert "README.md, a card that is made first" in result.output and "revision v1" in result.output
    assert "Left out: training_args.bin (state of training)" in result.output
    assert "checkpoint-4/ (state" in result.output and not (folder / "README.md").exists()


SECRET = "hf_" + "Q" * 34


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pytorch_model.bin", "", "pytorch_model.bin is a pickle"),
        ("weights.pt", "", "weights.pt is a pickle"),
        ("old/state.PKL", "", "state.PKL is a pickle"),
        ("README.md", f"log in with {SECRET}", "README.md holds what looks like a secret of the Hub, hf_QQQ..."),
        ("origin.json", json.dumps({"key": "sk-proj-" + "a1" * 20}), "a secret of OpenAI or Anthropic"),
        ("README.md", "-----BEGIN RSA PRIVATE KEY-----", "a secret of a private key"),
        ("origin.json", '{"data": ["/somewhere/of/mine.txt"]}', "origin.json holds '/somewhere/of/mine.txt', a path"),
        ("origin.json", '{"data": {"deep": ["C:\\\\Users\\\\me"]}}', "a path of this machine"),
        ("README.md", "trained on `/home/me/stories.txt`", "README.md holds '/home/me/stories.txt', a path"),
        ("model.safetensors", "pickled", "model.safetensors is damaged"),
        ("config.json", "{", "config.json is damaged"),
        ("generation_config.json", None, "is damaged|cannot be read"),
        ("modeling_tokmat.py", None, "modeling_tokmat.py, which belongs to it, is not there"),
        ("model.safetensors", None, "has config.json but no weights"),
        ("config.json", None, "holds nothing to push"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
            "model-00001-of-00002.safetensors, which belongs to it, is not there",
        ),
    ],
)
def test_what_must_not_go_up_is_refused_by_name(folder, name, content, message):
    if name == "generation_config.json":
        content = "[1"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")) as error:
        prepare(folder)
    assert SECRET not in str(error.value)


def test_large_files_are_refused(folder):
    result = invoke("push", folder, "me/story", "--dry-run", "--max-file-gb", "0.0001")
    assert_one_line_error(result, "model.safetensors has ", "more than 0.0001 GB a file")


def test_urls_tokens_of_a_vocabulary_and_the_usual_words_are_no_paths(folder):
    card = "see https://huggingface.co/data/x and and/or, `docs/home/x.md`, </s>, 1/2, #!/usr/bin/env python"
    (folder / "README.md").write_text(card)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    vocabulary["added_tokens"].append({"id": 299, "content": "/home/me"} | dict.fromkeys(
        ("single_word", "lstrip", "rstrip", "normalized", "special"), False
    ))  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert "tokenizer.json" in prepare(folder).files


def test_adapters_plugin_and_metrics_can_be_pushed(make_converted, tmp_path):
    from trainer.tail_adapter import save_tail_adapter

    save_tail_adapter(make_converted(), tmp_path, "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert prepare(tmp_path).files.keys() == {"tail_adapter.safetensors", "tail_adapter_config.json"}
    shipped = prepare(ROOT / "checkpoints" / "smollm2-135m-instruct-tail")
    assert shipped.files.keys() == {"README.md", "tail_adapter.safetensors", "tail_adapter_config.json"}
    plugin = prepare(CARDS / "maturation_generate")
    assert plugin.files.keys() == {"README.md", "custom_generate/generate.py"} and plugin.repo_type == "model"
    for name in ("degeneration", "self_bleu"):
        metric = prepare(CARDS / name)
        assert metric.files.keys() == {"README.md", "app.py", f"{name}.py", "requirements.txt"}
        assert (metric.repo_type, metric.sdk) == ("space", "gradio") and not metric.left_out


@pytest.mark.parametrize("path", sorted(CARDS.glob("*/README.md")), ids=lambda path: path.parent.name)
def test_shipped_cards_have_a_front_matter(path):
    data = RepoCard.load(path).data
    assert data["license"] == "apache-2.0" and "token-maturation" in data["tags"]


@pytest.mark.parametrize("repo_id", ["story", "me/story/more", "me/", "/story", "me/st ory", "me/" + "x" * 100])
def test_a_wrong_name_is_refused_first(repo_id, tmp_path):
    assert_one_line_error(invoke("push", tmp_path / "nothing", repo_id), f"REPO_ID is {repo_id!r}", "owner/name")


def test_without_token_or_network_nothing_is_made(folder, monkeypatch):
    """The tests run offline; a card would be a change too."""
    (folder / "README.md").unlink()
    monkeypatch.setattr("trainer.hub.get_token", lambda: None)
    assert_one_line_error(invoke("push", folder, "me/story"), "there is no token for the Hub", "hf auth login")
    assert not (folder / "README.md").exists()
    with pytest.raises(OSError, match="the push to me/story did not finish: the Hub cannot be reached"):
        push(prepare(folder), "me/story", token="hf_" + "w" * 34)
    assert_one_line_error(invoke("push", folder / "none", "me/story"), "there is no folder")


def test_weights_under_a_training_name_are_left_out(folder):
    torch.save({}, folder / "optimizer.pt")
    shutil.copy(folder / "model.safetensors", folder / "optimizer.safetensors")
    assert {"optimizer.pt", "optimizer.safetensors"} <= prepare(folder).left_out.keys()
