# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Every public name says what it is, and what each of its parameters is; the API reference has them all."""

import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import modeling_tokmat
import trainer

ROOT = Path(__file__).parents[1]
PUBLIC = {name: getattr(package, name) for package in (modeling_tokmat, trainer) for name in package.__all__}
AS_ELSEWHERE = re.compile(
    r"As in (transformers|torch)|transformers' `generate`, whose arguments all keep their meaning"
)


def own_functions(name, found):
    """The public functions, methods and constructors that `found` itself defines: (shown name, function). A method
    without a docstring that overrides one of transformers or torch is as it is described there."""
    if inspect.isfunction(found):
        yield name, found
        return
    if found is modeling_tokmat.TokMatForContinuousLM:
        yield f"{name}.generate", found.generate
    for member, value in vars(found).items():
        function = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))
        made_here = inspect.isfunction(function) and function.__module__ == found.__module__
        overrides = any(member in vars(base) for base in found.__mro__[1:]) and not function.__doc__
        if (
            made_here
            and not (member == "__init__" and is_dataclass(found))
            and (member == "__init__" or not (member.startswith("_") or overrides))
        ):
            yield f"{name}.{member}", function


FUNCTIONS = dict(function for name, found in PUBLIC.items() for function in own_functions(name, found))
FIELDS = (
    "TokMatConfig TokMatOutput TokMatGenerateOutput MaturationStep TailState MaturationSettings TokMatDataCollator "
)
FIELDS += "TokMatTrainingArguments"
SETTERS = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
for setter in SETTERS.split():  # properties of the configuration that its docstring tells together
    del FUNCTIONS[f"TokMatConfig.{setter}"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name):
    document = vars(PUBLIC[name])["__doc__"] if inspect.isclass(PUBLIC[name]) else PUBLIC[name].__doc__
    assert document and not document.startswith(f"{name}("), "a docstring of its own, not what dataclass makes up"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_described(name):
    function, owner = FUNCTIONS[name], PUBLIC[name.partition(".")[0]]
    document = owner.__doc__ if name.endswith("__init__") else function.__doc__
    parameters = [
        parameter for parameter in inspect.signature(function).parameters if parameter not in ("self", "cls")
    ]
    missing = [
        parameter for parameter in parameters if not re.search(rf"\b{parameter}\b", f"{document} {owner.__doc__}")
    ]
    assert document and (not missing or AS_ELSEWHERE.search(document)), missing


@pytest.mark.parametrize("name", FIELDS.split())
def test_every_field_is_described(name):
    fields = [field for field in vars(PUBLIC[name])["__annotations__"] if not field.startswith("_")]
    assert [field for field in fields if not re.search(rf"\b{field}\b", PUBLIC[name].__doc__)] == []


def test_the_reference_has_every_public_name():
    shown = re.findall(r"^::: \S+\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted([*PUBLIC, "generate"])
