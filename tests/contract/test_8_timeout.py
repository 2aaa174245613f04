"""docs/gearman.md §8: CAN_DO_TIMEOUT.

The times are real ones for two of the three servers, so few tests wait, each for many cases.

What gearmand does is pinned only as far as it reads no freed memory. It keeps one timer for each connection; 1.1 keeps
with it the job for which the timer was first set. If that job ends, or its worker goes, and the connection does not say
PRE_SLEEP in time, the timer runs out on whatever job has its place by then. And its timers run in several threads
without a lock: in no test here do two of them send something at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import pytest

from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    ERROR,
    GRAB_JOB,
    JOB_ASSIGN,
    PRE_SLEEP,
    RESET_ABILITIES,
    SUBMIT_JOB,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_FAIL,
    WORK_STATUS,
    Packet,
)

from .conftest import Start
from .harness import Peer, Server
from .test_5_status import QUEUED, RUNNING, UNKNOWN, status
from .test_6_client_disconnect import NOTHING, WAKE, can_do

REFUSED: Packet = (ERROR, [b"JOB_NOT_FOUND", b"Job given in work result not found"])
EXPIRED = 1.2
"""Seconds after which a timeout of one second has expired."""


def timed(function: bytes, milliseconds: bytes = b"1000") -> bytes:
    return CAN_DO_TIMEOUT.request(function, milliseconds)


def submit(client: Peer, *functions: bytes) -> list[bytes]:
    return [client.submit(SUBMIT_JOB.request(function, b"", b"work")) for function in functions]


def grab(worker: Peer, *handles: bytes) -> None:
    """Grab these jobs, one after the other."""
    for handle in handles:
        packet_type, (assigned, *_) = worker.ask(GRAB_JOB.request())
        assert (packet_type, assigned) == (JOB_ASSIGN, handle)


def play(server: Server, steps: Sequence[bytes | str], client: Peer) -> list[bytes]:
    """Let a worker send these packets. For the name of a function, a job is submitted and grabbed."""
    worker = server.peer()
    handles = []
    for step in steps:
        if isinstance(step, str):
            (handle,) = submit(client, step.encode())
            worker.so_far()
            grab(worker, handle)
            handles.append(handle)
        else:
            worker.send(step)
            worker.so_far()
    return handles


def test_can_do_timeout_registers_function(server: Server) -> None:
    client, worker = server.peer(), server.peer()
    worker.send(timed(b"f", b"60000"), PRE_SLEEP.request())
    assert worker.so_far() == []
    assert worker.table(b"status") == [b"f\t0\t0\t1"]
    (handle,) = submit(client, b"f")
    assert worker.receive() == WAKE
    grab(worker, handle)
    worker.send(WORK_COMPLETE.request(handle, b"done"))
    assert worker.so_far() == []
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


def test_function_with_timeout_can_be_removed(server: Server) -> None:
    (handle,) = submit(server.peer(), b"f")
    worker = server.peer()
    for request in (CANT_DO.request(b"f"), RESET_ABILITIES.request()):
        worker.send(timed(b"f", b"60000"), request)
        assert worker.ask(GRAB_JOB.request()) == NOTHING
    assert worker.table(b"status") == [b"f\t1\t0\t0"]
    assert status(worker, handle) == QUEUED


ONE_SECOND = [b"1", b"999", b"1000", b"2.5", b"+1", b" 1", b"1x", b"1\0"]
NO_TIME_OUT = [b"0", b"-1", b"-1000", b"0.9", b"", b"soon"]

F, G = b"f-00", b"g-00"
"""The functions of a case, which are renamed to be its own: the job of an earlier one may be queued again already."""

CAN, ONE, LONG, NONE = CAN_DO.request(F), timed(F), timed(F, b"60000"), timed(F, b"0")
SLEEP = PRE_SLEEP.request()
QUEUE, RUN = QUEUED[:2], RUNNING[:2]

Case: TypeAlias = tuple[Sequence[bytes | str], list[list[bytes]]]
"""The actions of a worker, for `play`, and the state of each of its jobs after a second."""


def each_of(texts: list[bytes], state: list[bytes]) -> list[Case]:
    return [([timed(F, text), "f"], [state]) for text in texts]


CASES: list[Case] = [
    # Milliseconds. Less than a second is raised to one; no number, 0 and less are no timeout.
    *each_of(ONE_SECOND, QUEUE),
    *each_of(NO_TIME_OUT, RUN),
    # A registration after the grab changes nothing.
    ([CAN, "f", ONE], [RUN]),
    ([ONE, "f", CAN], [QUEUE]),
    ([ONE, "f", NONE], [QUEUE]),
    ([ONE, "f", LONG], [QUEUE]),
    # PRE_SLEEP stops the timer, if there is no job. No other packet of a worker does.
    ([ONE, "f", SLEEP], [RUN]),
    ([ONE, "f", CAN_DO.request(b"waiting"), SLEEP], [QUEUE]),
    ([ONE, "f", GRAB_JOB.request()], [QUEUE]),
    ([ONE, "f", CAN_DO.request(G), CANT_DO.request(G)], [QUEUE]),
    # A connection has one timer. Each job that is assigned restarts or stops it.
    ([ONE, "f", CAN_DO.request(G), "g"], [RUN, RUN]),
    ([ONE, CAN_DO.request(G), "g", "f"], [RUN, QUEUE]),
    ([ONE, "f", timed(G, b"60000"), "g"], [RUN, RUN]),
    ([ONE, "f", SLEEP, "f"], [RUN, QUEUE]),
]

BY_RELEASE: dict[str, list[Case]] = {
    "1.1": [
        # Of several registrations, the newest one applies.
        ([CAN, ONE, "f"], [QUEUE]),
        ([LONG, ONE, "f"], [QUEUE]),
        ([ONE, CAN, "f"], [RUN]),
        ([ONE, LONG, "f"], [RUN]),
        ([ONE, NONE, "f"], [RUN]),
        # The job that is requeued is the one for which the timer was first started.
        ([ONE, "f", "f"], [QUEUE, RUN]),
        ([ONE, timed(G, b"60000"), "g", "f"], [QUEUE, RUN]),
    ],
    "2.0": [
        # The newest one was the last to give a job, so that the one before it applies to the first job.
        ([CAN, ONE, "f"], [RUN]),
        ([LONG, ONE, "f"], [RUN]),
        ([ONE, CAN, "f"], [QUEUE]),
        ([ONE, LONG, "f"], [QUEUE]),
        ([ONE, NONE, "f"], [QUEUE]),
        # The job that is requeued is the one for which the timer was last started.
        ([ONE, "f", "f"], [RUN, QUEUE]),
        ([ONE, timed(G, b"60000"), "g", "f"], [RUN, QUEUE]),
    ],
}
"""What differs between the releases of gearmand."""


def own(steps: Sequence[bytes | str], number: int) -> list[bytes | str]:
    """Return the actions of a case for functions of its own."""
    return [
        f"{step}-{number:02}" if isinstance(step, str) else step.replace(b"-00", b"-%02d" % number) for step in steps
    ]


def test_jobs_that_are_requeued_after_timeout(server: Server) -> None:
    client = server.peer()
    submit(client, b"waiting")
    cases = [*CASES, *BY_RELEASE[server.release]]
    handles = [play(server, own(steps, number), client) for number, (steps, _) in enumerate(cases)]
    (later,) = play(server, [timed(b"f", b"1600"), "f"], client)
    server.wait(EXPIRED)
    assert status(client, later) == RUNNING
    states = [[status(client, handle)[:2] for handle in of_case] for of_case in handles]
    assert states == [expected for _, expected in cases]
    server.wait(0.6)
    assert status(client, later) == QUEUED
    assert client.so_far() == []


def test_job_that_times_out_on_last_retry_fails(start: Start) -> None:
    server = start(job_retries=1)
    client, first, second = server.peer(), server.peer(), can_do(server, b"f")
    (handle,) = submit(client, b"f")
    first.send(timed(b"f"))
    grab(first, handle)
    second.send(PRE_SLEEP.request())
    assert first.so_far() == second.so_far() == []
    server.wait(EXPIRED / 2)
    assert client.so_far() == []
    server.wait(EXPIRED / 2)
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert status(client, handle) == UNKNOWN
    assert first.ask(WORK_COMPLETE.request(handle, b"first")) == REFUSED
    assert second.so_far() == client.so_far() == []


@pytest.mark.guarantee(number=5)
def test_d5_job_that_times_out_is_also_assigned_to_another_worker(server: Server) -> None:
    """Neither the first worker nor the client is notified; only the second worker's result is delivered."""
    client, other, first, second = server.peer(), server.peer(), server.peer(), can_do(server, b"f")
    (handle,) = {peer.submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) for peer in (client, other)}
    first.send(timed(b"f"))
    grab(first, handle)
    first.send(WORK_STATUS.request(handle, b"1", b"2"), WORK_DATA.request(handle, b"d1"))
    second.send(PRE_SLEEP.request())
    assert first.so_far() == second.so_far() == []
    before = [(WORK_STATUS, [handle, b"1", b"2"]), (WORK_DATA, [handle, b"d1"])]
    server.wait(EXPIRED)
    assert status(server.peer(), handle) == QUEUED
    assert first.table(b"show jobs") == [handle + b"\t1\t0\t0"]
    assert second.so_far() == [WAKE]
    grab(second, handle)
    assert first.ask(WORK_COMPLETE.request(handle, b"first")) == REFUSED
    assert client.so_far() == other.so_far() == before
    second.send(WORK_DATA.request(handle, b"d2"), WORK_COMPLETE.request(handle, b"second"))
    assert second.so_far() == []
    assert client.so_far() == other.so_far() == [(WORK_DATA, [handle, b"d2"]), (WORK_COMPLETE, [handle, b"second"])]
