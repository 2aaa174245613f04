"""What several commands take on the command line, and how it is read. It imports nothing slow."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

__all__ = ["DEFAULT_SERVER", "SECONDS", "Servers", "TIME", "output_options", "server_options"]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SERVER: Final = "127.0.0.1:4730"

if TYPE_CHECKING:
    _Float = click.ParamType[float]
else:
    _Float = click.ParamType  # older versions have no more to say of it

_RELATIVE: Final = re.compile(r"\+(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Servers:
    """Which job servers a command is about, and how it talks to them.

    :ivar addresses: as `GearmanClient` takes them.
    :ivar prefix: of functions' names.
    :ivar connect_timeout: seconds.
    """

    addresses: list[str]
    prefix: bytes
    connect_timeout: float


class _Seconds(_Float):
    """A positive number of seconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is not a positive number of seconds", param, ctx)
        return seconds


class _Time(_Float):
    """A moment: POSIX seconds, an ISO date and time (local, unless it says otherwise), or ``+`` and a time from now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        moment = _moment(str(value))
        if moment is None:
            self.fail(f"{value!r} is none of POSIX seconds, 2030-01-31T12:00 and +90s, +5m, +2h, +1d", param, ctx)
        return moment


def _moment(text: str) -> float | None:
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


def _addresses(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    given = value or tuple(re.split(r"[,\s]+", os.environ.get("GEARMAN_SERVERS", "").strip(", \t\n")))
    return [address for address in given if address] or [DEFAULT_SERVER]


def server_options(function: F) -> F:
    """Let a command have servers: it gets ``servers``, a `Servers`."""

    def with_servers(server: list[str], prefix: str, connect_timeout: float, **others: Any) -> Any:
        return function(servers=Servers(server, os.fsencode(prefix), connect_timeout), **others)

    with_servers.__name__ = function.__name__
    with_servers.__doc__ = function.__doc__
    with_servers.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # click's
    for option in (
        click.option(
            "--connect-timeout",
            type=SECONDS,
            default=10.0,
            show_default=True,
            help="How long to wait for a server's first answer.",
        ),
        click.option("--prefix", default="", metavar="PREFIX", help="Goes before functions' names, with a TAB."),
        click.option(
            "-s",
            "--server",
            multiple=True,
            metavar="ADDRESS",
            callback=_addresses,
            help="A job server: host, host:port, [v6]:port or a Twisted endpoint such as tls:host:4730. May be given "
            f"several times. Else those in GEARMAN_SERVERS, with commas between them; else {DEFAULT_SERVER}.",
        ),
    ):
        option(with_servers)
    return with_servers  # type: ignore[return-value]  # click calls it by the names of its options


def output_options(function: F) -> F:
    """Let a command print a table in several ways, and again and again: it gets ``json`` and ``watch``."""
    click.option(
        "-w",
        "--watch",
        type=SECONDS,
        is_flag=False,
        flag_value="2",
        metavar="[SECONDS]",
        help="Print it again, every so many seconds (2).",
    )(function)
    click.option("--json", is_flag=True, help="Print JSON, for programs.")(function)
    return function
