# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat evaluate`: what it compares, saves and refuses."""

import json
import re

import pytest
from typer.testing import CliRunner

from trainer.cli import app


def test_evaluate_compares_and_saves(models, story_file, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.evaluation.run.LOG_SECONDS", 0)  # where there is no terminal, lines tell of progress
    tokmat, _, ar = map(str, models)
    arguments = ["evaluate", tokmat, "--data", str(story_file), "--baseline", ar, "--judge", ar, "--prompts", "6"]
    arguments += ["--prompt-tokens", "6", "--new-tokens", "10", "--seeds", "2", "--look-ahead", "3"]
    arguments += ["--verified-prompts", "2", "--output", str(tmp_path / "out"), "--tail-length", "4"]
    arguments += ["--mauve-continuations", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"^\d+/\d+ ar greedy$", result.output, flags=re.MULTILINE)
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    names = [row["name"] for row in saved["decoders"]]
    assert names[:3] == ["human", "tokmat", "ar greedy"] and len(names) == 9
    for row in saved["decoders"]:
        for name in ("dist_2", "rep_2", "loop", "judge_perplexity"):
            mean, low, high = row[name]
            assert low <= mean <= high
    held_out = {row["name"]: row["held_out_perplexity"] for row in saved["decoders"] if "held_out_perplexity" in row}
    assert list(held_out) == ["tokmat", "ar greedy"] and held_out["tokmat"] != held_out["ar greedy"]
    assert held_out["ar greedy"] == pytest.approx(saved["decoders"][0]["judge_perplexity"])  # which is the judge here
    assert saved["look_ahead"]["tail_acc_1"] == [1.0] * 3 and saved["look_ahead"]["verified_same_text"] is True
    assert saved["settings"] == {"tail_length": 4}
    assert (tmp_path / "out" / "results.md").read_text().startswith("| | Dist-1 |")
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert len(samples) == 6 and set(samples[0]) == {"prompt", *names}
    assert "Loop" in result.output and "tail_acc_2" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "0"], "`prompts` is 0"),
        (["--prompts", "5000"], "--prompts 5000: only"),
        (["--prompts", "4", "--baseline", "no-such-folder/x"], "there is no folder|neither a folder"),
        (["--tail-length", "99"], "`tail_length` is 99"),
    ],
)
def test_errors_of_evaluate_are_one_line(models, story_file, arguments, message):
    arguments = ["evaluate", str(models[0]), "--data", str(story_file), "--prompt-tokens", "4", *arguments]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    with pytest.raises(ValueError, match=message):
        raise ValueError(result.output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mauve-continuations", "7"], r"`mauve_continuations` is 7, but it must be 0 \(no MAUVE\) or at least 20"),
        (["--mauve-continuations", "-1"], "`mauve_continuations` is -1"),
        (["--judge", "AR", "--prompts", "4"], "--mauve-continuations 1000: the held-out documents have only"),
        (["--baseline", "AR", "AR", "--prompts", "4"], "the model .*ar-one is given twice"),
    ],
)
def test_errors_come_before_any_generation(models, story_file, arguments, message, monkeypatch):
    monkeypatch.setattr("trainer.evaluation.decoders.write", None)
    arguments = [str(models[2]) if word == "AR" else word for word in arguments]
    arguments = ["evaluate", str(models[0]), "--data", str(story_file), "--new-tokens", "8", *arguments]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and re.search(message, result.output), result.output


def test_an_output_that_cannot_be_a_folder_is_refused_first(models, story_file, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.evaluation.decoders.write", None)
    (tmp_path / "notes.txt").write_text("kept")
    arguments = ["evaluate", str(models[0]), "--data", str(story_file), "--prompts", "2", "--new-tokens", "4"]
    for output in ("notes.txt", "notes.txt/below"):
        result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / output)])
        assert result.exit_code == 2 and "notes.txt is a file" in result.output, result.output
    assert (tmp_path / "notes.txt").read_text() == "kept"
