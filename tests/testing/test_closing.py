"""`MemoryJobServer.close()`: what it ends, what it verifies, and in which states it may be called."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionLost

from txgearman import ClientStopped, GearmanClient, TaskLost
from txgearman.testing import MemoryJobServer

from ..wire import outcome
from .peer import connect, in_turns, taken


def assert_closed(server: MemoryJobServer, verify: bool = True) -> None:
    """Close the server: with a Clock, the Deferred has fired, and nothing is left."""
    assert server.result_of(server.close(verify=verify)) is None
    assert server.connections == []
    assert server.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("clients", [0, 1, 3])
def test_close(server: MemoryJobServer, clients: int) -> None:
    made = [server.client() for _ in range(clients)]
    assert_closed(server)
    assert not any(client.running for client in made)


@pytest.mark.guarantee(number=1)
def test_close_ends_pending_tasks(server: MemoryJobServer) -> None:
    """Those queued, running, and not yet sent."""
    client = server.client()
    fired = [outcome(client.add_task(name)) for name in ("queued", "running")]
    server.take("running")
    fired.append(outcome(client.add_task("new")))
    assert_closed(server, verify=False)
    assert [type(error) for (error,) in fired] == [ClientStopped] * 3


def test_close_drops_foreign_connections(server: MemoryJobServer) -> None:
    """Raw ones, and those of clients that the server did not make."""
    peer = connect(server)
    client = GearmanClient([server.endpoint()], reactor=server.clock)
    fired = outcome(client.add_task("reverse"))
    server.advance()
    server.close(verify=False)
    assert peer.lost_with() == [ConnectionLost]
    assert [type(error) for error in fired] == [TaskLost]
    client.stopService()
    assert server.clock.getDelayedCalls() == []


def test_close_twice(server: MemoryJobServer) -> None:
    server.client()
    connect(server)
    assert_closed(server)
    peer = connect(server)
    assert_closed(server)
    assert peer.lost_with() == [ConnectionLost]


def test_second_close_before_first_has_fired(server: MemoryJobServer) -> None:
    """By the errback of a task that it ended."""
    again: list[Any] = []
    client = server.client()
    client.add_task("reverse").addErrback(lambda _: again.append(outcome(server.close(verify=False))))
    assert_closed(server, verify=False)
    assert again == [[None]]


def test_close_with_held_answers(server: MemoryJobServer) -> None:
    """It raises, and closes everything all the same."""
    client = server.client()
    server.hold_answers()
    fired = outcome(client.add_task("reverse"))
    server.advance()
    with pytest.raises(AssertionError, match=r"- hold_answers\(\) still holds 22 bytes: release\(\) was expected\n"):
        server.close()
    assert [type(error) for error in fired] == [ClientStopped]
    assert (server.connections, server.clock.getDelayedCalls()) == ([], [])


def test_close_while_silent(server: MemoryJobServer) -> None:
    client = server.client()
    with_task = outcome(client.add_task("reverse"))
    server.fall_silent()
    assert_closed(server, verify=False)
    assert [type(error) for error in with_task] == [ClientStopped]


def test_close_while_silent_to_new_client(server: MemoryJobServer) -> None:
    server.fall_silent()
    client = server.client()
    fired = outcome(client.add_task_bg("reverse"))
    assert_closed(server, verify=False)
    assert [type(error) for error in fired] == [ClientStopped]


@pytest.mark.parametrize("name", ["black_hole_connections", "refuse_connections"])
@pytest.mark.parametrize("seconds", [0, 5, 100])
def test_close_before_client_is_connected(server: MemoryJobServer, name: str, seconds: float) -> None:
    """An attempt is pending, has timed out, or waits for its retry."""
    getattr(server, name)()
    client = server.client()
    fired = outcome(client.add_task("reverse"))
    server.advance(seconds)
    assert_closed(server, verify=False)
    assert len(fired) == 1


def test_close_while_splitting(server: MemoryJobServer) -> None:
    """Within an answer, which arrives first."""
    client = server.client()
    server.split_answers(1)
    fired = outcome(client.echo(b"x" * 100))
    closed: list[Any] = []
    in_turns(server, 20, lambda: closed.append(outcome(server.close(verify=False))))
    server.advance()
    assert closed == [[None]]
    assert fired == [{"memory:1": 0.0}]
    assert server.connections == []


def test_close_with_taken_job(server: MemoryJobServer) -> None:
    """A taken job may still be completed."""
    job, fired = taken(server)
    assert_closed(server, verify=False)
    job.complete(b"too late")
    assert [type(error) for error in fired] == [ClientStopped]
    assert server.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=13)
def test_close_although_errback_injects_fault(server: MemoryJobServer) -> None:
    """The errback of a task makes the server fall silent; the connection of the client is dropped."""
    client = server.client()
    client.add_task("reverse").addErrback(lambda _: [server.fall_silent()])
    server.advance()
    fired = outcome(server.close(verify=False))
    server.advance(5)
    assert fired == [None]
    assert server.connections == []
    assert server.clock.getDelayedCalls() == []


def test_close_verifies_other_servers(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    server.client(other)
    other.reject("QUEUE_ERROR")
    with pytest.raises(AssertionError, match="QUEUE_ERROR"):
        server.result_of(server.close())
