# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""JSON, JSON-lines and CSV files: every text as it stands there, or the file and the line of what is none."""

import json
import re

import pytest

from trainer.data import load_documents

pytestmark = pytest.mark.usefixtures("own_folder", "datasets_cache")


def written(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("lines.jsonl", '{"text": "a"}\n\n{"other": 1}\n{"text": null}\n{"text": "b", "other": "x"}', ["a", "b"]),
        ("array.json", '\ufeff \n[{"text": "a"},\n{"other": 1}, {"text": "b", "other": "x"}]\n', ["a", "b"]),
        ("strings.json", '["a",\n"b"]', ["a", "b"]),
        ("one.json", '{"text": "a"}', ["a"]),
        ("numbers.csv", "text,label\n1,x\nNA,y\n,z\n", ["1", "NA"]),
        ("lines.csv", 'text,label\r\n"a\r\nb, c",x\r\n\r\nd,y\r\n', ["a\r\nb, c", "d"]),
        ("one-comma-more.csv", "text,label\nhello world,good,\nmore,bad,\n", ["hello world", "more"]),
        ("long.csv", "text\n" + "x" * 200_000, ["x" * 200_000]),
    ],
)
def test_texts_are_what_the_file_holds(name, content, texts, streaming, tmp_path):
    found = load_documents(written(name, content, tmp_path), streaming=streaming)
    assert [row["text"] for row in found] == texts


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("number.json", '[\n {"text": "a"},\n {"text": 3}\n]', "number.json, line 3 must hold strings; it holds int"),
        ("number.jsonl", '{"text": "a"}\n{"text": 3}\n', "number.jsonl, line 2 must hold strings; it holds int"),
        ("nested.json", '\n[{"text": "a"},\n\n{"text": {"b": 1}}]', "nested.json, line 4 must hold strings"),
        ("element.json", '[\n {"text": "a"},\n 5\n]', "element.json, line 3: 5 is neither an object nor a string"),
        ("null.json", '[{"text": "a"},\nnull]', "null.json, line 2: None is neither"),
        ("row.jsonl", '{"text": "a"}\n["b"]\n', "row.jsonl, line 2: ['b'] is neither"),
        ("comma.json", '[\n {"text": "a"},\n {"text": "b",}\n]', "comma.json, line 3: "),
        ("cut.json", '[\n {"text": "a"},\n {"text": "b"', "cut.json, line 3: "),
        ("cut.jsonl", '{"text": "a"}\n\n{"text": "b"\n', "cut.jsonl, line 3: "),
        ("deep.jsonl", '{"text": "a"}\n' + "[" * 100_000, "deep.jsonl, line 2: "),
        ("digits.jsonl", '{"text": "a"}\n{"id": ' + "9" * 5000 + "}", "digits.jsonl, line 2: "),
        ("half.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n', "half.jsonl, line 2: the text cannot be written"),
        ("bytes.json", b'[\n{"text": "a"},\n{"text": "\xe9"}]', "bytes.json, line 3: it is not UTF-8 text"),
        ("bytes.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "bytes.jsonl, line 2: it is not UTF-8 text"),
        ("bytes.csv", b"text\na\n\xe9\n", "bytes.csv, line 3: it is not UTF-8 text"),
        ("quote.csv", 'text,label\n"a\nb",x\n"c,y\nd,z\n', "quote.csv, line 4: "),
        ("comma.csv", "text,label\nhello, world,good\n", "comma.csv, line 2: 3 fields, but the header has 2"),
        ("empty.json", "[]", "empty.json holds no row"),
    ],
)
def test_what_is_no_text_is_named_with_its_line(name, content, expected, tmp_path):
    path = written(name, content, tmp_path)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=re.escape(expected)):
            list(load_documents(path, streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_number_late_in_a_large_file(streaming, tmp_path):
    # A reader that guesses types from the first part would put the later texts into quotes.
    rows = [json.dumps({"text": "x" * 100_000})] * 120 + ['{"text": 3}', '{"text": "last"}']
    path = written("large.jsonl", "\n".join(rows), tmp_path)
    with pytest.raises(ValueError, match="large.jsonl, line 121 must hold strings"):
        list(load_documents(path, streaming=streaming))


def test_a_later_document_that_is_not_utf8(tmp_path):
    path = written("late.txt", b"a\n<|endoftext|>\n" + b"b" * 100_000 + b"\xff", tmp_path)
    with pytest.raises(ValueError, match="late.txt.* is not UTF-8 text"):
        load_documents(path)
