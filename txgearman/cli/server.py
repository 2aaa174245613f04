"""``txgearman server``, and what commands that listen have in common."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import click
from twisted.internet.error import CannotListenError

from ..testing import MemoryJobServer
from ..testing.development import LogFile, hangups_handled, log_traffic
from ..testing.ports import MAX_PORT, host_and_port
from ..testing.server import host_handle_prefix
from .exit_codes import ExitCode
from .reactor_loop import usage_errors, wait_for_signal
from .terminal import Terminal

__all__ = ["listen_errors", "parse_listen", "server"]


class _ListenError(click.ClickException):
    """An address can't be listened on. It may be possible later, unlike after a usage error."""

    exit_code = ExitCode.NOT_LISTENING


_ADVICE: Final = {
    errno.EADDRINUSE: "choose another port by {}, or end the program that uses it (on Linux, ss -ltnp shows it)",
    errno.EACCES: "choose a port above 1023 by {}, or allow this program the others (CAP_NET_BIND_SERVICE)",
}
_OTHER_ADVICE: Final = "the host must be an address of this machine"


@contextmanager
def listen_errors(option: str = "--listen") -> Iterator[None]:
    """Convert a failure to listen to an error with an exit code of its own.

    :param option: the one with the address, for the error.
    """
    try:
        yield
    except CannotListenError as error:
        advice = _ADVICE.get(error.socketError.errno, _OTHER_ADVICE).format(option)
        address = host_and_port(error.interface, error.port)
        raise _ListenError(f"can't listen on {address}: {error.socketError.strerror}; {advice}") from error


async def server(
    terminal: Terminal, port: int, host: str, *, log_file: str | None, log_verbosity: int, **options: Any
) -> ExitCode:
    """Run an in-memory job server until a signal.

    :param log_file: path of a file for log events; None if they go to standard error.
    :param log_verbosity: how often ``-v`` was given.
    """
    options["job_handle_prefix"] = options.get("job_handle_prefix") or host_handle_prefix()
    log = _open_log_file(log_file, log_verbosity) if log_file is not None else None
    with usage_errors(), listen_errors("--port"):
        job_server = MemoryJobServer(terminal.reactor, **options)
        address = job_server.listen(port, host)
    log_traffic(job_server)
    try:
        with hangups_handled(terminal.reactor, log), log if log is not None else nullcontext():
            await terminal.write(f"a job server on {address}\n".encode())
            return await wait_for_signal()
    finally:
        await job_server.close()


def _open_log_file(path: str, verbosity: int) -> LogFile:
    try:
        return LogFile(path, verbosity)
    except OSError as error:
        raise click.UsageError(f"can't write the log file {path}: {error.strerror}") from error


def parse_listen(text: str, option: str = "--listen") -> tuple[str, int]:
    """Return the host and the port of ``[HOST:]PORT``. The default host is 127.0.0.1.

    :param option: for the error.
    :raises click.UsageError: it is invalid.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) <= MAX_PORT):
        raise click.UsageError(f"{option} must be PORT or HOST:PORT, with a port from 0 to {MAX_PORT}, not {text!r}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
