"""What arguments may be. What can't be meant is told at the call (promise 8), in the same words everywhere."""

from __future__ import annotations

import math

__all__ = ["check_count", "positive_seconds"]


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
