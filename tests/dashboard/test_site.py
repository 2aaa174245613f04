"""The site of the command: limits of what one who reaches the port can take."""

from __future__ import annotations

from txgearman.dashboard.site import IDLE_TIMEOUT, MAX_CONNECTIONS
from txgearman.testing import MemoryJobServer

from .harness import viewed


def test_a_thousand_connections_are_limited() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        connections = [view.connect() for _ in range(1000)]
        assert sum(each.is_open for each in connections) == MAX_CONNECTIONS
        for each in connections[:2]:
            each.close()
        assert view.get("/healthz").status == 200
        for each in connections:
            each.close()


def test_connection_without_a_request_is_closed() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        idle = view.connect()
        idle.send(b"GET / HTTP/1.1\r\n")
        server.advance(IDLE_TIMEOUT + 20)
        assert not idle.is_open


def test_body_of_a_request_is_not_kept() -> None:
    """Twisted would write it to a file, however large it is."""
    server = MemoryJobServer()
    with viewed(server) as view:
        sender = view.connect()
        sender.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
        assert sender.answer().status == 405
        sender.close()
