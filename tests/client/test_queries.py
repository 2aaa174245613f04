"""`get_status`, `get_status_unique` and `echo` of a client: which server is asked, and what fails them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from txgearman import (
    ClientStopped,
    JobHandle,
    JobStatus,
    NoServersAvailable,
    ServerError,
    ServerState,
)
from txgearman.packets import (
    ECHO_REQ,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
)

from ..client_harness import NOTHING, ClientHarness, outcome, outcomes

# Queries.


def test_get_status_asks_server_of_handle() -> None:
    harness = ClientHarness(2).start()
    submitted = harness.client.add_task_bg("work")
    harness.advance()
    handle: JobHandle = outcome(submitted)
    other = "memory:2" if handle.server == "memory:1" else "memory:1"
    answered = [harness.client.get_status(JobHandle(server, handle.handle)) for server in (handle.server, other)]
    harness.advance()
    assert outcomes(answered) == [JobStatus(True, False, 0, 0, None), JobStatus(False, False, 0, 0, None)]
    harness.stop()


def test_get_status_unique_returns_status() -> None:
    harness = ClientHarness()
    harness.client.add_task("work", unique="u").addErrback(lambda _: None)
    harness.server.take("work").send_status(3, 8)
    answered = harness.client.get_status_unique("u")
    harness.advance()
    assert outcome(answered) == JobStatus(True, True, 3, 8, 1)
    harness.stop()


def test_get_status_unique_asks_server_that_tasks_go_to() -> None:
    """If the first in rank is down, the next; if that one is lost before it answers, the one after it."""
    harness = ClientHarness(3)
    harness.client.add_task("work", unique="u").addErrback(lambda _: None)
    first = harness.take_anywhere()
    harness.servers[first].drop_connections()
    harness.client.add_task("work", unique="u").addErrback(lambda _: None)
    second = harness.take_anywhere()
    harness.servers[second].drop_before(GET_STATUS_UNIQUE)
    answered = harness.client.get_status_unique("u")
    harness.advance()
    third = harness.servers[3 - first - second].connections[0]
    assert (third.requests.count(GET_STATUS_UNIQUE), outcome(answered).known) == (1, False)
    harness.stop()


def test_get_status_fails_without_server() -> None:
    harness = ClientHarness(2)
    for server in harness.servers:
        server.refuse_connections()
    answered = [harness.client.get_status_unique("u"), harness.client.get_status(JobHandle("memory:2", b"H:1"))]
    harness.advance()
    errors = outcomes(answered)
    assert [type(error) for error in errors] == [NoServersAvailable] * 2
    assert [set(error.reasons) for error in errors] == [{"memory:1", "memory:2"}, {"memory:2"}]
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("handle", "kind", "message"),
    [
        ("memory:1//H:1", TypeError, "handle must be a JobHandle, not str; see JobHandle.from_string"),
        (JobHandle("elsewhere:4730", b"H:1"), ValueError, "server must be one of .*, not 'elsewhere:4730'"),
        (JobHandle("memory:1", b""), ValueError, "handle must not be empty"),
        (JobHandle("memory:1", b"H" * 64), ValueError, "handle must have 63 bytes at most, not 64"),
        (JobHandle("memory:1", b"H\0"), ValueError, "handle must not have a NUL"),
    ],
)
def test_get_status_raises_for_invalid_handle(handle: Any, kind: type[Exception], message: str) -> None:
    harness = ClientHarness()
    with pytest.raises(kind, match=message):
        harness.client.get_status(handle)
    harness.check_that_nothing_was_done()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("unique", ["", b"", "-", b"-"])
def test_get_status_unique_raises_for_unique_without_job(unique: str | bytes) -> None:
    with pytest.raises(ValueError, match="unique must identify a job"):
        ClientHarness().client.get_status_unique(unique)


def test_echo_measures_round_trip_to_each_reachable_server() -> None:
    """The time that a server takes to connect does not count."""
    harness = ClientHarness(3)
    harness.server.refuse_connections()
    silence = harness.servers[1].fall_silent()
    harness.start()
    held = harness.servers[2].hold_answers()
    echoed = harness.client.echo(b"abc")
    harness.advance(1)
    held.release()
    harness.advance(0.25)
    assert outcome(echoed) is NOTHING
    silence.end()
    assert outcome(echoed) == {"memory:2": 0.0, "memory:3": 1.0}
    harness.stop()


def test_echo_measures_server_that_leaves_it_unanswered() -> None:
    """As geard does (H6): the answer to the fence counts."""
    harness = ClientHarness().start()
    harness.server.leave_unanswered(ECHO_REQ)
    with harness.server.hold_answers():
        echoed = harness.client.echo()
        harness.advance(0.5)
    assert outcome(echoed) == {"memory:1": 0.5}
    harness.stop()


def test_echo_fails_with_server_error_if_refused() -> None:
    harness = ClientHarness().start()
    harness.server.leave_unanswered(ECHO_REQ, GET_STATUS, times=2)
    echoed = harness.client.echo()
    harness.server.send_raw(ERROR.response(b"NO", b"never"))
    error = outcome(echoed)
    assert (type(error), str(error)) == (ServerError, "NO: never")
    harness.stop()


def test_echo_fails_without_server() -> None:
    harness = ClientHarness(2)
    for server in harness.servers:
        server.refuse_connections()
    echoed = harness.client.echo()
    harness.advance()
    error = outcome(echoed)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"memory:1", "memory:2"})
    harness.stop()


@pytest.mark.parametrize("query", ["get_status", "get_status_unique"])
def test_cancelled_query_leaves_next_answer_alone(query: str) -> None:
    harness = ClientHarness().start()
    submitted = harness.client.add_task_bg("work", unique=b"u")
    harness.advance()
    subject = outcome(submitted) if query == "get_status" else b"u"
    answered = getattr(harness.client, query)(subject)
    again = getattr(harness.client, query)(subject)
    answered.cancel()
    harness.advance()
    assert type(outcome(answered)) is CancelledError
    assert outcome(again) == JobStatus(True, False, 0, 0, 0 if query == "get_status_unique" else None)
    harness.stop()


def test_cancelled_echo_leaves_connections_alone() -> None:
    harness = ClientHarness(2).start()
    echoed = harness.client.echo()
    echoed.cancel()
    harness.advance()
    assert type(outcome(echoed)) is CancelledError
    assert harness.client.servers[0].state is ServerState.READY
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ("text", TypeError, "data must be bytes, not str"),
        (b"x" * 11, ValueError, "data must have max_packet_size=10 bytes at most, not 11"),
    ],
)
def test_echo_raises_for_invalid_data(data: Any, kind: type[Exception], message: str) -> None:
    harness = ClientHarness(max_packet_size=10)
    with pytest.raises(kind, match=message):
        harness.client.echo(data)
    harness.check_that_nothing_was_done()


# Overlapping starts and stops.


@pytest.mark.guarantee(number=1)
def test_query_of_stopped_client_tries_no_other_server() -> None:
    harness = ClientHarness(2).start()
    harness.client.add_task("work", b"x", unique="u").addErrback(lambda _: harness.client.stopService())
    harness.servers[harness.take_anywhere()].drop_before(GET_STATUS_UNIQUE)
    answered = harness.client.get_status_unique("u")
    harness.advance()
    assert type(outcome(answered)) is ClientStopped
    harness.stop()


# Changes of job_servers.


def test_get_status_raises_for_handle_of_removed_server() -> None:
    harness = ClientHarness(2).start()
    submitted = [harness.client.add_task_bg("work") for _ in range(2)]
    harness.advance()
    handles = sorted(outcomes(submitted))
    harness.client.job_servers = harness.client.job_servers[1:]
    with pytest.raises(ValueError, match="server must be one of memory:2, not 'memory:1'"):
        harness.client.get_status(handles[0])
    answered = harness.client.get_status(handles[1])
    harness.advance()
    assert outcome(answered).known
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_queries_fail_if_connecting_server_is_removed() -> None:
    harness = ClientHarness(2)
    harness.server.black_hole_connections()
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    answered: list[Deferred[Any]] = [harness.client.get_status_unique("u"), harness.client.echo()]
    harness.advance()
    harness.client.job_servers = both[1:]
    harness.advance()
    for error in outcomes(answered):
        assert (type(error), list(error.reasons)) == (NoServersAvailable, ["memory:1"])
    harness.stop()
