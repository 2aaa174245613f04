"""What arguments may be. What can't be meant is told at the call (guarantee 8), in the same words everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["check_callback", "check_count", "check_flag", "positive_seconds"]


def positive_seconds(name: str, value: float) -> float:
    """Check a number of seconds, and return it.

    :raises TypeError: it is no number.
    :raises ValueError: it is not more than 0, or not finite.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
    return value


def check_count(name: str, value: int, least: int = 1) -> int:
    """Check a whole number, and return it.

    :raises TypeError: it is no `int`.
    :raises ValueError: it is less than `least`.
    """
    if type(value) is not int:
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Check a yes or no, and return it.

    :raises TypeError: it is no `bool`.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be bool, not {type(value).__name__}")
    return value


def check_callback(name: str, value: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Check what is to be called, and return it.

    :raises TypeError: it can't be called, and is not None either.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value
