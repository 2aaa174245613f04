"""Where the server deliberately differs from gearmand, as listed in the docstring of `txgearman.testing`."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    ECHO_REQ,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    GRAB_JOB_ALL,
    JOB_ASSIGN_ALL,
    PRE_SLEEP,
    REQ,
    SUBMIT_JOB,
    SUBMIT_JOB_EPOCH,
    SUBMIT_REDUCE_JOB,
    WORK_COMPLETE,
    WORK_STATUS,
)
from txgearman.testing import MemoryJobServer, protocol

from .peer import CREATED, ECHO, ECHOED, SUBMIT, ask, connect


@pytest.fixture
def server() -> Iterator[MemoryJobServer]:
    server = MemoryJobServer()
    yield server
    server.result_of(server.close())


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("number", [0x80000000, 0xFFFFFFFF])
def test_c1_packet_type_that_crashes_gearmand_closes_connection(server: MemoryJobServer, number: int) -> None:
    peer = connect(server)
    assert ask(server, peer, struct.pack(">4sII", REQ, number, 0), ECHO) == b""
    assert len(peer.lost) == 1
    assert ask(server, connect(server), ECHO) == ECHOED


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("digits", [20, 4301])
def test_c1_timeout_of_many_digits_is_long(server: MemoryJobServer, digits: int) -> None:
    """Python reads no number of more than 4300 digits."""
    worker = connect(server)
    assert ask(server, worker, CAN_DO_TIMEOUT.request(b"reverse", b"9" * digits), ECHO) == ECHOED


@pytest.mark.guarantee(number=5)
def test_h6_too_few_arguments_close_connection(server: MemoryJobServer) -> None:
    peer = connect(server)
    assert ask(server, peer, struct.pack(">4sII", REQ, 7, 3) + b"f\0u", ECHO) == b""
    assert len(peer.lost) == 1


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    "request_packet",
    [
        GET_STATUS.request(b"H" * 64),
        GET_STATUS_UNIQUE.request(b"u" * 64),
        SUBMIT_JOB_EPOCH.request(b"f", b"", b"9223372036854775808", b""),
        SUBMIT_JOB_EPOCH.request(b"f", b"", b"-9223372036854775809", b""),
    ],
    ids=["GET_STATUS", "GET_STATUS_UNIQUE", "EPOCH", "EPOCH before"],
)
def test_h6_requests_that_gearmand_answers_by_chance_are_unanswered(
    server: MemoryJobServer, request_packet: bytes
) -> None:
    """They are always left unanswered; the next request is answered."""
    assert ask(server, connect(server), request_packet, ECHO) == ECHOED
    assert server.command("status") == ".\n"


def test_status_with_long_denominator_is_ignored(server: MemoryJobServer) -> None:
    client, worker = connect(server), connect(server)
    assert ask(server, client, SUBMIT) == CREATED
    ask(server, worker, CAN_DO.request(b"reverse"), GRAB_JOB.request())
    assert ask(server, worker, WORK_STATUS.request(b"H:memory:1", b"1", b"2" * 12), ECHO) == ECHOED
    assert ask(server, client) == b""


@pytest.mark.guarantee(number=5)
def test_m6_worker_gets_first_63_bytes_of_long_unique_of_reduce_job(server: MemoryJobServer) -> None:
    worker = connect(server)
    ask(server, connect(server), SUBMIT_REDUCE_JOB.request(b"f", b"u" * 100, b"red", b"", b"data"))
    assigned = ask(server, worker, CAN_DO.request(b"f"), GRAB_JOB_ALL.request())
    assert assigned == JOB_ASSIGN_ALL.response(b"H:memory:1", b"f", b"u" * 63, b"red", b"\0data")


@pytest.mark.guarantee(number=5)
def test_h4_submit_does_not_join_job_of_dropped_function(server: MemoryJobServer) -> None:
    client = connect(server)
    ask(server, client, SUBMIT)
    assert server.command("drop function reverse") == "OK\r\n"
    assert ask(server, client, SUBMIT) == CREATED.replace(b":1", b":2")


@pytest.mark.guarantee(number=5)
def test_h10_handle_prefix_is_never_truncated() -> None:
    assert MemoryJobServer(job_handle_prefix="x" * 40).command("status") == ".\n"
    with pytest.raises(ValueError, match="job_handle_prefix must have 40 bytes at most, not 41"):
        MemoryJobServer(job_handle_prefix="x" * 41)


def test_timeout_of_ended_job_has_no_effect(server: MemoryJobServer) -> None:
    """The timer of a worker that does not sleep keeps running (docs/gearman.md §8)."""
    client, worker = connect(server), connect(server)
    ask(server, client, SUBMIT)
    ask(server, worker, CAN_DO_TIMEOUT.request(b"reverse", b"5000"), GRAB_JOB.request())
    ask(server, worker, WORK_COMPLETE.request(b"H:memory:1", b""))
    ask(server, client)
    server.advance(5)
    assert (ask(server, worker, PRE_SLEEP.request()), ask(server, client)) == (b"", b"")
    assert server.clock.getDelayedCalls() == []


def test_received_types_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_REQUESTS", 5)
    server = MemoryJobServer()
    peer = connect(server)
    for number in range(30):
        ask(server, peer, ECHO, *[SUBMIT] * (number == 27))
        assert len(server.connections[0].requests) <= 10
    assert server.connections[0].requests[-4:] == [ECHO_REQ, SUBMIT_JOB, ECHO_REQ, ECHO_REQ]


def test_nothing_is_sent_on_dropped_connection() -> None:
    """Before it is lost."""
    server = MemoryJobServer()
    peer = connect(server)
    ask(server, peer, SUBMIT)
    job = server.take("reverse")
    server.connections[0].drop()
    job.send_data(b"x")
    assert "WORK_DATA" not in server.log()
