"""An administrator's connection, against a server that the test plays byte by byte."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from txgearman import ClientStopped, ProtocolError, ServerError
from txgearman.admin.protocol import AdminFactory, AdminProtocol
from txgearman.connection.connector import EndpointConnector
from txgearman.connection.options import ConnectionOptions
from txgearman.packets import ERROR, GET_STATUS, STATUS_RES

from ..wire import MemoryEndpoint, ServerSide, outcome

FENCE = GET_STATUS.request(b"txgearman:fence")
ANSWERED = STATUS_RES.response(b"txgearman:fence", b"0", b"0", b"0", b"0")


class ServerConnection:
    """A connection, and the server's end of it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.endpoint = MemoryEndpoint(self.clock)
        self.factory = AdminFactory(self.clock, name="server", connection_options=ConnectionOptions(**options))
        EndpointConnector(self.endpoint, self.factory).connect()
        self.down: list[Any] = []

    @property
    def server(self) -> ServerSide:
        return self.endpoint.server

    @property
    def protocol(self) -> AdminProtocol:
        connection = self.factory.connection
        assert isinstance(connection, AdminProtocol)
        return connection

    def ask(self, line: bytes, is_last: bool = False) -> list[Any]:
        return outcome(self.protocol.ask(line, is_last=is_last))

    def written(self) -> bytes:
        transport: StringTransport = self.server.transport
        data: bytes = transport.value()
        transport.clear()
        return data


def test_line_is_sent_with_a_fence() -> None:
    """CRLF: behind an LF alone, gearmand creates a function with a shorter name."""
    connection = ServerConnection()
    connection.ask(b"create function f")
    assert connection.written() == b"create function f\r\n" + FENCE


def test_text_before_answer_to_fence_is_the_answer() -> None:
    connection = ServerConnection()
    told = connection.ask(b"status")
    connection.server.send(b"f\t0\t0\t0\n.\n")
    assert told == []
    connection.server.send(ANSWERED)
    assert told == [b"f\t0\t0\t0\n.\n"]


def test_lines_are_pipelined_and_answered_in_order() -> None:
    connection = ServerConnection()
    told = [connection.ask(line) for line in (b"status", b"version", b"getpid")]
    assert connection.written() == b"".join(line + b"\r\n" + FENCE for line in (b"status", b"version", b"getpid"))
    connection.server.send(b".\n", ANSWERED, b"OK 1\n", ANSWERED, b"OK 2\n", ANSWERED)
    assert told == [[b".\n"], [b"OK 1\n"], [b"OK 2\n"]]


@pytest.mark.guarantee(number=15)
def test_answers_are_intact_in_any_fragmentation() -> None:
    connection = ServerConnection()
    told = [connection.ask(b"status"), connection.ask(b"version"), connection.ask(b"getpid")]
    for byte in b".\n" + ANSWERED + ANSWERED + b"OK 2\n" + ANSWERED:
        connection.server.send(bytes([byte]))
    assert told[0] + told[2] == [b".\n", b"OK 2\n"]
    assert told[1][0].code == ""


@pytest.mark.guarantee(number=17)
def test_unanswered_command_fails_at_once_and_shifts_no_answer() -> None:
    """geard answers hardly any command."""
    connection = ServerConnection()
    told = [connection.ask(b"version"), connection.ask(b"status")]
    connection.server.send(ANSWERED, b".\n", ANSWERED)
    (error,), (answer,) = told
    assert isinstance(error, ServerError)
    assert (error.code, error.text) == ("", "this server does not answer the command 'version'")
    assert answer == b".\n"


def test_error_packet_is_a_server_error() -> None:
    connection = ServerConnection()
    told = connection.ask(b"version")
    connection.server.send(ERROR.response(b"INVALID_COMMAND", b"no"))
    assert told[0].code == "INVALID_COMMAND"


@pytest.mark.guarantee(number=9)
def test_cancelled_command_shifts_no_answer() -> None:
    connection = ServerConnection()
    first = connection.protocol.ask(b"version")
    told = outcome(first)
    second = connection.ask(b"getpid")
    first.cancel()
    assert isinstance(told[0], CancelledError)
    connection.server.send(b"OK 1\n", ANSWERED, b"OK 2\n", ANSWERED)
    assert second == [b"OK 2\n"]


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "nonsense",
    [
        b"220 mail.example.com ESMTP\r\n",
        b"\0nonsense, and more of it",
        b"\0RES\0\0\0\x14\xff\xff\xff\xff",
        STATUS_RES.response(b"another", b"0", b"0", b"0", b"0"),
    ],
)
def test_garbage_ends_connection(nonsense: bytes) -> None:
    connection = ServerConnection()
    connection.server.send(nonsense)
    assert connection.server.transport.aborted


@pytest.mark.guarantee(number=14)
def test_invalid_packet_fails_pending_commands() -> None:
    connection = ServerConnection()
    told = connection.ask(b"status")
    connection.server.send(b"f\t1", b"\0RES\0\0\0\x14\xff\xff\xff\xff")
    assert isinstance(told[0], ProtocolError)
    assert connection.server.transport.aborted


def test_too_large_answer_ends_connection() -> None:
    connection = ServerConnection(max_packet_size=1000)
    told = connection.ask(b"status")
    connection.server.send(b"x" * 600)
    connection.server.send(b"x" * 400)
    assert told == []
    connection.server.send(b"x")
    assert isinstance(told[0], ProtocolError)
    assert "max_packet_size" in str(told[0])
    assert connection.server.transport.aborted


@pytest.mark.guarantee(number=10)
def test_server_that_stops_answering_is_dropped() -> None:
    connection = ServerConnection(server_timeout=5.0)
    told = [connection.ask(b"status"), connection.ask(b"version")]
    connection.clock.pump([2.4, 2.4])
    assert told == [[], []]
    connection.clock.pump([2.5, 2.5])
    assert [str(errors[0]) for errors in told] == [
        "User timeout caused connection failure: no answer within 5.0 seconds."
    ] * 2
    assert connection.server.transport.aborted


@pytest.mark.guarantee(number=10)
def test_slow_answer_is_not_late() -> None:
    connection = ServerConnection(server_timeout=5.0)
    told = connection.ask(b"status")
    for _ in range(3):
        connection.clock.pump([2.4, 2.4])
        connection.server.send(b"f\t0\t0\t0\n")
    connection.server.send(b".\n", ANSWERED)
    assert told == [b"f\t0\t0\t0\n" * 3 + b".\n"]


@pytest.mark.guarantee(number=10)
def test_no_timer_runs_while_nothing_is_due() -> None:
    connection = ServerConnection(server_timeout=5.0)
    connection.ask(b"status")
    connection.server.send(b".\n", ANSWERED)
    connection.clock.pump([2.5] * 2)
    assert connection.clock.getDelayedCalls() == []


def test_lost_connection_fails_pending_commands() -> None:
    connection = ServerConnection()
    told = [connection.ask(b"status"), connection.ask(b"shutdown", is_last=True)]
    connection.server.send(b"f\t")
    lost = OSError("it went")
    connection.server.lose(lost)
    assert told == [[lost], [lost]]


def test_answer_to_last_command_needs_no_fence() -> None:
    """perl's server answers to a shutdown, and closes."""
    connection = ServerConnection()
    told = connection.ask(b"shutdown", is_last=True)
    connection.server.send(b"OK\n")
    assert told == []
    connection.server.lose()
    assert told == [b"OK\n"]


def test_closed_connection_refuses_commands() -> None:
    connection = ServerConnection()
    protocol = connection.protocol
    connection.factory.stop(ClientStopped())
    assert isinstance(outcome(protocol.ask(b"status"))[0], ClientStopped)
    connection.clock.advance(0)
    assert connection.clock.getDelayedCalls() == []


def test_callback_can_end_connection() -> None:
    connection = ServerConnection()
    connection.protocol.ask(b"version").addCallback(lambda _: connection.protocol.abort(ClientStopped()))
    told = connection.ask(b"getpid")
    connection.server.send(b"OK 1\n" + ANSWERED + b"OK 2\n" + ANSWERED)
    assert isinstance(told[0], ClientStopped)
    connection.server.send(b"late")
    assert len(told) == 1
