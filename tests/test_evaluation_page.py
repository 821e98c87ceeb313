# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""MAUVE of `tokmat evaluate`, the page that it writes, and several models in one table."""

import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from trainer.cli import app
from trainer.conversion import from_autoregressive
from trainer.data import load_documents
from trainer.evaluation import mauve, metrics
from trainer.evaluation.page import page
from trainer.evaluation.prompts import windows
from trainer.evaluation.report import pieces
from trainer.models import make_baseline


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    """(folder of a TokMat model, of another one, of an autoregressive model), untrained, of one tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        baseline = make_baseline(None, "tiny", tokenizer)
        for kind, model in (
            (name, from_autoregressive(baseline, "sphere", negatives="all")),
            (f"ar-{name}", baseline),
        ):
            model.save_pretrained(folder / kind)
            tokenizer.save_pretrained(folder / kind)
    return folder / "one", folder / "two", folder / "ar-one"


# -- windows ----------------------------------------------------------------------------------------------------------


def test_windows_do_not_overlap_where_there_are_enough(story_file, tokenizer):
    documents = load_documents(str(story_file))
    rows = [[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]] for text in documents["text"]]
    found, stride = windows(documents, tokenizer, 60, 6, 10)
    assert stride == 16 and found.ids.shape == (60, 6) and found.human.shape == (60, 10)
    expected = {tuple(ids[at : at + 16]) for ids in rows for at in range(0, len(ids) - 15, 16)}
    whole = torch.cat([found.ids, found.human], dim=1).tolist()
    assert {tuple(row) for row in whole} <= expected
    starts = sum(row[0] == tokenizer.bos_token_id for row in whole)
    assert 0 < starts < 60  # of documents, and other places
    again, _ = windows(documents, tokenizer, 60, 6, 10)
    assert torch.equal(found.ids, again.ids)


def test_windows_start_nearer_where_there_are_too_few(story_file, tokenizer):
    documents = load_documents(str(story_file))
    lengths = [1 + len(tokenizer(text)["input_ids"]) for text in documents["text"]]

    def number(stride):
        return sum((length - 16) // stride + 1 for length in lengths)

    count = number(16) + 20
    found, stride = windows(documents, tokenizer, count, 6, 10)
    assert 6 <= stride < 16 and number(stride) >= count > number(stride + 1) and len(found.ids) == count
    with pytest.raises(ValueError, match=f"--mauve-continuations 9999: .* only {number(6)} windows of 16 tokens"):
        windows(documents, tokenizer, 9999, 6, 10)


# -- MAUVE ------------------------------------------------------------------------------------------------------------


def test_mauve_tells_sets_apart_by_the_judges_features(models, capfd):
    judge = AutoModelForCausalLM.from_pretrained(models[2]).eval()
    draw = torch.Generator().manual_seed(0)

    def written(low, high):
        return torch.randint(low, high, (120, 8), generator=draw)

    # Six tokens each, and clusters for ten continuations: a cluster holds continuations that end alike.
    prompts, human, again, other = (
        torch.randint(2, 250, (120, 4), generator=draw),
        *map(written, (2, 2, 200), (8, 8, 206)),
    )
    human, again, other = (mauve.features(judge, prompts, ids) for ids in (human, again, other))
    ids = torch.randint(2, 250, (5, 9), generator=draw)
    with torch.no_grad():
        states = judge(ids, output_hidden_states=True).hidden_states[-1]
    np.testing.assert_allclose(mauve.features(judge, ids[:, :4], ids[:, 4:], 2), states[:, -1], rtol=1e-4, atol=1e-5)

    same, alike, apart = (mauve.mauve_scores(human, features) for features in (human, again, other))
    assert min(same) > 0.999 and min(alike) > 0.6 and max(apart) < 0.2
    assert len(same) == 3 and apart == mauve.mauve_scores(human, other)  # the same again
    mean, least, greatest = mauve.summary(alike)
    assert least <= mean <= greatest
    assert min(mauve.between_halves(human)) > 0.5
    assert "clustering" not in capfd.readouterr().err  # faiss finds clusters of ten too small, and says so each time


@pytest.mark.parametrize("score", [0.9841041546553477, 0.9841041546553478, 0.1])
def test_a_mean_lies_within_its_scores(score):
    assert mauve.summary([score] * 3) == (score, score, score)
    mean, least, greatest = mauve.summary([score, score, score + 2**-53])
    assert least <= mean <= greatest


def test_without_mauve_text_nothing_is_generated(models, story_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    monkeypatch.setattr("trainer.evaluation.decoders.write", None)
    arguments = ["evaluate", str(models[0]), "--data", str(story_file), "--judge", str(models[2])]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert 'pip install "tokmat[eval]"' in result.output and "--mauve-continuations 0" in result.output


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


# -- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes, text outside of pictures, and whether every tag that is opened is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


def is_self_contained(html: str) -> bool:
    links = [value for name, value in Page(html).attributes if name in ("src", "href", "xlink:href")]
    return all(value.startswith("#") for value in links) and not re.search(r"@import|url\((?!#)|<(link|script)", html)


def test_several_models_and_mauve_in_one_table(models, story_file, tmp_path):
    one, two, ar = map(str, models)
    arguments = ["evaluate", one, two, "--data", str(story_file), "--baseline", ar, "--judge", ar, "--prompts", "6"]
    arguments += ["--prompt-tokens", "6", "--new-tokens", "10", "--seeds", "2", "--look-ahead", "3"]
    arguments += ["--verified-prompts", "1", "--mauve-continuations", "40", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    names = [row["name"] for row in saved["decoders"]]
    assert names[:4] == ["human", "tokmat (one)", "tokmat (two)", "ar greedy"] and len(names) == 10
    for row in saved["decoders"]:
        mean, least, greatest = row["mauve"]
        assert 0 < least <= mean <= greatest < 1.001 and len(row["mauve_by_kmeans_seed"]) == 3
        runs = 2 if row["name"].startswith("tokmat") or row["name"].endswith(("0.95", "50")) else 1
        for name in ("dist_1", "dist_2", "rep_2", "rep_3", "rep_4", "loop", "judge_perplexity"):
            assert len(row["by_seed"][name]) == runs
        assert np.mean(row["by_seed"]["rep_2"]) == pytest.approx(row["rep_2"][0])
        assert ("look_ahead" in row) == row["name"].startswith("tokmat")
    assert saved["look_ahead"] == saved["decoders"][1]["look_ahead"] and saved["models"] == ["one", "two"]
    assert saved["mauve"] == {"continuations": 40, "clusters": 4, "stride": 16}
    conventions = " ".join(saved["conventions"])
    for words in (
        "95 %, bootstrap over prompts",
        "MAUVE: 40 human",
        "4 clusters",
        "20 against 20",
        "Contrastive search",
    ):
        assert words in conventions and words in (tmp_path / "out" / "results.md").read_text()
    assert "MAUVE" in result.output

    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    found = Page(html)
    assert not found.open and is_self_contained(html)
    assert found.tags.count("svg") == 4  # against the judge, every measure, two tails
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(names) <= {word.strip() for word in found.words} and "one, two: evaluation" in found.text
    assert "95 %, bootstrap over prompts" in found.text and "(halves)" in found.text
    assert not list((tmp_path / "out").glob("*.tmp"))


def interval_of(mean):
    return (mean, 0.9 * mean, 1.1 * mean)


def made_up(names, judge=True):
    rows = []
    for place, name in enumerate(names, start=1):
        row = {"name": name, "tokens_per_second": None}
        row |= {key: interval_of(place / 20) for key in ("dist_1", "dist_2", "rep_2", "rep_3", "rep_4", "loop")}
        rows.append(row | ({"judge_perplexity": interval_of(2.0**place)} if judge else {}))
    result = {"models": ["<b>$m$"], "data": ["a&b.txt"], "baselines": [], "judge": None, "prompts": 3}
    result |= {
        "prompt_tokens": 2,
        "new_tokens": 5,
        "seeds": 1,
        "settings": {"tail_length": 4},
        "conventions": ["x < y"],
    }
    return result | {"decoders": rows}


def test_the_page_shows_text_as_text():
    script = "<script>alert('x')</script> & https://example.org"
    samples = [{"prompt": script, "human": [(script, False), ("again <i>", True)]}] * 20
    html = page(made_up(["human", "tokmat ($a$ <b>)"]), samples)
    found = Page(html)
    assert not found.open and is_self_contained(html) and "script" not in found.tags and "i" not in found.tags
    assert found.text.count(script) == 24 and html.count("<mark>again &lt;i&gt;</mark>") == 12  # of 12 prompts
    assert "<b>$m$: evaluation" in found.text and "x < y" in found.text and "tokmat ($a$ <b>)" in found.text


def test_the_page_without_a_judge_has_no_picture_of_it():
    assert "Repetition against" not in page(made_up(["human", "tokmat"], judge=False), [])


def test_pieces_mark_what_is_repeated(tokenizer):
    ids = tokenizer("the fox and the fox and the owl")["input_ids"]
    found = pieces(tokenizer, ids)
    assert "".join(text for text, _ in found) == tokenizer.decode(ids)
    assert any(again for _, again in found) and not found[0][1]
    assert metrics.repeated_ngrams([1, 2, 3, 1, 2, 3, 4]) == [False] * 3 + [True] * 3 + [False]
    assert metrics.repeated_ngrams([1, 2]) == [False] * 2
    # A letter of several tokens is whole again, whichever of them is marked.
    letters = tokenizer("ööööö öööö")["input_ids"]
    assert "".join(text for text, _ in pieces(tokenizer, letters)) == "ööööö öööö"
