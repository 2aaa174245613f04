"""Connections to a server that the test plays, or to one in memory. No socket, no real time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgearman.connection.connector import EndpointConnector
from txgearman.connection.factory import GearmanFactory
from txgearman.connection.protocol import CLOSE_TIMEOUT, GearmanProtocol
from txgearman.errors import ClientStopped
from txgearman.packets import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    JOB_CREATED,
    OPTION_REQ,
    OPTION_RES,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    Packet,
    PacketType,
)
from txgearman.testing import MemoryJobServer

from ..wire import MemoryEndpoint, ServerSide, outcome, with_connection_options

FENCE: Packet = (GET_STATUS, [b"txgearman:fence"])


QUESTIONS = {ECHO_REQ: ECHO_RES, OPTION_REQ: OPTION_RES, GET_STATUS: STATUS_RES, GET_STATUS_UNIQUE: STATUS_RES_UNIQUE}
"""Requests, and the types of their answers."""


class Listener:
    """Records the connections that became ready, and the errors of attempts and connections."""

    def __init__(self) -> None:
        self.ready: list[GearmanProtocol] = []
        self.errors: list[Exception] = []

    def connection_ready(self, connection: GearmanProtocol) -> None:
        self.ready.append(connection)

    def connection_down(self, factory: GearmanFactory[GearmanProtocol], error: Exception) -> None:
        self.errors.append(error)


class Connection(GearmanProtocol):
    """A connection whose test may call what its subclasses call."""

    def pause(self) -> None:
        self._pause_reading()

    def resume(self) -> None:
        self._resume_reading()

    def retire_it(self, on_idle: Callable[[], object]) -> None:
        self._retire(on_idle)

    def call_after_read(self, call: Callable[[], object]) -> None:
        self._after_read = call

    @property
    def is_retiring(self) -> bool:
        return self._retiring


class Factory(GearmanFactory[GearmanProtocol]):
    """A factory whose test may call what the pool calls."""

    protocol = Connection

    def bring_forward(self) -> None:
        self._bring_forward()

    def retire_it(self, connection: GearmanProtocol | None, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        return self._retire(connection, timeout)


class OddServer(MemoryEndpoint):
    """Does the same odd thing on each connection, instead of answering the first requests."""

    def __init__(self, clock: Clock, behave: Callable[[ServerSide], object]) -> None:
        super().__init__(clock)
        self.answers_opening = False
        self._behave = behave

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        connected = super().connect(protocolFactory)
        self._behave(self.server)
        return connected


class OddEndpoint(MemoryEndpoint):
    """Connects, and then says something else than that it did."""

    def __init__(self, clock: Clock, outcome: Callable[[], Deferred[Any]], connects: bool) -> None:
        super().__init__(clock)
        self._outcome = outcome
        self._connects = connects

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        if self._connects:
            super().connect(protocolFactory)
        else:
            self.attempts += 1
        return self._outcome()


class ServerConnection:
    """A factory and its connector."""

    def __init__(self, clock: Clock, endpoint: Any, option_requests: tuple[bytes, ...] = (), **arguments: Any) -> None:
        self.clock = clock
        self.listener = Listener()
        self.factory = Factory(
            clock, option_requests=option_requests, listener=self.listener, **with_connection_options(arguments)
        )
        self.connector = EndpointConnector(endpoint, self.factory)

    @property
    def connection(self) -> Connection:
        assert isinstance(self.factory.connection, Connection)
        return self.factory.connection

    @property
    def delay(self) -> float:
        """Seconds to the next attempt."""
        assert self.factory.next_attempt is not None
        return self.factory.next_attempt - self.clock.seconds()

    def ask(self, packet_type: PacketType, argument: bytes) -> tuple[Deferred[list[bytes]], list[Any]]:
        """Send a request; return its Deferred and its outcome."""
        subject = None if packet_type is ECHO_REQ else argument
        deferred = self.connection.request(packet_type, argument, answer=QUESTIONS[packet_type], subject=subject)
        return deferred, outcome(deferred)

    def echo(self, argument: bytes) -> list[Any]:
        return self.ask(ECHO_REQ, argument)[1]


class Net(ServerConnection):
    """A connection to a server that the test plays."""

    def __init__(self, *, endpoint: MemoryEndpoint | None = None, **arguments: Any) -> None:
        self.endpoint = endpoint or MemoryEndpoint(Clock())
        super().__init__(self.endpoint.clock, self.endpoint, **arguments)

    @property
    def server(self) -> ServerSide:
        return self.endpoint.server


class Served(ServerConnection):
    """A connection to a job server in memory, with its faults."""

    def __init__(self, **arguments: Any) -> None:
        self.server = MemoryJobServer()
        super().__init__(self.server.clock, self.server.endpoint(), **arguments)

    def connect(self) -> Served:
        self.connector.connect()
        self.server.advance()
        return self

    def errors(self) -> list[type[Exception]]:
        """The types of what was observed."""
        return [type(error) for error in self.listener.errors]


# Connections in various states.


def connected(**arguments: Any) -> Net:
    """A connection that is ready, with nothing outstanding."""
    net = Net(**arguments)
    net.connector.connect()
    assert net.connection.ready
    return net


def unready(**arguments: Any) -> Net:
    """A connection to a server that has not sent anything yet."""
    net = Net(**arguments)
    net.endpoint.answers_opening = False
    net.connector.connect()
    return net


def never_connected() -> Net:
    return Net()


def connecting() -> Net:
    net = Net()
    net.endpoint.black_hole = True
    net.connector.connect()
    return net


def ready_and_busy() -> Net:
    net = connected()
    net.ask(ECHO_REQ, b"1")[0].addErrback(lambda _: None)
    return net


def backing_off() -> Net:
    net = connected()
    net.server.lose()
    assert net.factory.next_attempt is not None
    return net


def just_aborted() -> Net:
    """The socket is not gone yet."""
    net = connected()
    net.server.send(b"garbage" * 3)
    assert net.factory.connection is not None
    return net


def just_closed() -> Net:
    net = connected()
    close(net.connection)
    return net


def being_stopped() -> Net:
    net = connected()
    outcome(net.factory.stop(ClientStopped()))
    return net


# What tests do with them.


def close(connection: GearmanProtocol) -> None:
    connection.close(ClientStopped())


def abort(connection: GearmanProtocol) -> None:
    connection.abort(ClientStopped())


def closed_by(net: Net, kind: type[Exception]) -> bool:
    """Whether the connection was aborted because of such an error, and another attempt is scheduled."""
    net.clock.advance(0)
    return (
        net.server.transport.aborted
        and isinstance(net.server.protocol.error, kind)
        and net.factory.next_attempt is not None
    )


def says(said: bytes) -> Callable[[ServerSide], object]:
    return lambda server: server.send(said)


def let_pass(net: Net, seconds: float) -> None:
    """Let time pass as a reactor that is not blocked does."""
    for _ in range(round(seconds * 4)):
        net.clock.advance(0.25)


# Bad servers.


BAD_STREAMS = {
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no such type": b"\0RES\0\0\0\x63\0\0\0\0",
    "truncated arguments": b"\0RES\0\0\0\x14\0\0\0\x03H:1",
    "4 GiB": b"\0RES\0\0\0\x11\xff\xff\xff\xff",
    "flood of ERROR": ERROR.response(b"code", b"text") * 1000,
    "flood of answers": JOB_CREATED.response(b"H:1") * 1000,
}


bad_streams = pytest.mark.parametrize("said", BAD_STREAMS.values(), ids=BAD_STREAMS.keys())
