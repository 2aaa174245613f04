"""Pages of ``twisted.web`` with metrics of a registry, and with what is wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from twisted.web.http import SERVICE_UNAVAILABLE
from twisted.web.resource import Resource
from twisted.web.server import Request

__all__ = ["MetricsPage", "StatusPage"]


class _TextPage(Resource, ABC):
    """A page of text."""

    isLeaf = True  # noqa: N815  # Twisted's name
    content_type = "text/plain; charset=utf-8"

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # Twisted's name
        request.setHeader("Content-Type", self.content_type)
        request.setHeader("Cache-Control", "no-store")
        return self.text(request)

    @abstractmethod
    def text(self, request: Request) -> bytes:
        """Return the text, after the request was given its status, if that is not 200."""


class MetricsPage(_TextPage):
    """The metrics of a registry."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def text(self, request: Request) -> bytes:
        return generate_latest(self._registry)


class StatusPage(_TextPage):
    """``ok``; or, with the status 503, lines that say what is missing.

    :param missing: returns those lines. It is called for each request.
    """

    def __init__(self, missing: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._missing = missing

    def text(self, request: Request) -> bytes:
        missing = list(self._missing())
        if missing:
            request.setResponseCode(SERVICE_UNAVAILABLE)
        return "".join(f"{line}\n" for line in missing or ["ok"]).encode()
