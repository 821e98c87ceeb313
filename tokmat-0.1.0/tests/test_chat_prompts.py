# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Chat prompts from plain texts: many kinds, none twice, the same for the same seed."""

import json
import random
import runpy
import string
import sys
from pathlib import Path

import pytest

from trainer.data import load_documents

SCRIPT = Path(__file__).parents[1] / "examples" / "chat_prompts.py"
PARTS = runpy.run_path(str(SCRIPT))
KINDS = ("chat-foreign", "chat-long-summarise")


@pytest.fixture(scope="module")
def texts(tmp_path_factory, story_file):
    """A file of six documents of ten stories, with a name that the texts do not begin a sentence with."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    stories = [story.replace("the owl,", "old Berta,") for story in load_documents(str(story_file))["text"]]
    documents = [" ".join(stories[first : first + 10]) for first in range(0, 60, 10)]
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return path


def script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["chat_prompts.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_prompts_are_of_all_kinds_distinct_and_the_same_for_a_seed(texts, tmp_path, monkeypatch):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        script(monkeypatch, texts, "--count", 300, "--seed", seed, "--output", tmp_path / f"{name}.jsonl")
    written = {name: (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8") for name in "abc"}
    assert written["a"] == written["b"] != written["c"]
    rows = [json.loads(line) for line in written["a"].splitlines()]
    assert len(set(written["a"].splitlines())) == len(rows) == 300
    assert {row["kind"] for row in rows} == {f"chat-{kind}" for kind in PARTS["PHRASES"]}
    for row in rows:
        *system, user = row["messages"]
        assert user["role"] == "user" and user["content"].strip()
        assert [message["role"] for message in system] in ([], ["system"])
    assert 10 < sum(len(row["messages"]) == 2 for row in rows) < 60


def test_further_kinds_are_drawn_where_they_are_named(texts, tmp_path, monkeypatch):
    (tmp_path / "german.txt").write_text("Der Hund bellt laut.\n\nEs regnet heute.\n", encoding="utf-8")
    foreign, output = ("--foreign", "German", tmp_path / "german.txt"), tmp_path / "a.jsonl"
    script(monkeypatch, texts, "--kinds", "foreign", "long-summarise", *foreign, "--count", 9, "--output", output)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    asked = {kind: [row["messages"][-1]["content"] for row in rows if row["kind"] == kind] for kind in KINDS}
    assert sum(map(len, asked.values())) == 9 and all(asked.values())
    assert all(("Der Hund bellt laut." in text) != ("Es regnet heute." in text) for text in asked["chat-foreign"])
    assert min(len(text.split()) for text in asked["chat-long-summarise"]) > 200
    with pytest.raises(SystemExit):
        script(monkeypatch, texts, "--kinds", "foreign", "--output", tmp_path / "b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()


def test_every_phrase_can_be_filled_and_leaves_no_gap(texts):
    documents = load_documents(str(texts))["text"]
    material = PARTS["Material"](documents, random.Random(0), ["Der Hund bellt."], "German")
    assert "Berta" in material.names and "The" not in material.names
    groups = [*PARTS["PHRASES"].values(), *PARTS["FURTHER"].values()]
    phrases = [phrase for group in groups for phrase in group] + list(PARTS["SYSTEMS"])
    for phrase in phrases:
        literal = [text for text, *_ in string.Formatter().parse(phrase)]
        filled = material.fill(phrase)
        assert all(text in filled for text in literal) and filled.startswith(literal[0])
        gaps = [field for _, field, *_ in string.Formatter().parse(phrase) if field]
        assert not any(f"{{{gap}}}" in filled for gap in gaps)


def test_passages_are_whole_sentences_of_the_text(texts):
    documents = load_documents(str(texts))["text"]
    material = PARTS["Material"](documents, random.Random(0))
    for _ in range(20):
        passage = material.passage(30, 80)
        assert 30 <= len(passage.split()) <= 80 and passage[-1] in ".!?"
        assert any(passage in document for document in documents)
        words = material.words(passage)
        assert sorted(words) == sorted(set(words)) and all(word in passage for word in words)


def test_code_is_written_as_documents(texts, tmp_path, monkeypatch):
    script(monkeypatch, texts, "--count", 1, "--output", tmp_path / "a.jsonl", "--code", tmp_path / "code.txt")
    documents = load_documents(str(tmp_path / "code.txt"))["text"]
    assert len(documents) > 500
    assert all(document.startswith(("def ", "class ")) for document in documents)
    assert max(len(document.splitlines()) for document in documents) <= 60


@pytest.mark.parametrize(
    "text, expected", [("Too short.", "none of them has 60 words"), ("word " * 300, "no 30 words of whole English")]
)
def test_texts_that_give_nothing_are_refused(text, expected, tmp_path, monkeypatch):
    (tmp_path / "poor.txt").write_text(text)
    with pytest.raises(SystemExit, match=expected):
        script(monkeypatch, tmp_path / "poor.txt", "--count", 5, "--output", tmp_path / "a.jsonl")
    assert not list(tmp_path.glob("a.jsonl*"))
