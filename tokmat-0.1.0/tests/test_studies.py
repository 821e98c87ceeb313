# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat reproduce`: what studies share, what they measure, and the command."""

import csv
import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from typer.testing import CliRunner

from modeling_tokmat.maturation_tokmat import low_norm_noise
from trainer.cli import app
from trainer.commands import reproduce as reproduce_command
from trainer.data import load_documents
from trainer.studies import NEEDS, STUDIES, lab, look_ahead, require_packages
from trainer.studies.diversity import changed_by_noise, derived_temperature, measured_temperature
from trainer.studies.entropy import lives
from trainer.studies.lab import FULL, NOT_JUDGED, SMALL, Finding, Lab
from trainer.studies.repetition import judge_claim

TINY = dataclasses.replace(
    SMALL, name="small", vocabulary=300, block=64, batch=4, baseline_steps=6, judge_steps=2, base_steps=2,
    look_ahead_steps=2, ablation_steps=1, ablation_batch=2, domain_steps=3, prompts=4, embryo_seeds=1, continuations=3,
    lengths=(8, 12, 70), long_block=128, long_steps=1,
)  # fmt: skip
STORY = "One day the {0} went to the river and saw a {1}. The {1} was sad. They played until the sun went down. "


@pytest.fixture(scope="module")
def story_texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "stories.txt"
    animals = ("fox", "bear", "hen", "cat", "dog", "owl", "cow", "pig")
    stories = [f"{first}: " + STORY.format(first, second) * 4 for first in animals for second in animals]
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return path


def reproduce(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


# -- measures ---------------------------------------------------------------------------------------------------------


def test_lives_follow_a_vector_from_embryo_to_commit(make_model):
    model, tail = make_model(), 3
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    output = model.generate(
        ids, max_new_tokens=7, eos_token_id=None, tail_length=tail, output_maturation="vectors", embryo_norm=1.0,
        return_dict_in_generate=True,
    )  # fmt: skip
    found = lives(output, 4, tail)
    assert found["vectors"].shape[:3] == (tail, 5, 2) and found["committed"].shape == (5, 2)
    for token in range(2, 7):
        for age in range(tail):
            step = output.maturation[token - tail + 1 + age]
            slot = int(token - step.position[0])  # where the trace itself says this token is
            torch.testing.assert_close(found["vectors"][age, token - 2], step.vectors[:, slot])
    # The last update is the one that commits.
    assert torch.equal(found["token_ids"][-1], found["committed"])
    assert torch.equal(found["committed"], output.sequences[:, 6:].T)


def test_the_derived_temperature_is_that_of_noise_with_the_same_spread(make_model):
    """Scores of random embeddings: their noise has the standard deviation from which the temperature is derived."""
    scale, dim, size, settings = 20.0, 64, 1.3, {"alpha_max": 0.7, "embryo_norm": 2.0}
    table = torch.nn.functional.normalize(torch.randn(5000, dim), dim=-1)
    noise = (1 - 0.7) * low_norm_noise(1, dim, 2.0, seed=0)[0] / (0.7 * size)
    spread = float((scale * table @ noise).std())
    assert derived_temperature(settings, scale, dim, size) == pytest.approx(spread * math.sqrt(6) / math.pi, rel=0.03)
    assert derived_temperature(settings | {"alpha_max": 1.0}, scale, dim, size) == 0


def test_the_measured_temperature_is_found_again(make_model):
    model = make_model()
    predicted = torch.randn(200, model.config.hidden_size)
    left = 1 - torch.softmax(model.implied_logits(predicted) / 0.7, -1).amax(-1).mean().item()
    assert measured_temperature(model, predicted, left) == pytest.approx(0.7, rel=1e-3)
    none, much = ({"alpha_max": 0.5, "embryo_norm": norm} for norm in (1e-6, 100.0))
    assert changed_by_noise(model, predicted, none) < 0.02 and changed_by_noise(model, predicted, much) > 0.9


def repetition_rows(**changes):
    def row(decoder, rep_2, loop, judge):
        values = {"rep_2": rep_2, "rep_3": rep_2 / 3, "loop": loop, "dist_2": 1 - rep_2, "judge_perplexity": judge}
        ends = {
            f"{name}_{end}": value * factor
            for name, value in values.items()
            for end, factor in (("low", 0.9), ("high", 1.1))
        }
        return {"decoder": decoder} | values | ends

    values = {
        "human": (0.05, 0.3, 9.0),
        "tokmat, seed 0": (0.04, 0.25, 2.5),
        "ar greedy": (0.16, 0.8, 2.2),
        "ar penalty 1.1": (0.08, 0.6, 2.3),
        "ar penalty 1.2": (0.03, 0.2, 2.6),
        "ar penalty 1.5": (0.01, 0.0, 4.0),
    }
    return [row(name, *value) for name, value in (values | changes).items()]


def test_the_repetition_verdict():
    text, verdict = judge_claim(repetition_rows())
    assert verdict == "holds" and "ar penalty 1.2, Loop 20%" in text  # the best that repeats no more
    assert judge_claim(repetition_rows(**{"tokmat, seed 0": (0.04, 0.25, 2.7)}))[1] == "partly"
    assert judge_claim(repetition_rows(**{"tokmat, seed 1": (0.09, 0.4, 2.5)}))[1] == "partly"
    assert judge_claim(repetition_rows(**{"tokmat, seed 0": (0.2, 0.9, 9.0)}))[1] == "does not hold"


# -- the command ------------------------------------------------------------------------------------------------------


def test_every_study_has_a_module():
    for name in STUDIES:
        module = __import__(f"trainer.studies.{name}", fromlist=["study"])
        assert callable(module.study) and module.__doc__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["entrpy"], "STUDY is 'entrpy', but it must be among repetition, entropy,"),
        (["--budget", "huge"], "`budget` is 'huge', but it must be among small, full"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    result = reproduce(*arguments, "--output", tmp_path / "out")
    assert result.exit_code == 2 and message in result.output + result.stderr


def test_what_studies_need_is_checked_before_the_first_begins(tmp_path, monkeypatch):
    """tail_length comes third; without NLTK nothing is trained, and the extra that is named has it."""
    monkeypatch.setattr("trainer.studies.repetition.study", lambda lab: pytest.fail("a study began"))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "nltk" else found(name, *rest)
    )
    result = reproduce("repetition", "tail_length", "--output", tmp_path / "out")
    assert result.exit_code == 2 and "nltk (tail_length): pip install 'tokmat[eval]'" in result.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="^the studies need matplotlib"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
        require_packages(["entropy"])


def test_without_matplotlib_the_command_says_what_to_install(tmp_path):
    """In a process of its own: here the studies are imported already."""
    code = "import sys; sys.modules.update({'matplotlib': None, 'matplotlib.pyplot': None});"
    code += "importlib = __import__('importlib.util'); found = importlib.util.find_spec;"
    code += "importlib.util.find_spec = lambda name, *rest: None if name == 'matplotlib' else found(name, *rest);"
    code += "from trainer.cli import main; main()"
    command = [sys.executable, "-c", code, "reproduce", "entropy", "--output", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "the studies need matplotlib (every study): pip install" in done.stderr


def test_the_extra_that_is_named_holds_what_studies_need():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    extra = re.search(r"^eval = \[(.*)\]$", text, flags=re.MULTILINE)[1]
    assert all(re.search(f'"{package}(-text)?>=', extra) for package in ("matplotlib", *NEEDS.values()))


def test_help_names_the_studies():
    result = reproduce("--help")
    assert result.exit_code == 0 and all(name in result.output for name in STUDIES)


def test_a_study_leaves_three_files_and_is_not_done_again(tmp_path, story_texts, monkeypatch):
    calls = []

    def study(lab):
        calls.append(lab.budget.name)
        return Finding(
            "C | c.", "F.", lab.verdict(True), [{"a": 1.23456789, "b": "x"}, {"a": 2, "c": 3}], plt.figure(), "T"
        )

    monkeypatch.setattr("trainer.studies.entropy.study", study)
    flags = ["entropy", "--data", story_texts, "--output", tmp_path / "out"]
    for _ in range(2):
        result = reproduce(*flags)
        assert result.exit_code == 0, result.output
    assert calls == ["small"]
    folder = tmp_path / "out" / "entropy"
    assert list(csv.DictReader(open(folder / "results.csv"))) == [
        {"a": "1.2346", "b": "x", "c": ""}, {"a": "2", "b": "", "c": "3"},
    ]  # fmt: skip
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert f"**Verdict: {NOT_JUDGED}.**" in (folder / "finding.md").read_text()
    index = (tmp_path / "out" / "README.md").read_text()
    assert f"| [entropy](entropy/finding.md) | C \\| c. | F. | {NOT_JUDGED} |" in index
    # Half a study is done again, and another budget or text is another folder.
    (folder / "picture.png").unlink()
    reproduce(*flags)
    assert len(calls) == 2
    result = reproduce(*flags[:1], "--data", "builtin", *flags[3:])
    assert result.exit_code == 2 and "was made with --data" in result.stderr
    result = reproduce(*flags, "--budget", "full")
    assert result.exit_code == 2 and "was made with --budget small" in result.stderr


def test_verdicts_need_a_budget_that_can_judge(tmp_path):
    assert Lab(tmp_path, SMALL, "builtin").verdict(True) == NOT_JUDGED
    full = Lab(tmp_path, FULL, "builtin")
    assert [full.verdict(found) for found in (True, False, "partly")] == ["holds", "does not hold", "partly"]
    of_parts = [full.verdict(parts) for parts in ([True, True], [True, False], [False, False])]
    assert of_parts == ["holds", "partly", "does not hold"]


def test_the_lab_trains_once_and_goes_on_with_what_was_killed(tmp_path, story_texts, monkeypatch):
    made = Lab(tmp_path, TINY, str(story_texts), say=lambda text: None)
    path = made.baseline()
    weights = (path / "model.safetensors").read_bytes()
    monkeypatch.setattr(lab, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    assert made.baseline() == path and (path / "model.safetensors").read_bytes() == weights
    monkeypatch.setattr(lab, "fit", lambda *args, **kwargs: 130)
    with pytest.raises(KeyboardInterrupt):
        made.base()
    long = made.prompts(70, long=True)
    assert long.human.shape[1] == 70 and len(made.prompts(8).ids) > 0
    assert made.load(made.start()).config.model_type == "tokmat"


@pytest.mark.parametrize(
    "studies",
    [
        list(STUDIES)[:5],
        pytest.param(list(STUDIES)[5:-8], marks=pytest.mark.slow),
        pytest.param(["look_ahead"], marks=pytest.mark.slow),
        ["pretrained", "peers", "decoding", "practice", "paper", "controls"],
    ],
    ids=["first", "second", "look_ahead", "pretrained"],
)
def test_all_studies_run(studies, tmp_path, story_texts, monkeypatch):
    monkeypatch.setitem(reproduce_command.BUDGETS, "small", TINY)
    monkeypatch.setattr(
        "trainer.studies.diversity.NEGATIVES", {"context negatives 0": "all", "reference": "all + past"}
    )
    monkeypatch.setattr("trainer.studies.ablations.ARMS", _some_arms())
    few = ("paper", "rollout-16", "rollout", "own-mixed", "own-quarter", "rollout-K4")
    monkeypatch.setattr("trainer.studies.look_ahead.ARMS", {name: look_ahead.ARMS[name] for name in few})
    monkeypatch.setattr("trainer.studies.look_ahead.OWN_TEXTS", {"small": 8})
    monkeypatch.chdir(tmp_path)
    result = reproduce(*studies, "--data", story_texts, "--dialogue", story_texts, "--output", "out")
    assert result.exit_code == 0, (result.output, result.stderr[-3000:], result.exception)
    for name in studies:
        rows = list(csv.DictReader(open(tmp_path / "out" / name / "results.csv")))
        assert rows and f"Verdict: {NOT_JUDGED}" in (tmp_path / "out" / name / "finding.md").read_text()
        for row in rows:
            for key, value in row.items():
                if key.endswith("_low") and value not in ("", "nan"):
                    low, middle, high = (float(row[key.removesuffix("_low") + end]) for end in ("_low", "", "_high"))
                    slack = 1e-6 + 1e-3 * abs(middle)  # figures are rounded
                    assert low <= middle + slack and middle <= high + slack
    assert json.loads((tmp_path / "out" / "lab.json").read_text())["budget"]["name"] == "small"


def test_arms_are_trained_as_they_say(tmp_path, story_texts, monkeypatch):
    """Own text trains the tails alone, or is mixed in; a model is trained on; K is what the arm says."""
    made = Lab(tmp_path, TINY, str(story_texts), say=lambda text: None)
    plans, train = [], lab.fit
    monkeypatch.setattr(lab, "fit", lambda plan: plans.append(plan) or train(plan))
    monkeypatch.setattr(look_ahead, "OWN_TEXTS", {"small": 8})
    for name in ("own-quarter", "own-mixed", "rollout-K4"):
        look_ahead.train_arm(made, name)
    by_name = {Path(plan.training["output_dir"]).name: plan for plan in plans}
    own = str(tmp_path / "data" / "own.jsonl")
    quarter, mixed, four = (by_name[f"ahead-{name}"] for name in ("own-quarter", "own-mixed", "rollout-K4"))
    assert (quarter.data.tail_data, quarter.data.tail_share) == ([own], 0.25)
    assert mixed.data.data == [str(tmp_path / "data" / "some.txt"), own] and mixed.data.tail_data is None
    lengths = [sum(map(len, load_documents(source)["text"])) for source in mixed.data.data]
    assert lengths[1] <= lengths[0] < 2 * lengths[1]
    assert (four.fields["min_tail_length"], four.fields["max_tail_length"]) == (4, 4)
    assert {plan.model.model for plan in (quarter, mixed, four)} == {str(made.path("ahead-base"))}
    assert by_name["ahead-base"].fields["context_negatives"] == 2.0 and by_name["ahead-base"].model.model is not None


def _some_arms():
    from trainer.studies.ablations import ARMS

    kept = ("reference", "reference, another seed", "without InfoNCE", "context negatives 0", "no conditioning")
    return {name: ARMS[name] for name in (*kept, "from scratch, same steps")}


def test_frozen_conditioning_stays_none(tmp_path, story_texts, monkeypatch):
    from trainer.studies.ablations import arm

    made = Lab(tmp_path, dataclasses.replace(TINY, ablation_steps=3), str(story_texts), say=lambda text: None)
    off, on = (made.load(arm(made, name)) for name in ("no conditioning", "reference"))
    parts = [(model.maturity_embedding.fc_out.weight, model.tail_length_film.table.weight) for model in (off, on)]
    assert not any(weight.any() for weight in parts[0]) and all(weight.any() for weight in parts[1])


def test_a_folder_is_not_claimed_for_data_that_does_not_exist(tmp_path, story_file):
    out, missing = tmp_path / "out", str(tmp_path / "missing.txt")
    for flags in (["--data", missing], ["--held-out", missing], ["--dialogue", missing], ["--data", ""]):
        result = reproduce("repetition", *flags, "--output", out)
        assert result.exit_code == 2 and "Traceback" not in result.output and not out.exists(), flags
    (tmp_path / "file").write_text("")
    result = reproduce("repetition", "--output", tmp_path / "file")
    assert result.exit_code == 2 and "is a file" in result.output


def test_a_pretrained_model_is_asked_some_studies_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = reproduce("drift", "--pretrained", "anything", "--output", "out")
    assert result.exit_code == 2 and "STUDY is 'drift', but it must be among entropy, " in result.stderr
    assert "where --pretrained is given" in result.stderr and not Path("out").exists()
