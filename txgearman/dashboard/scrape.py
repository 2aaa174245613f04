"""The page of the metrics of all servers, for Prometheus. It needs the extra ``metrics``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from ..admin.admin import GearmanAdmin
from ..admin.exporter import encode_reports
from ..admin.reports import ServerReport, query_reports
from ..errors import ClientStopped
from .pages import Page

__all__ = ["MetricsPage", "scrape_timeout"]

_log = Logger()

SCRAPE_TIMEOUT: Final = b"X-Prometheus-Scrape-Timeout-Seconds"

MAX_MARGIN: Final = 0.5
"""Seconds before the scraper's time-out at which the answer is sent, without the servers that have not answered."""


class MetricsPage(Page):
    """The metrics, for which the servers are queried at each request.

    :param timeout: seconds that servers may take, unless the scraper waits for less.
    """

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
        content, content_type = encode_reports(reports, (request.getHeader(b"Accept") or b"").decode("latin-1"))
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


def scrape_timeout(header: bytes | None, limit: float) -> float:
    """Return how many seconds servers may take for a scrape.

    :param header: how long the scraper waits, as it says; None if it does not.
    :param limit: the most that is returned.
    """
    try:
        seconds = float(header or b"")
    except ValueError:
        return limit
    return min(limit, seconds - min(MAX_MARGIN, seconds / 2)) if 0 < seconds < math.inf else limit
