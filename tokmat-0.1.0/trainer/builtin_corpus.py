# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""English prose that every Python holds: the documents of `--data builtin`."""

import ast
import random
import re
import sysconfig
import textwrap
from inspect import cleandoc
from pathlib import Path

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
_MARKUP = [
    (re.compile(r"-\[ (.*?) \]-"), r"\1"),
    (re.compile(r":[a-z:]+:`([^`]*)`"), r"\1"),  # roles
    (re.compile(r"``?([^`\n]+?)(``?|')"), r"\1"),  # literals, and the older `name' quotes
    (re.compile(r"(?<![\w*])(\*\*?)(?=\S)([^*\n]+)(?<=\S)\1(?![\w*])"), r"\2"),  # emphasis
    (re.compile(r"::$", re.MULTILINE), ":"),
]
_UNDERLINE = re.compile(r"^\s*([-=*~^#+])\1{2,}\s*$", re.MULTILINE)


def builtin_documents() -> list[str]:
    """About 1.5 MB of English prose that every Python holds, in a fixed mixed order; versions differ a little.

    It is the language reference behind `help()` (a document per topic) and the docstrings of the standard library (a
    document per module), with code, tables and repetitions left out.

    Raises:
        RuntimeError: this Python has neither help topics nor its library's source.
    """
    seen: set[str] = set()
    found = {_prose([text], seen) for _, text in sorted(_help_topics().items())}
    for file in library_files():
        found.add(_prose(_docstrings(file), seen))
    documents = sorted(text for text in found if len(text.split()) >= 30)
    if not documents:
        raise RuntimeError(
            f"the built-in corpus is empty: no help topics, and no docstrings below {str(library())!r}."
        )
    random.Random(0).shuffle(documents)
    return documents


def _help_topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions split it off
        return {}
    return topics


def library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def library_files() -> list[Path]:
    """The source files of the standard library, without tests and what others installed there, sorted."""
    files = sorted(library().rglob("*.py"), key=lambda file: file.as_posix())
    return [file for file in files if _SKIPPED.isdisjoint(file.relative_to(library()).parts)]


def _docstrings(file: Path) -> list[str]:
    """The docstrings of a module, its classes and functions, in the order of the file."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted((node for node in ast.walk(tree) if isinstance(node, kinds)), key=lambda n: getattr(n, "lineno", 0))
    return [text for text in map(ast.get_docstring, nodes) if text]


def _prose(texts: list[str], seen: set[str]) -> str:
    """The paragraphs of `texts` that are English sentences, without markup and without those `seen` before."""
    kept, heading = [], None
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(map(cleandoc, texts))):
        plain, underlines = _UNDERLINE.subn("", paragraph)
        for pattern, replacement in _MARKUP:
            plain = pattern.sub(replacement, plain)
        plain = textwrap.dedent(plain).strip("\n")
        if underlines and "\n" not in plain:
            heading = plain  # kept with the next paragraph of prose, if there is one
        elif _is_prose(plain) and plain not in seen:
            seen.add(plain)
            kept += [heading, plain] if heading else [plain]
            heading = None
    return "\n\n".join(kept)


def _is_prose(paragraph: str) -> bool:
    words = len(re.findall(r"(?<!\S)[(\"']?[A-Za-z][a-z'-]*[.,;:!?)\"']*(?!\S)", paragraph))
    return words >= max(5, 0.75 * len(paragraph.split())) and not re.search(r">>>|::=|\S   +\S", paragraph)
