# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Pictures show what was measured, and a file of one is whole or not there."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_one_line_error, invoke
from matplotlib.colors import to_rgba
from PIL import Image

from trainer import pictures
from trainer.checkpoints import load_model, load_tokenizer
from trainer.traces import Run, by_slot, watch

SETTINGS = {"commit": "front", "tail_length": 3}
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def run(models):
    model, tokenizer = load_model(str(models[0])).eval(), load_tokenizer(str(models[0]))
    return watch(model, tokenizer, PROMPT, 9, min_new_tokens=9, embryo_norm=1.0, **SETTINGS)


def step(position, tokens, **values):
    by_default = dict.fromkeys(("distance", "displacement", "entropy", "entropy_scaled"), [0.5] * len(tokens))
    maturity = [1 - (slot + 1) / (len(tokens) + 1) for slot in range(len(tokens))]
    return {"position": position, "committed": 1, "token_ids": tokens, "maturity": maturity} | by_default | values


class Letters:
    """A tokenizer of letters; id 0 is a formula that is none."""

    def decode(self, ids, **kwargs):
        return "".join("$\\frac_" if id == 0 else chr(96 + id) for id in ids)


def test_a_run_is_the_trace_of_generate(models, run):
    model = load_model(str(models[0])).eval()
    ids = torch.tensor([run.ids[: run.prompt_length]])
    output = model.generate(
        ids, max_new_tokens=9, min_new_tokens=9, embryo_norm=1.0, output_maturation=True,
        return_dict_in_generate=True, **SETTINGS
    )  # fmt: skip
    assert run.ids == output.sequences[0].tolist() and len(run.steps) == len(output.maturation) == 9
    for found, expected in zip(run.steps, output.maturation):
        for name in ("token_ids", "distance", "displacement", "entropy", "entropy_scaled"):
            assert found[name] == getattr(expected, name)[0].tolist()
        assert found["maturity"] == expected.maturity.tolist() and found["position"] == int(expected.position[0])
    assert run.later(run.steps[2]) == run.ids[run.prompt_length + 2 :][:3]
    assert run.later(step(8, [1, 2])) == [run.ids[-1], None]


def test_the_heat_map_shows_distances_and_tokens(run):
    axis, bar = pictures.heatmap(run, steps=8).axes
    shown = axis.collections[0].get_array()
    assert shown.shape == (8, 3) and bar.get_ylabel().startswith("distance")
    distances = [step["distance"] for step in run.steps[:8]]
    assert np.allclose(shown.compressed(), sum(distances, [])) and len(distances[-1]) == 2
    cells = {text.get_position(): text for text in axis.texts}
    for row, step in enumerate(run.steps[:8], start=1):
        for slot, (token, later) in enumerate(zip(step["token_ids"], run.later(step)), start=1):
            cell = cells[slot, row]
            assert cell.get_text().strip("…") in pictures.shown(run.tokenizer.decode([token]), 99) + "␣"
            assert (to_rgba(cell.get_color()) == to_rgba("black")) == (token == later)
    assert len(axis.patches) == 8  # one commit a step
    assert axis.get_yticklabels()[1].get_text().split()[-1] == "2" and "slot, and its maturity" == axis.get_xlabel()


def test_slots_behind_the_end_of_a_text_are_empty():
    ended = Run(Letters(), [7, 1, 2], 1, [step(0, [1, 2, 3]), step(1, [2, 3, 4])], "front")
    axis = pictures.heatmap(ended).axes[0]
    assert axis.collections[0].get_array().mask.tolist() == [[False, False, True], [False, True, True]]
    assert [text.get_text() for text in axis.texts][:-1] == ["a", "b", "b"]  # and the note below


def test_what_is_committed_in_a_step_is_outlined():
    steps = [step(0, [1, 2], committed=0), step(0, [1, 2], committed=2), step(2, [3, 4])]
    axis = pictures.heatmap(Run(Letters(), [7, 1, 2, 3], 1, steps, "stable")).axes[0]
    assert [(round(box.get_y()), round(box.get_width())) for box in axis.patches] == [(2, 2), (3, 1)]


def test_slots_of_verified_commits_have_a_maturity_by_step_and_none_for_all(make_converted, tokenizer):
    model = make_converted(parallel_slots=4)
    one = watch(model, tokenizer, [5, 6, 7], 12, commit="verified", tail_length=3)
    assert all(len(step["token_ids"]) == len(step["maturity"]) for step in one.steps)
    assert pictures.heatmap(one).axes[0].get_xlabel() == "slot"
    assert [len(one.frame(step)) > 0 for step in one.steps]


def test_what_a_vector_does_by_its_age_is_a_mean_over_steps_in_which_the_tail_is_old_enough():
    values = [{"entropy": [0.1, 0.2], "entropy_scaled": [1.0, 2.0]}, {"entropy": [0.3, 0.4]}, {"entropy": [0.5, 0.8]}]
    steps = [step(0, [9, 9], **values[0]), step(1, [2, 3], **values[1]), step(2, [9, 4], **values[2])]
    fresh, old = by_slot([Run(Letters(), [7, 1, 2, 3], 1, steps, "front")], 2)
    assert (fresh["age"], fresh["slot"], old["age"], old["slot"]) == (0, 2, 1, 1)
    assert fresh["entropy_temperature_1"] == pytest.approx(0.6) and old["entropy_temperature_1"] == pytest.approx(0.4)
    assert fresh["top_is_committed"] == 1 and old["top_is_committed"] == 0.5  # what lies beyond the text is not asked
    left, right = pictures.entropy([fresh, old]).axes
    lines = {line.get_label(): line.get_ydata() for axis in (left, right) for line in axis.lines}
    assert np.allclose(lines["at temperature 1"], [0.6, 0.4]) and len(lines) == 5
    with pytest.raises(ValueError, match="no vector passed through all 2 slots"):
        by_slot([Run(Letters(), [7, 1], 1, steps[:1], "front")], 2)


def test_text_is_no_formula(tmp_path):
    one = Run(Letters(), [0, 1, 0, 2, 0], 1, [step(place, [0, 0]) for place in range(4)], "front")
    pictures.save(pictures.heatmap(one), tmp_path / "formula.svg")
    pictures.animate(one, tmp_path / "formula.gif")
    pictures.save(pictures.drift(np.array([0.1, 0.3, 0.2]), ["$\\frac_", "a", "b"]), tmp_path / "drift.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drift.png", "formula.gif", "formula.svg"]


def test_the_picture_of_guidance_has_its_intervals():
    figure = pictures.guidance({"guidance 1": [(0.5, 0.4, 0.7)] * 3, "guidance 2": [(0.2, 0.1, 0.3)] * 3})
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["guidance 1", "guidance 2"]
    data, _, (bars,) = axis.containers[0]
    assert np.allclose(data.get_ydata(), 0.5) and np.allclose(data.get_xdata(), [1.96, 2.96, 3.96])
    assert np.allclose(bars.get_segments()[0][:, 1], [0.4, 0.7])


def test_drift_is_one_minus_the_cosine():
    before = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    after = torch.tensor([[0.0, 1.0], [0.0, 1.0], [-1.0, -1.0]])
    assert np.allclose(pictures.drifts(before, after), [1, 0, 2], atol=1e-6)
    with pytest.raises(ValueError, match=r"shapes \(3, 2\) and \(2, 2\)"):
        pictures.drifts(before, after[:2])
    _, seen = pictures.drift(np.array([0.1, 0.2, 0.3]), ["a", "b", "c"], np.array([5, 0, 7])).axes
    assert np.allclose(seen.collections[0].get_offsets(), [[5, 0.1], [7, 0.3]])  # log axis: what never occurs is not


def test_the_curves_are_those_that_were_logged(trained):
    history = json.loads((trained[0] / "trainer_state.json").read_text())["log_history"]
    found = pictures.curves(history)
    logged = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    assert list(zip(*found["loss"]["training"])) == logged and len(logged) == 4
    assert set(found["loss"]) == {"training", "held out", "contrastive term", "regression term"}
    assert len(pictures.losses(history).axes) == len(found) == 3
    with pytest.raises(ValueError, match="no loss was logged"):
        pictures.curves([{"step": 1, "samples": ["a"]}])


@pytest.mark.parametrize(
    ("kind", "name", "flags"),
    [
        ("heatmap", "heat.svg", ["--steps", 4]),
        ("heatmap", "verified.png", ["--commit", "verified"]),
        ("animation", "tail.gif", ["--frames-per-second", 3]),
        ("entropy", "entropy.png", ["A fox", PROMPT]),
        ("guidance", "guidance.pdf", ["A fox", PROMPT]),
    ],
)
def test_the_command_draws_a_tail(kind, name, flags, models, tmp_path):
    flags = [*flags, "--max-new-tokens", 8, "--tail-length", 3]
    result = invoke("picture", kind, models[0], *flags, "--output", tmp_path / "new" / name)
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "new").iterdir()
    assert f"Saved {path}." in result.output and path.name == name
    data = path.read_bytes()
    if path.suffix in (".png", ".gif"):
        with Image.open(path) as image:
            image.load()
            assert image.width > 300 and (path.suffix == ".png" or image.n_frames >= 8)
    else:
        assert data.startswith(b"%PDF") and b"%%EOF" in data or data.rstrip().endswith(b"</svg>")


def test_the_command_draws_training(models, trained, story_file, tmp_path):
    for flags in (["losses", trained[0]], ["drift", models[0], "--start", models[2], "--data", story_file]):
        result = invoke("picture", *flags, "--output", tmp_path / f"{flags[0]}.png")
        assert result.exit_code == 0, result.output
        with Image.open(tmp_path / f"{flags[0]}.png") as image:
            image.load()


def test_wrong_pictures_are_refused(models, own_folder):
    one = models[0]
    for arguments, expected in (
        (["tail", one], ["KIND is 'tail', but it must be among heatmap, animation"]),
        (["heatmap", one, "--output", "tail.gif"], ["`output` is 'tail.gif'", ".png or .svg or .pdf"]),
        (["animation", one, "--output", "tail.png"], ["`output` is 'tail.png'", ".gif"]),
        (["heatmap", one, "--output", one / "config.json" / "a.png"], ["config.json is a file"]),
        (["heatmap", one, "--max-new-tokens", 0], ["`max_new_tokens` is 0, but it must be at least 1"]),
        (["heatmap", one, "--tail-length", 0], ["`tail_length` is 0"]),
        (["heatmap", one, "a", "b"], ["does not use a second PROMPT"]),
        (["losses", one, "--tail-length", 3], ["losses does not use --tail-length"]),
        (["losses", one], ["holds no trainer_state.json"]),
        (["entropy", one, "--commit", "stable"], ["`commit` is 'stable'"]),
        (["entropy", one, "--max-new-tokens", 2, "--tail-length", 3], ["no vector passed through all 3 slots"]),
        (["guidance", one, "--guidance-scale", 2], ["guidance does not use --guidance-scale"]),
        (["guidance", one, "--tail-length", 1], ["`tail_length` is 1"]),
        (["drift", one], ["say with --start"]),
        (["heatmap", one, "--start", one], ["heatmap does not use --start"]),
        (["heatmap", models[2]], ["is a llama model, not a TokMat model"]),
        (["heatmap", "nowhere"], ["there is no folder nowhere"]),
    ):
        assert_one_line_error(invoke("picture", *arguments), *expected)
    assert not list(Path().iterdir())


def test_without_matplotlib_one_sentence_says_what_to_install(models, own_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for kind in ("heatmap", "animation", "losses"):
        assert_one_line_error(invoke("picture", kind, models[0]), 'needs matplotlib: pip install "tokmat[eval]"')
    assert not list(Path().iterdir())


def test_a_picture_that_fails_leaves_the_one_before(run, tmp_path, monkeypatch):
    figure = pictures.heatmap(run)
    for name in ("tail.png", "tail.gif"):
        (tmp_path / name).write_text("before")

    def broken(self, file, *args, **kwargs):
        if hasattr(file, "write_text"):
            file.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    with pytest.raises(OSError, match="no space"):
        pictures.save(figure, tmp_path / "tail.png")
    with pytest.raises(OSError, match="no space"):
        pictures.animate(run, tmp_path / "tail.gif")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("tail.png", "tail.gif"), "before"
    )
