"""Browsers, as far as HTTP goes: they speak to the site of a dashboard in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from txgearman.dashboard import Dashboard
from txgearman.dashboard.site import DashboardSite
from txgearman.testing import MemoryJobServer


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class _Transport(StringTransport):
    """A transport whose end is reported to its protocol, as by a socket."""

    connection: Connection | None = None

    def loseConnection(self) -> None:
        super().loseConnection()
        self.abortConnection()

    def abortConnection(self) -> None:
        if self.connection is not None:
            self.connection.close()


class Connection:
    """A connection of a browser.

    :ivar is_refused: whether it was closed at once.
    :ivar is_open: whether it is open.
    """

    def __init__(self, site: DashboardSite) -> None:
        protocol = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        self.is_refused = protocol is None
        self.is_open = protocol is not None
        self._transport: Any = _Transport()
        self._transport.connection = self
        if protocol is not None:
            self._protocol = protocol
            protocol.makeConnection(self._transport)

    def send(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def read(self) -> bytes:
        """Return what was received since the last call."""
        received: bytes = self._transport.value()
        self._transport.clear()
        return received

    def request(self, path: str, method: str = "GET", **headers: str) -> None:
        """Send a request. A header's name has underscores for hyphens."""
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in {"Host": "localhost", **headers}.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def answer(self) -> Answer:
        """Return the answer that was received."""
        received = self.read()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return Answer(int(status.split()[1]), headers, _joined(body) if "transfer-encoding" in headers else body)

    def events(self) -> list[Any]:
        """Return the documents that were received as events since the last call."""
        received = self.read()
        if b"\r\n\r\n" in received and received.startswith(b"HTTP"):
            received = received.partition(b"\r\n\r\n")[2]
        lines = _joined(received).decode().split("\n\n")
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]

    def body(self) -> bytes:
        """Return what was received of the body since the last call."""
        return _joined(self.read())

    def pause(self) -> None:
        """Stop reading, with all buffers full."""
        self._transport.producer.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._transport.producer.resumeProducing()

    def close(self) -> None:
        """Disconnect."""
        if self.is_open:
            self.is_open = False
            self._protocol.connectionLost(Failure(ConnectionDone()))


def _joined(body: bytes) -> bytes:
    """Join chunks."""
    content = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        content += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return content


class Viewed:
    """A dashboard, its site, and what browsers do with it.

    :ivar server: its first server.
    """

    def __init__(self, server: MemoryJobServer, dashboard: Dashboard, resource: Resource | None = None) -> None:
        self.server = server
        self.dashboard = dashboard
        self.site = DashboardSite(resource or dashboard.resource, server.clock)

    def connect(self) -> Connection:
        return Connection(self.site)

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Return the answer to a request."""
        connection = self.connect()
        connection.request(path, method, **headers)
        self.server.advance()
        answer = connection.answer()
        connection.close()
        return answer

    def document(self) -> Any:
        """Return the newest document."""
        return self.get("/document.json").json()

    def watch(self) -> Connection:
        """Open the stream of events."""
        connection = self.connect()
        connection.request("/events")
        self.server.advance()
        return connection


@contextmanager
def viewed(server: MemoryJobServer, *others: MemoryJobServer, **options: Any) -> Iterator[Viewed]:
    """A dashboard of servers in memory that runs while the block does, and leaves nothing behind."""
    endpoints = [each.endpoint() for each in (server, *others)]
    dashboard = Dashboard(endpoints, reactor=server.clock, **options)
    dashboard.startService()
    server.advance()
    yield Viewed(server, dashboard)
    dashboard.stopService()
    server.advance()
    server.close()
