"""``txgearman server``, and the HTTP server of ``txgearman metrics --listen``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ..testing import MemoryJobServer
from ..testing.development import LogFile, hangups_handled, log_traffic
from ..testing.ports import MAX_PORT, host_and_port
from ..testing.server import host_handle_prefix
from .exit_codes import ExitCode
from .reactor_loop import usage_errors
from .terminal import Terminal

__all__ = ["listen_errors", "parse_listen", "serve_page", "server", "wait_for_signal"]


@contextmanager
def listen_errors() -> Iterator[None]:
    """Convert a failure to listen to a usage error."""
    try:
        yield
    except CannotListenError as error:
        raise click.UsageError(str(error)) from error


async def server(
    terminal: Terminal, port: int, host: str, *, log_file: str | None, log_verbosity: int, **options: Any
) -> ExitCode:
    """Run an in-memory job server until a signal.

    :param log_file: path of a file for log events; None if they go to standard error.
    :param log_verbosity: how often ``-v`` was given.
    """
    options["job_handle_prefix"] = options.get("job_handle_prefix") or host_handle_prefix()
    log = _open_log_file(log_file, log_verbosity) if log_file is not None else None
    with usage_errors(), listen_errors():
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


def parse_listen(text: str) -> tuple[str, int]:
    """Return the host and the port of ``[HOST:]PORT``, for ``--listen``. The default host is 127.0.0.1.

    :raises click.UsageError: it is invalid.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) <= MAX_PORT):
        raise click.UsageError(f"--listen must be PORT or HOST:PORT, with a port from 0 to {MAX_PORT}, not {text!r}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def wait_for_signal() -> Deferred[ExitCode]:
    """Return a Deferred that never fires by itself: a signal cancels the command, and this with it."""
    return Deferred()


class _Page(Resource):
    """The only page of a site, rendered anew for each request."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self, path: str, content_type: str, render: Callable[[], Any]) -> None:
        super().__init__()
        self._path = path
        self._content_type = content_type
        self._render_page = render

    def render_GET(self, request: Request) -> Any:  # noqa: N802  # Twisted's name
        if request.path != self._path.encode():
            request.setResponseCode(404)
            return f"not found; the only page is {self._path}\n".encode()
        page = ensureDeferred(self._render_page())
        request.notifyFinish().addErrback(lambda _: page.cancel())
        page.addCallbacks(self._page_rendered, self._page_failed, callbackArgs=(request,), errbackArgs=(request,))
        return NOT_DONE_YET

    def _page_rendered(self, content: bytes, request: Request) -> None:
        request.setHeader("Content-Type", self._content_type)
        request.write(content)
        request.finish()

    def _page_failed(self, failure: Failure, request: Request) -> None:
        if request.channel is not None:  # None once the HTTP client has disconnected
            request.setResponseCode(500)
            request.write(f"{failure.getErrorMessage()}\n".encode())
            request.finish()


async def serve_page(
    terminal: Terminal, address: str, path: str, content_type: str, render: Callable[[], Any]
) -> ExitCode:
    """Serve one page over HTTP until a signal.

    :param address: ``port`` or ``host:port``; the default host is 127.0.0.1.
    :param render: coroutine function that returns the content as bytes.
    """
    site = Site(_Page(path, content_type, render))
    host, port = parse_listen(address)
    with listen_errors():
        listening = terminal.reactor.listenTCP(port, site, interface=host)
    try:
        await terminal.write(f"http://{host_and_port(host, listening.getHost().port)}{path}\n".encode())
        return await wait_for_signal()
    finally:
        await listening.stopListening()
