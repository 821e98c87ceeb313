# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The page that `tokmat evaluate` writes, with several models and MAUVE in one table."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from trainer.cli import app
from trainer.evaluation import metrics
from trainer.evaluation.page import page
from trainer.evaluation.report import pieces


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
        assert ("held_out_perplexity" in row) == (row["name"].startswith("tokmat") or row["name"] == "ar greedy")
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
    assert found.tags.count("svg") == 6  # against the judge, every measure, two tails, two texts while they matured
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
