# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat evaluate`: judge a model's text and tail beside people's and a baseline's."""

import shlex
from pathlib import Path

from ..arguments import EvaluateArguments, OneLineParser, given_settings, maturation_flags
from ..evaluation.report import save
from ..evaluation.run import evaluate
from ..evaluation.table import print_tables


def run(arguments: list[str]) -> int:
    parser = OneLineParser(
        [EvaluateArguments, maturation_flags()],
        prog="tokmat evaluate",
        usage="tokmat evaluate MODEL [MODEL ...] --data SOURCE [--baseline MODEL] [--judge MODEL] [options]",
        description="Judge a model's text and its tail beside people's text and a same-size autoregressive model's. "
        "Several models, of several training seeds perhaps, are rows of one table.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder or Hub name")
    values = parser.parse(arguments)
    options, settings = parser.parse_dict(values, allow_extra_keys=True)
    evaluation = evaluate(values["models"], options, given_settings(settings))
    shown = (Path(word).name if Path(word).is_absolute() else word for word in arguments)  # no path of this machine
    evaluation.result["command"] = shlex.join(["tokmat", "evaluate", *shown])
    print_tables(evaluation.result)
    if options.output:
        save(evaluation, Path(options.output))
    return 0
