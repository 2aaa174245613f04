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

__all__ = ["DEFAULT_SERVER", "SECONDS", "Servers", "TIME", "output_options", "server_options", "timeout_option"]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SERVER: Final = "127.0.0.1:4730"

if TYPE_CHECKING:
    _Float = click.ParamType[float]
else:
    _Float = click.ParamType  # not generic at run time in older versions of click

_RELATIVE: Final = re.compile(r"\+(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


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


class _Seconds(_Float):
    """Parameter type of a positive number of seconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            self.fail(f"must be a positive number of seconds, not {value!r}", param, ctx)
        return seconds


class _Time(_Float):
    """Parameter type of a point in time, converted to POSIX seconds.

    It may be POSIX seconds, an ISO date and time (local unless it has a zone), or ``+`` and a time from now.
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = _parse_time(str(value))
        if seconds is None:
            self.fail(f"must be POSIX seconds, 2030-01-31T12:00, or +90s, +5m, +2h, +1d, not {value!r}", param, ctx)
        return seconds


def _parse_time(text: str) -> float | None:
    """Return a point in time as POSIX seconds, or None if it is invalid."""
    match = _RELATIVE.fullmatch(text)
    if match:
        now = datetime.datetime.now(datetime.timezone.utc).timestamp()
        return now + float(match[1]) * _UNITS[match[2]]
    try:
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


SECONDS: Final = _Seconds()
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
            type=SECONDS,
            default=10.0,
            show_default=True,
            help="Seconds that a server may take for its first answer.",
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
        type=SECONDS,
        is_flag=False,
        flag_value="2",
        metavar="[SECONDS]",
        help="Repeat every SECONDS (2) until Ctrl-C.",
    )(function)
    click.option("--json", is_flag=True, help="Print JSON.")(function)
    return function


timeout_option: Final = click.option(
    "-t",
    "--timeout",
    type=SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds that a server may take to send its answer, or the next part of it.",
)
