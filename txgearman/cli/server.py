"""The commands that listen: ``txgearman server``, and what ``txgearman metrics`` is served by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ..testing import MemoryJobServer
from .exit_codes import Exit
from .reactor_loop import usage
from .terminal import Terminal

__all__ = ["serve_pages", "server"]


@contextmanager
def _may_listen() -> Iterator[None]:
    try:
        yield
    except CannotListenError as error:
        raise click.UsageError(str(error)) from error


async def server(terminal: Terminal, port: int, host: str, **options: Any) -> Exit:
    """Be a job server, until a signal."""
    with usage(), _may_listen():
        job_server = MemoryJobServer(terminal.reactor, **options)
        address = job_server.listen(port, host)
    try:
        await terminal.write(f"a job server on {address}\n".encode())
        return await _until_a_signal()
    finally:
        await job_server.close()


def _until_a_signal() -> Deferred[Exit]:
    """It ends by being cancelled."""
    return Deferred()


class _Page(Resource):
    """One page, made anew for each request."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self, path: str, content_type: str, make: Callable[[], Any]) -> None:
        super().__init__()
        self._path = path
        self._content_type = content_type
        self._make = make

    def render_GET(self, request: Request) -> Any:  # noqa: N802  # Twisted's name
        if request.path != self._path.encode():
            request.setResponseCode(404)
            return f"there is {self._path} here, and nothing else\n".encode()
        page = ensureDeferred(self._make())
        request.notifyFinish().addErrback(lambda _: page.cancel())
        page.addCallbacks(self._made, self._failed, callbackArgs=(request,), errbackArgs=(request,))
        return NOT_DONE_YET

    def _made(self, content: bytes, request: Request) -> None:
        request.setHeader("Content-Type", self._content_type)
        request.write(content)
        request.finish()

    def _failed(self, failure: Failure, request: Request) -> None:
        if request.channel is not None:  # else nobody waits for it any more
            request.setResponseCode(500)
            request.write(f"{failure.getErrorMessage()}\n".encode())
            request.finish()


async def serve_pages(terminal: Terminal, address: str, path: str, content_type: str, make: Callable[[], Any]) -> Exit:
    """Serve one page over HTTP, until a signal.

    :param address: ``port`` or ``host:port``; 127.0.0.1 unless it says otherwise.
    :param make: a coroutine function that comes to its bytes.
    """
    site = Site(_Page(path, content_type, make))
    host, _, port = address.rpartition(":")
    with usage(), _may_listen():
        listening = terminal.reactor.listenTCP(
            int(port), site, interface=(host or "127.0.0.1").removeprefix("[").removesuffix("]")
        )
    try:
        await terminal.write(f"http://{host or '127.0.0.1'}:{listening.getHost().port}{path}\n".encode())
        return await _until_a_signal()
    finally:
        await listening.stopListening()
