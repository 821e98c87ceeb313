# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what they say is what the files say, and the snippet in them runs."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from command_line import assert_one_line_error, invoke
from huggingface_hub import ModelCard
from PIL import Image

from trainer.cards import CardOptions, make_card, write_card
from trainer.checkpoints import load_model, load_tokenizer, save_origin
from trainer.conversion import from_autoregressive
from trainer.hub import prepare
from trainer.tail_adapter import attach_folder, save_tail_adapter
from trainer.training_run import TrainingPlan, origin_of

FEW = "--prompts 3 --prompt-tokens 6 --new-tokens 10 --seeds 1 --mauve-continuations 0".split()


@pytest.fixture
def folder(models, tmp_path):
    shutil.copytree(models[0], tmp_path / "one")
    return tmp_path / "one"


@pytest.fixture(scope="module")
def results(models, story_file, tmp_path_factory):
    """The results of two models, of which one is the card's."""
    out = tmp_path_factory.mktemp("results")
    names = [models[0], models[1], "--baseline", models[2], "--judge", models[2]]
    result = invoke("evaluate", *names, "--data", story_file, *FEW, "--output", out)
    assert result.exit_code == 0, result.output
    return out


def section(card, title):
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", str(card), re.MULTILINE | re.DOTALL)
    return found[1] if found else None


def test_a_card_shows_what_was_measured_and_what_its_snippet_printed(folder, results):
    shutil.copy(results.parent / results.name / "results.json", folder.parent / "elsewhere.json")
    flags = ["--repo-id", "me/story", "--license", "mit", "--data-license", "CDLA-Sharing-1.0", "--language", "en"]
    result = invoke("card", folder, "--results", results / "results.json", *flags, "--dataset", "me/stories")
    assert result.exit_code == 0, result.output
    card = ModelCard.load(folder / "README.md")
    data, saved = card.data, json.loads((results / "results.json").read_text())
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.tags == ["custom_code", "token-maturation", "arxiv:2601.04854"]
    assert (data.license, data.language, data.datasets, data.base_model) == ("mit", "en", ["me/stories"], None)

    row = next(row for row in saved["decoders"] if row["name"] == "tokmat (one)")
    names = ["dist_1", "dist_2", "rep_2", "rep_3", "rep_4", "loop", "judge_perplexity", "held_out_perplexity"]
    shown = {entry.metric_type: entry for entry in data.eval_results}
    assert list(shown) == names and data.model_name == "story"
    for name in names:
        entry = shown[name]
        assert entry.metric_value == round(row[name][0], 4)
        assert entry.metric_args["interval"] == [round(value, 4) for value in row[name][1:]]
        assert entry.dataset_args == {"prompts": 3, "prompt_tokens": 6, "new_tokens": 10, "seeds": 1}
    assert shown["judge_perplexity"].metric_args["judge"] == "ar-one" and shown["rep_2"].dataset_name == "stories.txt"
    measured = section(card, "What was measured")
    table = (results / "results.md").read_text()
    assert table.strip() in measured and "the row tokmat (one)" in measured
    assert f"<sub>From `{saved['command']}`</sub>" in measured
    assert saved["command"].startswith("tokmat evaluate one two --baseline ar-one --judge ar-one --data stories.txt")

    load = section(card, "Load it")
    (snippet,) = re.findall(r"```python\n(.*?)```", load, re.DOTALL)
    printed, tail = re.findall(r"````text\n(.*?)\n````", load, re.DOTALL)
    prompt = json.loads((results / "samples.json").read_text())[0]["prompt"]
    assert json.dumps(prompt, ensure_ascii=False) in snippet and printed.startswith(prompt)
    code = snippet.replace('"me/story"', json.dumps(str(folder)))
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder.parent)
    assert again.returncode == 0 and again.stdout == printed + "\n", again.stderr
    lines = tail.splitlines()
    assert [line[:7] for line in lines] == ["step  1", "step 10", "step 20", "step 30"]
    assert all(re.search(r"\|  '.*' 0\.9\d?", line) for line in lines)
    assert "![How the sample matured, step by step](pictures/heatmap.png)" in load
    with Image.open(folder / "pictures" / "heatmap.png") as image:
        image.load()
    assert not list(folder.glob(".card-*")) and "losses" not in str(card)
    assert "CDLA-Sharing-1.0" in section(card, "Licence") and "Apache-2.0" in section(card, "Licence")
    assert "2601.04854" in section(card, "Citation") and "It continues text" in section(card, "Use and limits")


def test_what_is_not_known_is_left_out(folder):
    card = make_card(folder, CardOptions(sample=False))
    for title in ("What was measured", "How it was trained"):
        assert section(card, title) is None
    text = str(card)
    assert "model-index" not in text and "license:" not in text and "was run" not in text and "None" not in text
    (folder / "tail.png").write_bytes(b"\x89PNG")
    (folder / "eval_results.json").write_text('{"eval_perplexity": 12.34567, "eval_accuracy": 0.5, "epoch": 3}')
    card = make_card(folder, CardOptions(sample=False))
    assert "![tail.png](tail.png)" in str(card) and "12.35" in section(card, "What was measured")
    assert card.data.eval_results is None  # nobody knows on which text
    save_origin(folder, data=["stories.txt"])
    found = make_card(folder, CardOptions(sample=False)).data.eval_results
    assert {(entry.metric_type, entry.metric_value) for entry in found} == {("perplexity", 12.3457), ("accuracy", 0.5)}
    assert {entry.dataset_name for entry in found} == {"stories.txt (held out)"}


def test_a_training_run_notes_what_a_card_tells(trained, story_file, tmp_path):
    origin = json.loads((trained[0] / "origin.json").read_text())
    assert origin["data"] == ["stories.txt"] and "datasets" not in origin and "base_model" not in origin
    assert origin["settings"].items() >= {"per_device_train_batch_size": 4, "seed": 3, "block_size": 32}.items()
    shutil.copytree(trained[0], tmp_path / "model")
    card = ModelCard.load(write_card(tmp_path / "model", CardOptions(sample=False), overwrite=True))
    trained_how = section(card, "How it was trained")
    assert "![The curves of the training](pictures/losses.png)" in trained_how and "heatmap" not in str(card)
    assert [path.name for path in (tmp_path / "model" / "pictures").iterdir()] == ["losses.png"]
    assert "pictures/losses.png" in prepare(tmp_path / "model").files
    # A picture of an earlier card is no picture of this one.
    assert "losses.png" not in str(make_card(tmp_path / "model", CardOptions(sample=False, pictures=False)))
    assert (
        "| steps | 4 |" in trained_how and "| data | stories.txt |" in trained_how and "| `seed` | 3 |" in trained_how
    )
    assert {entry.metric_type for entry in card.data.eval_results} >= {"perplexity", "accuracy"}
    assert "0.1 * regression + 1 * InfoNCE" in section(card, "What it is")

    save_origin(tmp_path, base_model="me/base")
    for start, base in (("me/other", "me/other"), (str(tmp_path), "me/base"), (str(story_file.parent), None)):
        plan = TrainingPlan.of(data=["me/texts", str(story_file)], model=start)
        found = origin_of(plan, plan.training_arguments())
        assert found["datasets"] == ["me/texts"] and found["data"] == ["me/texts", "stories.txt"]
        assert found["base_model"] == base and "/tmp" not in json.dumps(found)


def test_wrong_cards_are_refused(folder, results, tmp_path):
    (folder / "README.md").write_text("mine")
    assert_one_line_error(invoke("card", folder, "--no-sample"), "README.md exists: --overwrite replaces it")
    assert (folder / "README.md").read_text() == "mine"
    wrong = ["card", folder, "--overwrite", "--results"]
    assert_one_line_error(invoke(*wrong, folder / "config.json"), "is no results.json", "no 'models'")
    (folder.parent / "three").mkdir()
    for path in folder.iterdir():
        shutil.copy(path, folder.parent / "three")
    result = invoke("card", folder.parent / "three", "--overwrite", "--results", results)
    assert_one_line_error(result, "--results are of one, two, not of three")
    (folder / "settings_tokmat.py").open("a").write("\nprint('hidden')\n")
    assert_one_line_error(
        invoke("card", folder, "--overwrite"), "holds code that is not this package's", "--no-sample"
    )
    (folder / "modeling_tokmat.py").write_text("raise RuntimeError('broken here')")
    result = invoke("card", folder, "--overwrite", "--trust-remote-code")
    assert_one_line_error(result, "the loading snippet", "does not run", "broken here")
    assert (folder / "README.md").read_text() == "mine"
    assert not list(folder.glob(".card-*")) and not (folder / "pictures").exists()
    assert_one_line_error(invoke("card", tmp_path / "none"), "there is no folder")
    (tmp_path / "empty").mkdir()
    assert_one_line_error(invoke("card", tmp_path / "empty"), "no TokMat model, tail adapter or LoRA adapter")


def test_the_card_of_a_tail_adapter(models, story_file, tmp_path):
    fields = {"tail_adapter_rank": 4, "train": "tail", "parallel_tails": 2, "film_scope": "tail", "max_tail_length": 8}
    model = from_autoregressive(load_model(str(models[2])), **fields)
    save_tail_adapter(model, tmp_path / "tail", "me/base")
    assert_one_line_error(invoke("card", tmp_path / "tail"), "me/base is neither a folder nor a Hub repository")
    result = invoke("card", tmp_path / "tail", "--source", models[2], "--repo-id", "me/tail")
    assert result.exit_code == 0, result.output
    card = ModelCard.load(tmp_path / "tail" / "README.md")
    assert card.data.base_model == "me/base" and card.data["base_model_relation"] == "adapter"
    assert "It drafts for this one model" in section(card, "Use and limits") and "seed" not in str(card)
    assert "tail-adapter" in card.data.tags and "tokmat attach me/base me/tail attached" in str(card)
    assert "Once upon a time" in section(card, "Load it") and "rank 4" in section(card, "What it is")
    assert "/tmp" not in str(card) and (tmp_path / "tail" / "pictures" / "heatmap.png").is_file()

    # Its figures are those of the model that it is a part of.
    attach_folder(str(models[2]), str(tmp_path / "tail"), tmp_path / "attached")
    flags = ["--data", story_file, *FEW, "--look-ahead", 3, "--verified-prompts", 1]
    result = invoke("evaluate", tmp_path / "attached", *flags, "--output", tmp_path / "results")
    assert result.exit_code == 0, result.output
    card = make_card(tmp_path / "tail", CardOptions(results=tmp_path / "results", sample=False))
    assert {entry.metric_type for entry in card.data.eval_results} >= {"rep_2", "loop"}
    measured = section(card, "What was measured")
    assert "verified_tokens_per_forward" in measured and "tokmat evaluate attached --data stories.txt" in measured


def test_a_card_without_matplotlib_has_no_pictures_and_says_so(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("card", folder)
    assert result.exit_code == 0, result.output
    assert 'no pictures: a picture needs matplotlib: pip install "tokmat[eval]"' in result.output
    assert "pictures/" not in (folder / "README.md").read_text() and not (folder / "pictures").exists()


def test_the_card_of_a_lora_adapter_takes_the_place_of_a_form(models, tmp_path):
    from peft import LoraConfig, get_peft_model

    import trainer.lora  # noqa: F401

    model = load_model(str(models[0]))
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained(tmp_path / "lora")
    load_tokenizer(str(models[0])).save_pretrained(tmp_path / "lora")
    assert "[More Information Needed]" in (tmp_path / "lora" / "README.md").read_text()
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "me/story"}))
    result = invoke("card", tmp_path / "lora", "--source", models[0], "--repo-id", "me/lora")
    assert result.exit_code == 0, result.output
    card = ModelCard.load(tmp_path / "lora" / "README.md")
    assert card.data.library_name == "peft" and card.data.base_model == "me/story"
    assert 'PeftModel.from_pretrained(base, "me/lora")' in str(card) and "rank 2" in section(card, "What it is")
    assert "Once upon a time" in section(card, "Load it") and "More Information Needed" not in str(card)
    assert "It fits the base that it was trained on" in section(card, "Use and limits")
