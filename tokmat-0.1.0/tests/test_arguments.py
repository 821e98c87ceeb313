# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Every field is a flag with a help text."""

import dataclasses

from command_line import invoke

from modeling_tokmat import MaturationSettings, TokMatConfig
from modeling_tokmat.configuration_tokmat import tokmat_fields
from trainer.arguments import optional_fields
from trainer.commands.train import make_parser
from trainer.training_args import TokMatTrainingArguments


def test_every_field_is_a_flag_in_both_spellings():
    flags = make_parser()._option_string_actions
    init = [item.name for item in dataclasses.fields(TokMatTrainingArguments) if item.init]
    assert len(init) > 100
    for name in [*init, "embedding_radius", "negatives", "text_column"]:
        assert {f"--{name}", f"--{name.replace('_', '-')}"} <= set(flags), name
    values = make_parser().parse(
        "--data a b --learning_rate 0.5 --adam-beta2 0.5 --freeze-embeddings --max_tail_length 4".split()
    )
    assert values["data"] == ["a", "b"] and values["learning_rate"] == 0.5 and values["adam_beta2"] == 0.5
    assert values["freeze_embeddings"] is True and values["max_tail_length"] == 4
    assert values["weight_decay"] == 0.1 and values["alpha_max"] is None  # the command's default, and "not given"


def test_every_field_of_the_configuration_has_a_help_text():
    names = tokmat_fields()
    documented = optional_fields(TokMatConfig, "title", names).__dataclass_fields__
    assert [name for name in names if not documented[name].metadata["help"]] in ([], ["tie_word_embeddings"])


def test_every_maturation_setting_is_an_option():
    output = invoke("generate", "--help").output
    names = {item.name for item in dataclasses.fields(MaturationSettings)} - {"output_maturation", "output_tail"}
    assert [name for name in names if f"--{name.replace('_', '-')}" not in output] == []


def test_what_switches_off_says_so():
    output = " ".join(invoke("own-text", "--help").output.split())
    assert "--no-stop-loops the opposite of --stop-loops" in output
    assert output.count("stop an answer that says one phrase three times") == 1
