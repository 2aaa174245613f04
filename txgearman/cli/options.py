"""Options that several commands share, and their types. It imports nothing slow, so that ``--help`` is fast."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

__all__ = ["DEFAULT_SERVER", "DURATION", "Servers", "TIME", "output_options", "server_options", "timeout_option"]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SERVER: Final = "127.0.0.1:4730"

if TYPE_CHECKING:
    _Float = click.ParamType[float]
else:
    _Float = click.ParamType  # not generic at run time in older versions of click

_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|[smhd])?", re.ASCII)
_UNITS: Final = {"ms": 0.001, None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Servers:
    """The job servers of a command, and how it connects to them.

    :ivar addresses: their addresses, as `GearmanClient` takes them.
    :ivar prefix: prefix of function names, without the TAB.
    :ivar connect_timeout: seconds that a server may take for its first answer.
    """

    addresses: list[str]
    prefix: bytes
    connect_timeout: float


class _Duration(_Float):
    """Parameter type of a duration above 0, in seconds, such as ``10``, ``10s``, ``500ms``, ``1.5h``, ``1d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(value) if isinstance(value, (int, float)) else _parse_duration(value)
        if seconds is None or not 0 < seconds < math.inf:
            self.fail(f"must be a duration above 0, such as 10, 10s, 500ms, 5m or 1h, not {value!r}", param, ctx)
        return seconds


def _parse_duration(text: str) -> float | None:
    """Return a duration in seconds, which are the unit of a number without one; None if it is invalid."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _UNITS[match[2]] if match else None


class _Time(_Float):
    """Parameter type of a point in time, converted to POSIX seconds.

    It may be POSIX seconds, an ISO date and time (local unless it has a zone), or a duration from now: ``1h``, ``+1h``.
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(value) if isinstance(value, (int, float)) else _parse_time(value)
        if seconds is None or not 0 <= seconds < math.inf:
            self.fail(
                f"must be 90s, 5m, +1h or 1d from now, 2030-01-31T12:00, or POSIX seconds, not {value!r}", param, ctx
            )
        return seconds


def _parse_time(text: str) -> float | None:
    """Return a point in time as POSIX seconds, or None if it is invalid."""
    if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII):
        return float(text)
    duration = _parse_duration(text.removeprefix("+"))
    if duration is not None:
        return datetime.datetime.now(datetime.timezone.utc).timestamp() + duration
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


DURATION: Final = _Duration()
TIME: Final = _Time()


def _server_addresses(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    """Return the addresses of ``--server``; by default those of ``GEARMAN_SERVERS``, or else `DEFAULT_SERVER`."""
    addresses = value or tuple(re.split(r"[,\s]+", os.environ.get("GEARMAN_SERVERS", "").strip(", \t\n")))
    return [address for address in addresses if address] or [DEFAULT_SERVER]


def server_options(function: F) -> F:
    """Add the options for job servers to a command, which receives ``servers``, a `Servers`."""

    def with_servers(server: list[str], prefix: str, connect_timeout: float, **others: Any) -> Any:
        return function(servers=Servers(server, os.fsencode(prefix), connect_timeout), **others)

    with_servers.__name__ = function.__name__
    with_servers.__doc__ = function.__doc__
    with_servers.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # click's own attribute
    for option in (
        click.option(
            "--connect-timeout",
            type=DURATION,
            default=10.0,
            show_default=True,
            help="How long a server may take for its first answer.",
        ),
        click.option("--prefix", default="", metavar="PREFIX", help="Prefix of function names; a TAB follows it."),
        click.option(
            "-s",
            "--server",
            multiple=True,
            metavar="ADDRESS",
            callback=_server_addresses,
            help="Job server: host, host:port, [v6]:port or a Twisted endpoint such as tls:host:4730. May be repeated. "
            f"The default is GEARMAN_SERVERS, a comma-separated list, or else {DEFAULT_SERVER}.",
        ),
    ):
        option(with_servers)
    return with_servers  # type: ignore[return-value]  # click passes all arguments by keyword


def output_options(function: F) -> F:
    """Add the options for the format of a table to a command, which receives ``json`` and ``watch``."""
    click.option(
        "-w",
        "--watch",
        type=DURATION,
        is_flag=False,
        flag_value="2",
        metavar="[DURATION]",
        help="Repeat every DURATION (2) until Ctrl-C.",
    )(function)
    click.option("--json", is_flag=True, help="Print JSON.")(function)
    return function


timeout_option: Final = click.option(
    "-t",
    "--timeout",
    type=DURATION,
    default=10.0,
    show_default=True,
    help="How long a server may take to send its answer, or the next part of it.",
)
