# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The tasks' data, read from beside this file: lm_eval itself would look for files in the working directory.

lm_eval calls each function with everything that it knows about the run.
"""

import json
from pathlib import Path

from datasets import Dataset

HERE = Path(__file__).parent


def stories(text=HERE / "stories.txt", **_):
    """One row per document of a text file; `--metadata '{"text": "my.txt"}'` gives another one.

    Stripped, because lm_eval splits at white space to count words: a line break at the end would be one more.
    """
    documents = Path(text).read_text(encoding="utf-8").split("<|endoftext|>")
    return {"test": Dataset.from_dict({"text": [document.strip() for document in documents if document.strip()]})}


def endings(**_):
    return {"test": read("endings.jsonl")}


def words(**_):
    return {"test": read("words.jsonl")}


def read(name):
    return Dataset.from_list([json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()])
