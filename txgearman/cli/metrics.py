"""``txgearman metrics``: what job servers report, for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import click
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ..admin.admin import GearmanAdmin
from ..admin.reports import ServerReport, query_reports
from ..errors import ClientStopped
from ..testing.ports import host_and_port
from .admin import make_admin, report_errors
from .exit_codes import ExitCode
from .options import Servers
from .reactor_loop import wait_for_signal
from .server import listen_errors, parse_listen
from .terminal import Terminal

try:
    from ..admin.exporter import encode_reports
except ImportError as missing:
    raise click.UsageError(
        "this command needs the extra 'metrics': python -m pip install 'txgearman[metrics]'"
    ) from missing

__all__ = ["metrics", "scrape_timeout"]

_log = Logger()

SCRAPE_TIMEOUT: Final = "X-Prometheus-Scrape-Timeout-Seconds"

MAX_MARGIN: Final = 0.5
"""Seconds before the scraper's time-out at which the answer is sent, without the servers that have not answered."""


async def metrics(terminal: Terminal, servers: Servers, timeout: float, listen: str | None) -> ExitCode:
    """Print the metrics once, or serve them over HTTP until a signal."""
    async with make_admin(terminal, servers, timeout) as admin:
        if listen is None:
            reports = await query_reports(admin, timeout)
            await terminal.write(encode_reports(reports)[0])
            return report_errors(terminal, {each.address: each.error for each in reports if each.error is not None})
        return await _serve(terminal, _site(admin, timeout), listen)


async def _serve(terminal: Terminal, site: Site, listen: str) -> ExitCode:
    host, port = parse_listen(listen)
    with listen_errors():
        listening = terminal.reactor.listenTCP(port, site, interface=host)
    try:
        address = host_and_port(host, listening.getHost().port)
        await terminal.write(f"http://{address}/metrics\n".encode())
        return await wait_for_signal()
    finally:
        await listening.stopListening()


def _site(admin: GearmanAdmin, timeout: float) -> Site:
    root = _TextPage(b"/metrics\n/healthz\n")
    root.putChild(b"", root)
    root.putChild(b"healthz", _TextPage(b"ok\n"))
    root.putChild(b"metrics", _MetricsPage(admin, timeout))
    return Site(root)


class _Page(Resource):
    """A page without any below it, except those that were added."""

    def getChild(self, path: bytes, request: Request) -> Resource:  # noqa: N802  # Twisted's name
        return _TextPage(b"not found\n", 404)


class _TextPage(_Page):
    """A page that is always the same."""

    def __init__(self, content: bytes, code: int = 200) -> None:
        super().__init__()
        self._content = content
        self._code = code

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # Twisted's name
        request.setResponseCode(self._code)
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        return self._content


class _MetricsPage(_Page):
    """The metrics, for which the servers are queried at each request."""

    def __init__(self, admin: GearmanAdmin, timeout: float) -> None:
        super().__init__()
        self._admin = admin
        self._timeout = timeout

    def render_GET(self, request: Request) -> int:  # noqa: N802  # Twisted's name
        timeout = scrape_timeout(request.getHeader(SCRAPE_TIMEOUT), self._timeout)
        page = query_reports(self._admin, timeout).addCallback(self._send, request)
        page.addErrback(self._failed, request)
        request.notifyFinish().addErrback(lambda _: page.cancel())
        return NOT_DONE_YET

    def _send(self, reports: Sequence[ServerReport], request: Request) -> None:
        content, content_type = encode_reports(reports, request.getHeader("Accept") or "")
        request.setHeader("Content-Type", content_type)
        request.write(content)
        request.finish()

    def _failed(self, failure: Failure, request: Request) -> None:
        if failure.check(CancelledError):  # the scraper has disconnected
            return
        if not failure.check(ClientStopped):  # the command ends
            _log.failure("Metrics were not sent", failure)
        request.setResponseCode(500)
        request.write(b"internal error\n")
        request.finish()


def scrape_timeout(header: str | None, limit: float) -> float:
    """Return how many seconds servers may take for a scrape.

    :param header: how long the scraper waits, as it says; None if it does not.
    :param limit: the most that is returned.
    """
    try:
        seconds = float(header or "")
    except ValueError:
        return limit
    return min(limit, seconds - min(MAX_MARGIN, seconds / 2)) if 0 < seconds < math.inf else limit
