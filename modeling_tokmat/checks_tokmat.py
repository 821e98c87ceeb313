# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a value may be: errors that name the argument, its value and what is allowed."""

import math


def require(condition: bool, name: str, value, allowed: str) -> None:
    """Raise a `ValueError` that names the argument, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise ValueError(f"`{name}` is {value!r}, but it must be {allowed}.")


def is_number(value, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether `value` is a finite real number (not a bool) in [low, high]."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value) and low <= value <= high


def is_integer(value, low: int, high: float = math.inf) -> bool:
    """Whether `value` is an int (not a bool) in [low, high]."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
