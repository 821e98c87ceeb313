# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The texts of JSON, JSON-lines and CSV files, and the line of what is none.

They are not read by `datasets`, which guesses what columns hold: with one number among the texts of a JSON file all of
them come as JSON, in quotes, and a comma too many in every line of a CSV file moves the columns by one.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

_VALUE = re.compile(r"[^\s,]")  # where an element of an array begins


def table_documents(files: list[tuple[str, int, int]], text_column: str) -> Iterator[dict[str, str]]:
    """Each text that is not blank, as {"text": text}.

    Args:
        files: paths of .json, .jsonl and .csv files, each with its size and its time of change.

    Raises:
        ValueError: names the file, and the line where there is one, of what cannot be read or is no text.
    """
    for path, *_ in files:
        columns = {}
        rows = _csv_rows if path.lower().endswith(".csv") else _json_rows
        try:
            for line, row in rows(path):
                columns |= dict.fromkeys(row)
                text = row.get(text_column)
                if text is not None:
                    _check_text(text, path, line, text_column)
                    if text.strip():
                        yield {"text": text}
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {_line_that_is_not_utf8(path)}: it is not UTF-8 text ({error})") from error
        if not columns:
            raise ValueError(f"{path} holds no row: it is empty")
        if text_column not in columns:
            raise ValueError(f"text_column={text_column!r} is not a column of {path}; it has {sorted(columns)}.")


def _check_text(text, path: str, line: int, text_column: str) -> None:
    if not isinstance(text, str):
        kind = type(text).__name__
        raise ValueError(f"text_column={text_column!r} of {path}, line {line} must hold strings; it holds {kind}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a pair of escapes
        raise ValueError(f"{path}, line {line}: the text cannot be written as UTF-8 ({error})") from error


def _json_rows(path: str) -> Iterator[tuple[int, dict]]:
    """(line, row) of every JSON value: one per line, or the elements of one array. A string is a row's "text"."""
    with open(path, encoding="utf-8-sig") as file:
        begin = next((line.lstrip()[0] for line in file if line.strip()), "")
    for line, value in (_elements if begin == "[" else _json_lines)(path):
        value = {"text": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {line}: {str(value)[:60]} is neither an object nor a string")
        yield line, value


def _json_lines(path: str) -> Iterator[tuple[int, object]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(line, path, number)


def _elements(path: str) -> Iterator[tuple[int, object]]:
    text = Path(path).read_text(encoding="utf-8-sig")
    values, decoder = _parsed(text, path), json.JSONDecoder()
    end = text.index("[") + 1
    line = 1 + text.count("\n", 0, end)
    for value in values:
        start = next(_VALUE.finditer(text, end)).start()
        line += text.count("\n", end, start)
        yield line, value
        _, end = decoder.raw_decode(text, start)
        line += text.count("\n", start, end)


def _parsed(text: str, path: str, line: int | None = None):
    """The value of a JSON text that begins in `line`, or of a whole file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {line or error.lineno}: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise ValueError(f"{path}{f', line {line}' if line else ''}: {error}") from error


def _csv_rows(path: str) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(2**31 - 1)  # a document may be long
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            header = next(reader, [])
            line = reader.line_num + 1
            for fields in reader:
                if any(fields[len(header) :]):
                    raise ValueError(f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)}")
                if fields:
                    yield line, dict(zip(header, fields))
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}, line {line}: {error}") from error


def _line_that_is_not_utf8(path: str) -> int:
    content = Path(path).read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return content.count(b"\n", 0, error.start) + 1
    return 1
