# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat train`: every field of the plan's classes as a flag."""

from modeling_tokmat import TokMatConfig

from ..arguments import DataArguments, ModelArguments, OneLineParser, optional_fields
from ..recipes import SCRATCH_HELP, TRAINING_DEFAULTS
from ..training_args import TokMatTrainingArguments
from ..training_run import TrainingPlan, config_fields, fit


def make_parser() -> OneLineParser:
    tokmat = optional_fields(TokMatConfig, "what the weights are trained for", config_fields(), SCRATCH_HELP)
    parser = OneLineParser(
        [DataArguments, ModelArguments, tokmat, TokMatTrainingArguments],
        prog="tokmat train",
        usage="tokmat train --data SOURCE [options]",
        description="Train a TokMat model, from scratch or on from a saved one. Ctrl-C saves a checkpoint first; "
        '"--resume-from-checkpoint last" goes on from it. A bare --debug (or TOKMAT_DEBUG=1) shows tracebacks.',
    )
    parser.set_defaults(**TRAINING_DEFAULTS, bf16=None, eval_strategy=None)
    return parser


def run(arguments: list[str]) -> int:
    return fit(TrainingPlan.of(**make_parser().parse(arguments)))
