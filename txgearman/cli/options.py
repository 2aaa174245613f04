"""Options that several commands share, and their types. It imports nothing slow, so that ``--help`` is fast."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

__all__ = [
    "DEFAULT_SERVER",
    "DURATION",
    "SHARED_OPTIONS",
    "Servers",
    "TIME",
    "as_option",
    "log_option",
    "output_options",
    "parse_duration",
    "server_options",
    "shared_server_options",
    "timeout_option",
]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SERVER: Final = "127.0.0.1:4730"

TLS_VARIABLES: Final = {
    "trust_roots": "GEARMAND_CA_CERTIFICATE",
    "certificate": "GEARMAN_CLIENT_PEM",
    "private_key": "GEARMAN_CLIENT_KEY",
}
"""The environment variables of the C tools, by the arguments of `TLSOptions`."""

if TYPE_CHECKING:
    from ..connection.tls import TLSOptions

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
    :ivar tls_files: the files of the options for TLS, by the names of the arguments of `TLSOptions`.
    """

    addresses: list[str]
    prefix: bytes = b""
    connect_timeout: float = 10.0
    tls_files: Mapping[str, str] = field(default_factory=dict)

    def tls_options(self) -> TLSOptions | None:
        """Read the files of the options for TLS, or else of the environment. None if no server needs them.

        :raises ValueError: a file is invalid.
        :raises click.UsageError: there are options for TLS, but no server that they apply to.
        """
        from ..connection.addresses import takes_tls_options
        from ..connection.tls import TLSOptions

        files = _environment_files()
        if "certificate" in self.tls_files:
            files.pop("private_key", None)  # of another certificate
        files |= self.tls_files
        if any(map(takes_tls_options, self.addresses)):
            trust_roots, certificate, private_key = map(files.get, TLS_VARIABLES)
            return TLSOptions(trust_roots, certificate, private_key) if files else None
        if self.tls_files:
            raise click.UsageError("--tls-ca, --tls-cert and --tls-key require a server such as tls:host:4730")
        return None


def _environment_files() -> dict[str, str]:
    """Return the files that the environment names for TLS, by the names of the arguments of `TLSOptions`."""
    found = {argument: os.environ.get(variable, "") for argument, variable in TLS_VARIABLES.items()}
    return {argument: path for argument, path in found.items() if path}


_OPTIONS_BY_ARGUMENT: Final = {
    "job_servers": "--server",
    "trust_roots": "--tls-ca",
    "certificate": "--tls-cert",
    "private_key": "--tls-key",
    "connect_timeout": "--connect-timeout",
    "server_timeout": "--server-timeout",
    "server_wait": "--wait",
    "client_id": "--client-id",
    "prefix": "--prefix",
    "unique": "--unique",
    "at": "--at",
    "function": "FUNCTION",
    "host": "--host",
    "handle": "HANDLE",
    "text": "HANDLE",
    "limit": "LIMIT",
}
"""What the command line calls the arguments that errors of the library begin with."""


def as_option(message: str) -> str:
    """Return an error of the library about an argument in the words of the command line."""
    argument, _, rest = message.partition(" ")
    name = argument.removesuffix(":")
    option = _OPTIONS_BY_ARGUMENT.get(name)
    return message if option is None else f"{option}{argument[len(name) :]} {rest}"


class _Duration(_Float):
    """Parameter type of a duration above 0, in seconds, such as ``10``, ``10s``, ``500ms``, ``1.5h``, ``1d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(value) if isinstance(value, (int, float)) else parse_duration(value)
        if seconds is None or not 0 < seconds < math.inf:
            self.fail(f"must be a duration above 0, such as 10, 10s, 500ms, 5m or 1h, not {value!r}", param, ctx)
        return seconds


def parse_duration(text: str) -> float | None:
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
    duration = parse_duration(text.removeprefix("+"))
    if duration is not None:
        return datetime.datetime.now(datetime.timezone.utc).timestamp() + duration
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


DURATION: Final = _Duration()
TIME: Final = _Time()


def _server_addresses(given: tuple[str, ...]) -> list[str]:
    """Return the addresses that were given, by default those of ``GEARMAN_SERVERS``, or else `DEFAULT_SERVER`.

    :raises click.UsageError: an address is empty, such as an unset variable of a shell: the default would be another
        server than was meant.
    """
    if "" in given:
        raise click.UsageError("--server must be an address, not ''")
    addresses = given or tuple(re.split(r"[,\s]+", os.environ.get("GEARMAN_SERVERS", "").strip(", \t\n")))
    return [address for address in addresses if address] or [DEFAULT_SERVER]


_SERVER_OPTIONS: Final = (
    click.option(
        "-s",
        "--server",
        multiple=True,
        metavar="ADDRESS",
        help="Job server: host, host:port, [v6]:port, tls:host:port or another Twisted endpoint. May be repeated. "
        f"[default: GEARMAN_SERVERS, a comma-separated list, or else {DEFAULT_SERVER}]",
    ),
    click.option("--prefix", default="", metavar="PREFIX", help="Prefix of function names; a TAB follows it."),
    click.option(
        "--connect-timeout",
        type=DURATION,
        default=10.0,
        help="How long a server may take for its first answer. [default: 10s]",
    ),
    click.option(
        "--tls-ca",
        metavar="FILE",
        help="CA certificates that servers at tls: addresses are verified with. [default: GEARMAND_CA_CERTIFICATE, "
        "or else those of the system]",
    ),
    click.option(
        "--tls-cert", metavar="FILE", help="Client certificate for tls: addresses. [default: GEARMAN_CLIENT_PEM]"
    ),
    click.option(
        "--tls-key",
        metavar="FILE",
        help="Its private key, if it is in another file. [default: GEARMAN_CLIENT_KEY]",
    ),
)


SHARED_OPTIONS: Final = frozenset(
    ["server", "prefix", "connect_timeout", "tls_ca", "tls_cert", "tls_key", "verbose", "help"]
)
"""Names of the options that most commands have."""


def server_options(function: F) -> F:
    """Add the options for job servers to a command, which receives ``servers``, a `Servers`."""

    def with_servers(
        server: tuple[str, ...],
        prefix: str,
        connect_timeout: float,
        tls_ca: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        **others: Any,
    ) -> Any:
        files = {"trust_roots": tls_ca, "certificate": tls_cert, "private_key": tls_key}
        given = {argument: path for argument, path in files.items() if path is not None}
        return function(
            servers=Servers(_server_addresses(server), os.fsencode(prefix), connect_timeout, given), **others
        )

    with_servers.__name__ = function.__name__
    with_servers.__doc__ = function.__doc__
    with_servers.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # click's own attribute
    return shared_server_options(with_servers)  # type: ignore[return-value]  # click passes all arguments by keyword


def shared_server_options(function: F) -> F:
    """Add the options for job servers, as they are: for the group, which passes them on to its commands."""
    for option in reversed(_SERVER_OPTIONS):
        option(function)
    return function


def _add_verbosity(context: click.Context, _: click.Parameter, value: int) -> None:
    settings = context.ensure_object(dict)
    settings["verbose"] = settings.get("verbose", 0) + value


log_option: Final = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_add_verbosity,
    help="Log connection events; twice for debug messages.",
)
"""Verbosity of the log. Before and after the command it adds up."""


def output_options(function: F) -> F:
    """Add the options for the format of a table to a command, which receives ``json`` and ``watch``."""
    click.option(
        "-w",
        "--watch",
        type=DURATION,
        is_flag=False,
        flag_value="2",
        metavar="[DURATION]",
        help="Repeat every DURATION [default: 2s] until q or Ctrl-C.",
    )(function)
    click.option("--json", is_flag=True, help="Print JSON.")(function)
    return function


timeout_option: Final = click.option(
    "--server-timeout",
    "timeout",
    type=DURATION,
    default=10.0,
    help="How long a server may take to send its answer, or the next part of it. [default: 10s]",
)
