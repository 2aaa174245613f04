"""Types of options: durations and points in time."""

from __future__ import annotations

import datetime
import time

import click
import pytest

from txgearman.cli.options import DURATION, TIME


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10),
        ("10s", 10),
        ("1.5s", 1.5),
        (".5", 0.5),
        ("500ms", 0.5),
        ("5m", 300),
        ("1h", 3600),
        ("1.5d", 129600),
        (2.0, 2.0),  # the default of an option
    ],
)
def test_duration_is_converted_to_seconds(text: str | float, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["0", "0s", "-1", "+1h", "soon", "", "s", "1 h", "1e3", "inf", "nan", "1w", "٣", 0.0])
def test_invalid_duration_is_refused(text: str | float) -> None:
    with pytest.raises(click.BadParameter, match="must be a duration above 0, such as 10, 10s, 500ms, 5m or 1h, not "):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize("number", ["9" * 400, "9" * 400 + "d"])
def test_infinite_time_is_refused(number: str) -> None:
    for kind in (DURATION, TIME):
        with pytest.raises(click.BadParameter, match="must be"):
            kind.convert(number, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("+90s", 90), ("90s", 90), ("+90", 90), ("5m", 300), ("1h", 3600), ("+1h", 3600), ("+1.5d", 129600)],
)
def test_duration_as_time_counts_from_now(text: str, seconds: float) -> None:
    before = time.time()
    assert before + seconds <= TIME.convert(text, None, None) <= time.time() + seconds


NOON = datetime.datetime(2030, 1, 31, 12, 0).timestamp()  # without a zone: local time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1893456000", 1893456000),
        ("1893456000.5", 1893456000.5),
        (1893456000.5, 1893456000.5),
        ("2030-01-31T12:00", NOON),
        ("2030-01-01T00:00:00+00:00", 1893456000),
    ],
)
def test_absolute_time_is_converted_to_posix_seconds(text: str | float, seconds: float) -> None:
    assert TIME.convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text", ["tomorrow", "", "+", "-1h", "12:00", "h", "2030-13-01T00:00", "0001-01-01T00:00+23:59"]
)
def test_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(
        click.BadParameter, match=r"must be 90s, 5m, \+1h or 1d from now, 2030-01-31T12:00, or POSIX sec"
    ):
        TIME.convert(text, None, None)
