"""The pages of the dashboard, and the checks that each request passes first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from twisted.internet.defer import Deferred, succeed
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from ..admin.admin import GearmanAdmin
from ..client.client import GearmanClient
from .events import EventStreams
from .hosts import AllowedHosts
from .lookups import JobLists, job_state
from .pages import STOPPED, DeferredPage, Page, Refusal, StaticPage, TextPage
from .poller import Poller
from .table import render_tables

__all__ = ["DashboardResource"]

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer: the browser runs nothing but the files of this package, and shows them in no frame."""

STATIC: Final = {
    b"": ("page.html", "text/html; charset=utf-8"),
    b"icon.svg": ("icon.svg", "image/svg+xml"),
    b"page.css": ("page.css", "text/css; charset=utf-8"),
    b"page.js": ("page.js", "text/javascript; charset=utf-8"),
}

NEEDS_METRICS: Final = "this page needs the extra 'metrics': python -m pip install 'txgearman[metrics]'\n"

WRONG_HOST: Final = (
    "The header Host must be an address, localhost, or a name that the dashboard knows: see the option --host.\n"
)


class DashboardResource(Page):
    """The root of the pages. It answers GET and HEAD, and refuses requests that another site makes a browser send.

    :raises TypeError, ValueError: a host is not a name.
    """

    def __init__(
        self,
        poller: Poller,
        streams: EventStreams,
        admin: GearmanAdmin,
        client: GearmanClient,
        lists: JobLists,
        hosts: Iterable[str],
        timeout: float,
    ) -> None:
        super().__init__()
        self._hosts = AllowedHosts(hosts)
        for path, (name, content_type) in STATIC.items():
            self.putChild(path, StaticPage(name, content_type))
        self.putChild(b"events", _EventsPage(poller, streams))
        self.putChild(b"document.json", _DocumentPage(poller))
        self.putChild(b"history.json", _HistoryPage(poller))
        self.putChild(b"jobs.json", _JobsPage(lists))
        self.putChild(b"job.json", _JobPage(client))
        self.putChild(b"table", _TablePage(poller))
        self.putChild(b"healthz", TextPage("ok\n"))
        self.putChild(b"metrics", _metrics_page(admin, timeout))

    def getChildWithDefault(self, path: bytes, request: Request) -> Resource:  # noqa: N802  # Twisted's name
        return self._refusal(request) or super().getChildWithDefault(path, request)

    def render(self, request: Request) -> bytes:
        """Redirect to the page: the address is that of the resource, without the slash that relative URLs need."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal.render(request)
        assert request.prepath  # else it is the root of the site, where the page itself was asked for
        request.redirect(quote(request.prepath[-1]).encode() + b"/")
        return b""

    def _refusal(self, request: Request) -> Refusal | None:
        """Set the headers of the answer; return the page that the request is refused with, if it is."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if not self._hosts.allow(request.requestHeaders.getRawHeaders(b"host", [])):
            return Refusal(WRONG_HOST, 403)
        is_link = request.getHeader(b"sec-fetch-mode") == b"navigate"
        if request.getHeader(b"sec-fetch-site") == b"cross-site" and not is_link:
            return Refusal("this is not for pages of other sites\n", 403)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return Refusal("only GET and HEAD are allowed\n", 405)
        return None


def _metrics_page(admin: GearmanAdmin, timeout: float) -> Page:
    try:
        from .scrape import MetricsPage
    except ImportError:
        return Refusal(NEEDS_METRICS, 404)
    return MetricsPage(admin, timeout)


def _argument(request: Request, name: str) -> str:
    """Return an argument of a request.

    :raises ValueError: it is missing, or no text.
    """
    values: list[bytes] = request.args.get(name.encode(), [])
    if len(values) != 1:
        raise ValueError(f"there must be one argument {name}")
    try:
        return values[0].decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be UTF-8") from error


class _EventsPage(Page):
    """The documents, as server-sent events."""

    def __init__(self, poller: Poller, streams: EventStreams) -> None:
        super().__init__()
        self._poller = poller
        self._streams = streams

    def render_GET(self, request: Request) -> bytes | int:  # noqa: N802  # Twisted's name
        if request.method == b"HEAD":
            return b""
        if not self._poller.running:
            return Refusal(STOPPED, 503).render(request)
        if self._streams.is_full:
            request.setHeader("Retry-After", "10")
            return Refusal("there are too many viewers\n", 503).render(request)
        request.setHeader("Cache-Control", "no-store")
        newest = self._poller.newest
        self._streams.open(request, None if newest is None else newest.json)
        return NOT_DONE_YET


class _DocumentPage(DeferredPage):
    """The newest document."""

    def __init__(self, poller: Poller) -> None:
        super().__init__()
        self._poller = poller

    def content(self, request: Request) -> Deferred[bytes]:
        return self._poller.fresh().addCallback(lambda document: document.json)


class _TablePage(DeferredPage):
    """The newest document, as tables."""

    content_type = "text/html; charset=utf-8"

    def __init__(self, poller: Poller) -> None:
        super().__init__()
        self._poller = poller

    def content(self, request: Request) -> Deferred[bytes]:
        return self._poller.fresh().addCallback(render_tables)


class _HistoryPage(DeferredPage):
    """The points of a function, which is named as in the newest document, or of a server."""

    def __init__(self, poller: Poller) -> None:
        super().__init__()
        self._poller = poller

    def content(self, request: Request) -> Deferred[bytes]:
        history = self._poller.history
        if b"server" in request.args:
            series = history.servers.get(_argument(request, "server"))
        else:
            name = _argument(request, "function")
            newest = self._poller.newest
            series = None if newest is None else history.functions.get(newest.names.get(name, b""))
        points = [] if series is None else series.points()
        return succeed(_encode({"points": points}))


class _JobsPage(DeferredPage):
    """The first jobs of a server."""

    def __init__(self, lists: JobLists) -> None:
        super().__init__()
        self._lists = lists

    def content(self, request: Request) -> Deferred[bytes]:
        return self._lists.get(_argument(request, "server")).addCallback(_encode)


class _JobPage(DeferredPage):
    """The state of a job."""

    def __init__(self, client: GearmanClient) -> None:
        super().__init__()
        self._client = client

    def content(self, request: Request) -> Deferred[bytes]:
        addresses = [server.address for server in self._client.servers]
        return job_state(self._client, _argument(request, "handle"), addresses).addCallback(_encode)


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
