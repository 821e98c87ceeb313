# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a value may be: errors that name the argument, its value and what is allowed."""

import math
import re
import sys

import torch

INDICES = (torch.int64, torch.int32)  # what an embedding takes
LARGEST = sys.float_info.max  # an int may be larger than any float
SHOWN = 200  # characters of a value in an error


def require(condition: bool, name: str, value, allowed: str) -> None:
    """Raise a `ValueError` that names the argument, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise ValueError(f"`{name}` is {_shown(value)}, but it must be {allowed}.")


def _shown(value) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits has none
        text = f"an int of {value.bit_length()} bits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def described(value) -> str:
    """What stands in an error for a value that may be large: a tensor's dtype and shape, or a type's name."""
    if torch.is_tensor(value):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def is_number(value, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether `value` is a finite real number (not a bool) in [low, high]."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
    return real and low <= value <= high


def is_integer(value, low: float, high: float = math.inf) -> bool:
    """Whether `value` is an int (not a bool) in [low, high]."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_pattern(value) -> bool:
    """Whether `value` is a str that compiles as a regular expression."""
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False
