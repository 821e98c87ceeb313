# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The built-in corpus."""

import inspect
import sys

import pytest

from trainer import builtin_corpus
from trainer.builtin_corpus import builtin_documents


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.fixture(scope="module")
def builtin():
    return builtin_documents()


def test_builtin_is_long_readable_and_distinct(builtin):
    assert sum(map(len, builtin)) > 500_000
    assert len(builtin) > 200
    assert len(set(builtin)) == len(builtin)
    assert all(len(document.split()) >= 30 for document in builtin)
    everything = "\n".join(builtin)
    assert sum(c.isalpha() or c.isspace() for c in everything) > 0.9 * len(everything)
    for markup in (">>>", "-[ ", "****", "::=", ":func:`"):
        assert markup not in everything
    assert any("statement" in document for document in builtin)


def test_builtin_order_is_fixed_and_mixed(builtin):
    assert builtin_documents() == builtin
    assert sorted(builtin) != builtin


def test_builtin_without_topics(monkeypatch, tmp_path):
    words = " ".join(["Some words that are read as prose."] * 6)
    source = f'"""Module. {words}"""\nclass A:\n    def late(self): "Method. {words}"\ndef b(): "Last. {words}"\n'
    write(tmp_path / "module.py", source)
    write(tmp_path / "broken.py", "def (:")
    write(tmp_path / "test/test_it.py", source.replace("Some", "Other"))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(builtin_corpus.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert builtin_documents() == [f"Module. {words}\n\nMethod. {words}\n\nLast. {words}"]
    (tmp_path / "module.py").unlink()
    with pytest.raises(RuntimeError, match="built-in corpus is empty"):
        builtin_documents()


def test_prose_filter_and_markup():
    text = inspect.cleandoc(
        """
        Title words
        ***********

        -[ Heading ]-
        The *first* value of ``list`` is **never** changed by :func:`sorted` calls::

            >>> sorted([2, 1])

           if_stmt ::= "if" assignment_expression ":" suite

        Nothing but code
        ================

        x = f(*args, **kwargs) + 3

        The first paragraph is not repeated below this one.
        """
    )
    prose = "Title words\n\nHeading\nThe first value of list is never changed by sorted calls:"
    last = "The first paragraph is not repeated below this one."
    assert builtin_corpus._prose([text, last], set()) == f"{prose}\n\nNothing but code\n\n{last}"
