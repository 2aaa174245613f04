"""Conventions of Nagios plugins: states, ranges, performance data."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

__all__ = ["RANGE", "NagiosCommand", "Range", "State", "performance", "plain"]


class State(enum.IntEnum):
    """State of a service, which is the exit code of the plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Range:
    """A range of values, outside of which there is an alert.

    :ivar text: as it was written.
    :ivar inside: whether there is an alert inside of it instead, limits included.
    """

    text: str
    low: float
    high: float
    inside: bool

    def alerts(self, value: float) -> bool:
        """Return whether there is an alert for a value."""
        return (self.low <= value <= self.high) is self.inside


_NUMBER: Final = r"-?\d+(?:\.\d+)?"
_RANGE: Final = re.compile(rf"(@)?(?:({_NUMBER}|~)?(:))?({_NUMBER})?", re.ASCII)


def parse_range(text: str) -> Range | None:
    """Parse ``10``, ``10:``, ``~:10``, ``10:20`` or ``@10:20``; None for anything else."""
    match = _RANGE.fullmatch(text)
    if match is None or not (match[2] or match[4]):
        return None
    low = -math.inf if match[2] == "~" else float(match[2] or 0)
    high = float(match[4]) if match[4] else math.inf
    return Range(text, low, high, bool(match[1])) if low <= high else None


if TYPE_CHECKING:
    _RangeBase = click.ParamType[Range]
else:
    _RangeBase = click.ParamType  # not generic at run time in older versions of click


class _RangeType(_RangeBase):
    """Parameter type of a range."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Range:
        found = parse_range(value)
        if found is None:
            self.fail(f"must be a range such as 10, 10:, ~:10, 10:20 or @10:20, not {value!r}", param, ctx)
        return found


RANGE: Final = _RangeType()


def performance(label: str, value: int, warning: Range | None = None, critical: Range | None = None) -> str:
    """Return an item of the performance data."""
    quoted = label.replace("=", "\\x3d").replace("'", "''")
    limits = [str(value), warning.text if warning else "", critical.text if critical else "", "0"]
    return f"'{quoted}'={';'.join(limits)}"


def plain(text: str) -> str:
    """Return a text without the character that separates it from the performance data."""
    return text.replace("|", "\\x7c")


class _UnknownState(click.UsageError):
    """A usage error of a plugin."""

    exit_code = State.UNKNOWN


@contextmanager
def _usage_errors_are_unknown() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        raise _UnknownState(error.format_message(), error.ctx) from error


class NagiosCommand(click.Command):
    """A command whose usage errors have the exit code of `State.UNKNOWN`: 2 would be critical."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _usage_errors_are_unknown():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _usage_errors_are_unknown():
            return super().invoke(ctx)
