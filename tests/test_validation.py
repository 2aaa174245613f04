"""Argument validation (guarantee 8)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from txgearman.validation import check_callback, check_count, check_flag, positive_seconds


@pytest.mark.parametrize("value", [1e-9, 1, 0.5, 1e300])
def test_seconds(value: float) -> None:
    assert positive_seconds("timeout", value) == value


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan, math.inf, -math.inf])
def test_invalid_seconds_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"timeout must be a positive number of seconds, not {value!r}"):
        positive_seconds("timeout", value)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("value", ["5", b"5", None, [5], 5j])
def test_seconds_that_are_not_a_number_are_refused(value: Any) -> None:
    """The error names the argument."""
    with pytest.raises(TypeError, match="timeout must be"):
        positive_seconds("timeout", value)


@pytest.mark.parametrize("value", [1, 2**63])
def test_count(value: int) -> None:
    """There is no upper limit."""
    check_count("max_jobs", value)
    with pytest.raises(ValueError, match="max_jobs"):
        check_count("max_jobs", -value)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("value", [0, -1])
def test_too_small_count_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=f"max_jobs must be at least 1, not {value}"):
        check_count("max_jobs", value)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(("value", "kind"), [(1.0, "float"), ("1", "str"), (True, "bool"), (None, "NoneType")])
def test_count_that_is_not_an_int_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"max_jobs must be int, not {kind}"):
        check_count("max_jobs", value)


@pytest.mark.parametrize("value", [True, False])
def test_flag(value: bool) -> None:
    assert check_flag("drop_on_cancel", value) is value


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(("value", "kind"), [(1, "int"), ("yes", "str"), (None, "NoneType")])
def test_flag_that_is_not_a_bool_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"drop_on_cancel must be bool, not {kind}"):
        check_flag("drop_on_cancel", value)


@pytest.mark.parametrize("value", [print, [].append, int, None])
def test_callback(value: Any) -> None:
    assert check_callback("on_data", value) is value


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(("value", "kind"), [("print", "str"), (b"", "bytes"), (False, "bool")])
def test_callback_that_is_not_callable_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"on_data must be callable, not {kind}"):
        check_callback("on_data", value)
