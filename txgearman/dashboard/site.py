"""The site of a dashboard that has a port of its own."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IAddress
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from ..connection.reactor import Reactor

__all__ = ["DashboardSite"]

MAX_CONNECTIONS: Final = 300
"""Simultaneous connections of browsers. A process may have 1,024 files, and needs some for the servers."""

IDLE_TIMEOUT: Final = 30.0
"""Seconds that a connection may take for a request."""


class _Request(Request):
    """A request whose body, which no page needs, is not kept. Twisted would write it to a file."""

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802  # Twisted's name
        """Ignore a part of the body."""


class DashboardSite(WrappingFactory):
    """A factory for connections of browsers, with limits."""

    noisy = False

    def __init__(self, resource: Resource, reactor: Reactor) -> None:
        site = Site(resource, requestFactory=_Request, timeout=IDLE_TIMEOUT, reactor=reactor)
        site.noisy = False
        super().__init__(site)

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper | None:  # type: ignore[override]  # Twisted takes None, too
        return super().buildProtocol(addr) if len(self.protocols) < MAX_CONNECTIONS else None
