"""The API of the dashboard: `Dashboard`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.web.resource import Resource

from ..admin.admin import GearmanAdmin
from ..client.client import GearmanClient
from ..connection.addresses import Address
from ..connection.options import CONNECT_TIMEOUT
from ..connection.reactor import Reactor, reactor_or_default
from ..connection.tls import TLSOptions
from ..service import ContextService
from ..validation import positive_seconds
from .document import Document
from .events import EventStreams
from .lookups import JobLists
from .poller import Poller
from .resource import DashboardResource

__all__ = ["Dashboard"]

INTERVAL: Final = 2.0

IDLE_INTERVAL: Final = 30.0

ANSWER_TIMEOUT: Final = 5.0

MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of one answer of a server: more than a million jobs, or 20,000 workers with a hundred functions each."""


class Dashboard(ContextService):
    """A web page that shows job servers, functions and workers, and changes nothing.

    ::

        dashboard = Dashboard(["10.0.0.1", "10.0.0.2"])
        root.putChild(b"gearman", dashboard.resource)
        async with dashboard:
            ...

    It is an `IService`, and an async context manager that starts and stops it. While it runs, it polls the servers,
    once for all viewers. Everyone who reaches the resource may look: put it behind a proxy that authenticates users.

    :ivar resource: the resource of ``twisted.web`` to mount. Its pages refer to each other by relative URLs, so that it
        can be anywhere in a site, and behind a proxy with another prefix. With the extra ``metrics``, there is also
        ``metrics``, as of ``txgearman metrics``.
    :param job_servers: as for `GearmanClient`.
    :param hosts: names under which browsers reach the page, beside ``localhost`` and addresses. Requests with any
        other header Host are refused, so that no page of another site reads this one (DNS rebinding).
    :param interval: seconds between two polls while somebody looks.
    :param idle_interval: seconds between two polls while nobody does.
    :param reactor: None for the global one.
    :param server_timeout: seconds until a server that has not answered is shown as down.
    :param connect_timeout: seconds that an attempt to connect may take, up to the server's first answer.
    :param tls: as for `GearmanClient`.
    :raises TypeError, ValueError: an argument is invalid.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        *,
        hosts: Iterable[str] = (),
        interval: float = INTERVAL,
        idle_interval: float = IDLE_INTERVAL,
        reactor: Reactor | None = None,
        server_timeout: float = ANSWER_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        tls: TLSOptions | None = None,
    ) -> None:
        clock = reactor_or_default(reactor)
        servers = list(job_servers)
        self._admin = GearmanAdmin(
            servers,
            reactor=clock,
            server_timeout=server_timeout,
            connect_timeout=connect_timeout,
            max_packet_size=MAX_ANSWER,
            tls=tls,
        )
        self._client = GearmanClient(
            servers,
            reactor=clock,
            exceptions=False,
            server_timeout=server_timeout,
            connect_timeout=connect_timeout,
            tls=tls,
        )
        self._poller = Poller(
            self._admin,
            clock,
            interval=positive_seconds("interval", interval),
            idle_interval=positive_seconds("idle_interval", idle_interval),
            timeout=server_timeout,
            publish=self._publish,
        )
        self._streams = EventStreams(clock, viewer_came=self._poller.viewer_came, viewer_gone=self._poller.viewer_gone)
        lists = JobLists(self._admin, clock, server_timeout)
        self.resource: Resource = DashboardResource(
            self._poller, self._streams, self._admin, self._client, lists, hosts, server_timeout
        )

    def startService(self) -> None:
        """Start to poll. A stopped dashboard can be started again."""
        super().startService()
        self._admin.startService()
        self._poller.start()

    def stopService(self) -> Deferred[None]:
        """Stop polling, disconnect from the servers, and close the connections of those who look.

        :return: fires when no timer and no connection to a server is left. Cancelling it does not undo the stop.
        """
        super().stopService()
        self._poller.stop()
        self._streams.close()
        stopped = [self._admin.stopService(), self._client.stopService()]
        return DeferredList(stopped, fireOnOneErrback=True, consumeErrors=True).addCallback(lambda _: None)

    def _publish(self, document: Document) -> None:
        self._streams.publish(document.json)
