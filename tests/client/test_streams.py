"""The connections of streams: a slow loop pauses the reading of its own one, and of no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.error import ConnectionRefusedError

from txgearman import ClientStopped, NoServersAvailable, ServerState, TaskLost, TaskTimedOut
from txgearman.client.iteration import STREAM_BUFFER
from txgearman.client.stream_router import IDLE_SECONDS, MAX_IDLE
from txgearman.testing import MemoryJobServer, TakenJob

from ..client_harness import NOTHING, ClientHarness, outcome, take_all
from .forgetting import forget_queued_jobs
from .loops import Loop, ManualLoop

CHUNK = b"x" * 65536
CHUNK_COUNT = 100

RETRY = 4.0
"""Seconds within which a connection that has failed once is retried."""

MAIN, OWN, SECOND = range(3)
"""Connections of the client to a server, in the order in which they are made."""


def transport(harness: ClientHarness, connection: int = OWN, server: int = 0) -> Any:
    """Return the server's end of a connection."""
    connections: Sequence[Any] = harness.servers[server].connections
    return connections[connection].transport


def reading_paused(harness: ClientHarness, connection: int = OWN, server: int = 0) -> bool:
    """Whether the client has paused reading from this connection."""
    return bool(transport(harness, connection, server).other._reading_paused)


def unread(harness: ClientHarness, connection: int = OWN) -> int:
    """Number of bytes that the server has written on this connection and the client has not read."""
    return int(transport(harness, connection)._size)


def fill(job: TakenJob, count: int = CHUNK_COUNT) -> TakenJob:
    for _ in range(count):
        job.send_data(CHUNK)
    return job


def slow_loop(harness: ClientHarness, **options: Any) -> tuple[ManualLoop, TakenJob]:
    """Return a loop that has taken one chunk, and its job, whose chunks fill its buffer."""
    manual = ManualLoop(harness, **options)
    return manual, fill(harness.server.take("work"))


def in_flight(harness: ClientHarness) -> list[int]:
    return [info.in_flight for info in harness.client.servers]


# Reading is paused.


def test_slow_loop_pauses_reading() -> None:
    harness = ClientHarness().start()
    manual, job = slow_loop(harness)
    job.complete(b"end")
    assert reading_paused(harness)
    read = CHUNK_COUNT * len(CHUNK) - unread(harness)
    assert STREAM_BUFFER < read < STREAM_BUFFER + 4 * len(CHUNK)
    manual.step(2)
    assert not reading_paused(harness) or unread(harness)
    manual.finish()
    assert manual.loop.outcome == "exhausted"
    assert manual.loop.results == [CHUNK] * CHUNK_COUNT + [b"end"]
    assert not reading_paused(harness)
    harness.check_that_it_works()
    harness.stop()


def test_reading_resumes_once_loop_has_caught_up() -> None:
    harness = ClientHarness().start()
    manual = ManualLoop(harness)
    fill(harness.server.take("work"), 18)
    assert reading_paused(harness)
    manual.step()
    assert not reading_paused(harness)
    manual.loop.over.cancel()
    harness.stop()
    assert type(manual.loop.outcome) is CancelledError


def test_slow_loop_pauses_its_own_connection_only() -> None:
    """Though others wait: one task for its job, one for its connection, and a query for its answer."""
    harness = ClientHarness().start()
    waiting = harness.client.add_task("other")
    manual, job = slow_loop(harness)
    echoed = harness.client.echo()
    submitted = harness.client.add_task("other")
    for _ in range(2):
        harness.server.take("other").complete(b"done")
    fill(job)
    assert [outcome(waiting), outcome(submitted), list(outcome(echoed).values())] == [b"done", b"done", [0.0]]
    assert [reading_paused(harness, connection) for connection in (MAIN, OWN)] == [False, True]
    assert 2 * CHUNK_COUNT * len(CHUNK) - unread(harness) < STREAM_BUFFER + 4 * len(CHUNK)
    job.complete(b"end")
    manual.finish()
    assert len(manual.loop.results) == 2 * CHUNK_COUNT + 1
    harness.stop()


def test_slow_loop_does_not_stop_another_stream() -> None:
    harness = ClientHarness().start()
    manual, job = slow_loop(harness)
    loop = Loop(harness, harness.client.stream("other"))
    fill(harness.server.take("other")).complete(b"end")
    assert (loop.outcome, len(loop.results)) == ("exhausted", CHUNK_COUNT + 1)
    assert [reading_paused(harness, connection) for connection in (OWN, SECOND)] == [True, False]
    job.complete(b"end")
    manual.finish()
    harness.stop()


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("stream_first", [False, True])
def test_slow_stream_and_task_share_job(stream_first: bool) -> None:
    """Each connection gets one copy of each packet."""
    harness = ClientHarness().start()
    data: list[bytes] = []
    manual = ManualLoop(harness, unique="u") if stream_first else None
    task = harness.client.add_task("work", unique="u", on_data=lambda task, data_: data.append(data_))
    manual = manual or ManualLoop(harness, unique="u")
    fill(harness.server.take("work")).complete(b"end")
    assert (outcome(task), data) == (b"end", [CHUNK] * CHUNK_COUNT)
    assert reading_paused(harness)
    manual.finish()
    assert manual.loop.results == [CHUNK] * CHUNK_COUNT + [b"end"]
    harness.stop()


@pytest.mark.guarantee(number=4)
def test_two_streams_share_job() -> None:
    harness = ClientHarness().start()
    loops = [Loop(harness, harness.client.stream("work", unique="u")) for _ in range(2)]
    job = harness.server.take("work")
    job.send_data(b"1")
    job.complete(b"2")
    assert [(loop.outcome, loop.results) for loop in loops] == [("exhausted", [b"1", b"2"])] * 2
    assert take_all(harness.server) == []
    harness.stop()


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("end", ["cancel", "stop", "timeout"])
def test_stream_that_ends_while_reading_is_paused_leaves_nothing(end: str) -> None:
    harness = ClientHarness().start()
    manual, _ = slow_loop(harness, timeout=100.0)
    assert reading_paused(harness)
    if end == "cancel":
        manual.loop.over.cancel()
        assert type(manual.loop.outcome) is CancelledError
    elif end == "timeout":
        harness.advance(100)
        assert not reading_paused(harness)
        manual.finish()
        assert type(manual.loop.outcome) is TaskTimedOut
    if end != "stop":
        assert (reading_paused(harness), in_flight(harness)) == (False, [0])
        harness.check_that_it_works()
    harness.stop()
    if end == "stop":
        manual.finish()
        assert type(manual.loop.outcome) is ClientStopped


def test_reading_resumes_when_attempt_fails_though_buffer_is_full() -> None:
    """The next attempt, on another server, is paused with the same buffer."""
    harness = ClientHarness(2).start()
    manual = ManualLoop(harness, retries=1)
    first = next(index for index, server in enumerate(harness.servers) if server.queued("work"))
    job = harness.servers[first].take("work")
    with harness.servers[first].hold_answers():
        fill(job, 18).fail()
    assert not reading_paused(harness, server=first)
    harness.advance(0.5)
    job = harness.servers[1 - first].take("work")
    job.send_data(CHUNK)
    assert reading_paused(harness, server=1 - first)
    job.complete(b"end")
    manual.finish()
    assert (manual.loop.outcome, len(manual.loop.results)) == ("exhausted", 20)
    assert not reading_paused(harness, server=1 - first)
    harness.stop()


def test_full_buffer_of_earlier_attempt_does_not_resume_next_stream_of_connection() -> None:
    harness = ClientHarness().start()
    first = ManualLoop(harness, retries=1)
    job = harness.server.take("work")
    with harness.server.hold_answers():
        fill(job, 18).fail()
    second, _ = slow_loop(harness)
    assert (len(harness.server.connections), reading_paused(harness)) == (2, True)
    first.loop.over.cancel()
    assert type(first.loop.outcome) is CancelledError
    assert reading_paused(harness)
    second.loop.over.cancel()
    assert type(second.loop.outcome) is CancelledError
    harness.check_that_it_works()
    harness.stop()


def test_paused_reading_does_not_count_as_silence() -> None:
    """Neither for the heartbeat, nor as that of an unanswered request or a forgotten job."""
    harness = ClientHarness(heartbeat=5.0, job_check_interval=5.0, server_timeout=5.0).start()
    manual = ManualLoop(harness)
    job = harness.server.take("work")
    held = harness.server.hold_answers()
    harness.advance(5.0)  # until the client sends an ECHO_REQ, or asks after the job
    fill(job)
    held.release()
    harness.advance()
    assert reading_paused(harness)
    for _ in range(20):
        harness.advance(5.0)
    assert reading_paused(harness)
    job.complete(b"end")
    manual.finish()
    assert manual.loop.outcome == "exhausted"
    harness.stop()


# Connections are made when needed, and reused.


def run_stream(harness: ClientHarness, index: int = 0) -> None:
    loop = Loop(harness, harness.client.stream("work"))
    harness.servers[index].take("work").complete(b"done")
    assert (loop.outcome, loop.results) == ("exhausted", [b"done"])


def test_connection_is_reused_and_closed_when_idle() -> None:
    harness = ClientHarness().start()
    assert harness.connected() == [1]
    for _ in range(3):
        run_stream(harness)
        harness.advance(IDLE_SECONDS - 1)
        assert harness.connected() == [2]
    harness.advance(1)
    assert harness.connected() == [1]
    run_stream(harness)
    harness.stop()


def test_streams_one_after_the_other_have_one_connection() -> None:
    """Though the outcome of each is reported before its connection is idle."""
    harness = ClientHarness().start()

    async def results() -> list[bytes]:
        return [chunk for number in b"012" async for chunk in harness.client.stream("work", bytes([number]))]

    done = ensureDeferred(results())
    for _ in range(3):
        job = harness.server.take("work")
        job.complete(job.workload)
    assert (outcome(done), harness.connected(), in_flight(harness)) == ([b"0", b"1", b"2"], [2], [0])
    harness.advance(IDLE_SECONDS)
    assert harness.connected() == [1]
    harness.stop()


def test_number_of_idle_connections_is_limited() -> None:
    harness = ClientHarness().start()
    loops = [Loop(harness, harness.client.stream("work")) for _ in range(MAX_IDLE + 3)]
    assert (harness.connected(), in_flight(harness)) == ([MAX_IDLE + 4], [MAX_IDLE + 3])
    for _ in loops:
        harness.server.take("work").complete(b"done")
    assert [loop.outcome for loop in loops] == ["exhausted"] * len(loops)
    assert (harness.connected(), in_flight(harness)) == ([MAX_IDLE + 1], [0])
    harness.stop()


@pytest.mark.guarantee(number=6)
def test_connection_with_job_of_cancelled_stream_is_kept_and_reused() -> None:
    """gearmand would lose what joins the job, if its client closed the connection (H1, L1)."""
    harness = ClientHarness().start()
    left = Loop(harness, harness.client.stream("work", unique="u"))
    left.over.cancel()
    assert type(left.outcome) is CancelledError
    harness.advance(3 * IDLE_SECONDS)
    assert harness.connected() == [2]
    loop = Loop(harness, harness.client.stream("work", unique="u"))
    job = harness.server.take("work")
    job.send_data(b"1")
    job.complete(b"2")
    assert (loop.outcome, loop.results, harness.connected()) == ("exhausted", [b"1", b"2"], [2])
    harness.advance(2 * IDLE_SECONDS)
    assert harness.connected() == [1]
    harness.stop()


def test_stream_prefers_connection_without_jobs() -> None:
    harness = ClientHarness().start()
    left, other = (Loop(harness, harness.client.stream("work", name)) for name in (b"left", b"other"))
    left.over.cancel()
    harness.server.take("work").send_data(b"1")
    harness.server.take("work").complete(b"done")
    assert (type(left.outcome), other.outcome) == (CancelledError, "exhausted")
    manual, _ = slow_loop(harness)
    assert [reading_paused(harness, connection) for connection in (OWN, SECOND)] == [False, True]
    manual.loop.over.cancel()
    assert type(manual.loop.outcome) is CancelledError
    harness.stop()


def test_streams_count_for_choice_of_server_and_for_max_in_flight() -> None:
    harness = ClientHarness(2, max_in_flight=3).start()
    loops = [Loop(harness, harness.client.stream("work")) for _ in range(2)]
    assert (in_flight(harness), harness.connected()) == ([1, 1], [2, 2])
    task, waiting = harness.client.add_task("work"), harness.client.add_task("work", b"waiting")
    harness.advance()
    assert sorted(in_flight(harness)) == [1, 2]
    assert b"waiting" not in [*harness.servers[0].queued("work"), *harness.servers[1].queued("work")]
    third = harness.client.stream("work")
    for server in harness.servers:
        while server.queued("work"):
            server.take("work").complete(b"done")
    assert [loop.outcome for loop in loops] == ["exhausted"] * 2
    assert [outcome(task), outcome(waiting)] == [b"done", b"done"]
    assert in_flight(harness) == [0, 0]
    third.aclose().close()
    harness.stop()


def test_streams_that_have_ended_do_not_count_for_choice_of_server() -> None:
    harness = ClientHarness(2).start()
    loops = [Loop(harness, harness.client.stream("work")) for _ in range(4)]
    for _ in range(2):
        harness.servers[1].take("work").complete(b"done")
    assert in_flight(harness) == [2, 0]
    loops += [Loop(harness, harness.client.stream("work")) for _ in range(2)]
    assert in_flight(harness) == [2, 2]
    for server in harness.servers:
        while server.queued("work"):
            server.take("work").complete(b"done")
    assert [loop.outcome for loop in loops] == ["exhausted"] * 6
    harness.stop()


def test_ordinary_tasks_avoid_server_with_streams() -> None:
    harness = ClientHarness(2).start()
    loops = [Loop(harness, harness.client.stream("work", unique="u")) for _ in range(3)]
    busy = next(index for index, server in enumerate(harness.servers) if server.queued("work"))
    tasks = [harness.client.add_task("work") for _ in range(3)]
    harness.advance()
    assert (in_flight(harness)[busy], in_flight(harness)[1 - busy]) == (3, 3)
    for server in harness.servers:
        while server.queued("work"):
            server.take("work").complete(b"done")
    assert [outcome(task) for task in tasks] == [b"done"] * 3
    assert [loop.outcome for loop in loops] == ["exhausted"] * 3
    harness.stop()


def test_stream_of_client_that_is_connecting_waits() -> None:
    harness = ClientHarness()
    loop = Loop(harness, harness.client.stream("work"))
    assert harness.client.servers[0].state is ServerState.READY
    drained = harness.client.drain()
    assert outcome(drained) is NOTHING
    harness.server.take("work").complete(b"done")
    assert (loop.outcome, outcome(drained)) == ("exhausted", None)
    harness.stop()


# Connections that are lost, or can't be made.


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("retries", [0, 1])
def test_stream_is_lost_with_its_connection_and_nothing_else_is(retries: int) -> None:
    harness = ClientHarness().start()
    task = harness.client.add_task("other")
    loop = Loop(harness, harness.client.stream("work", retries=retries))
    transport(harness).abortConnection()
    harness.advance()
    assert harness.connected() == [1]
    harness.server.take("other").complete(b"done")
    assert outcome(task) == b"done"
    if retries:
        harness.advance(0.5)
        take_all(harness.server)
        assert (loop.outcome, in_flight(harness)) == (NOTHING, [1])
        loop.over.cancel()
    assert type(loop.outcome) is (CancelledError if retries else TaskLost)
    harness.stop()


def test_idle_connection_that_is_lost_is_forgotten() -> None:
    harness = ClientHarness().start()
    run_stream(harness)
    transport(harness).abortConnection()
    harness.advance(2 * IDLE_SECONDS)
    assert harness.connected() == [1]
    run_stream(harness)
    harness.stop()


@pytest.mark.guarantee(number=16)
def test_forgotten_job_of_stream_is_detected() -> None:
    harness = ClientHarness(job_check_interval=8.0).start()
    loop = Loop(harness, harness.client.stream("work"))
    forget_queued_jobs(harness.server)
    for _ in range(4):
        harness.advance(4.0)
    assert type(loop.outcome) is TaskLost
    assert loop.over.result is None or in_flight(harness) == [0]
    harness.stop()


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("unique", ["", "u", "-"])
def test_stream_goes_to_next_server_if_first_accepts_no_connection(unique: str) -> None:
    harness = ClientHarness(2).start()
    first = Loop(harness, harness.client.stream("work", unique=unique))
    index = harness.take_anywhere()
    refusal = harness.servers[index].refuse_connections()
    transport(harness, server=index).abortConnection()
    assert type(first.outcome) is TaskLost
    for _ in range(3):
        run_stream(harness, 1 - index)
    assert harness.connected()[index] == 1
    refusal.end()
    harness.advance(IDLE_SECONDS)
    assert harness.connected()[index] == 2
    harness.stop()


def test_stream_fails_if_only_server_accepts_no_connection() -> None:
    harness = ClientHarness().start()
    refusal = harness.server.refuse_connections()
    for _ in range(2):
        loop = Loop(harness, harness.client.stream("work"))
        error = loop.outcome
        assert type(error) is NoServersAvailable
        assert [type(reason) for reason in error.reasons.values()] == [ConnectionRefusedError]
    harness.check_that_it_works()
    refusal.end()
    harness.advance(RETRY)
    run_stream(harness)
    harness.stop()


def test_stream_waits_for_server_that_accepts_no_connection() -> None:
    harness = ClientHarness(server_wait=20.0).start()
    refusal = harness.server.refuse_connections()
    loop = Loop(harness, harness.client.stream("work"))
    harness.advance(10.0)
    assert loop.outcome is NOTHING
    refusal.end()
    harness.advance(9.0)
    harness.server.take("work").complete(b"done")
    assert loop.outcome == "exhausted"
    refusal = harness.server.refuse_connections()
    transport(harness).abortConnection()
    harness.advance()
    late = Loop(harness, harness.client.stream("work"))
    harness.advance(19.0)
    assert late.outcome is NOTHING
    harness.advance(1.0)
    assert type(late.outcome) is NoServersAvailable
    refusal.end()
    harness.stop()


def test_connection_is_tried_at_once_when_client_has_reconnected() -> None:
    """The delay of the connection that failed is not waited for."""
    harness = ClientHarness(server_wait=100.0).start()
    down = harness.server.refuse_connections()
    loop = Loop(harness, harness.client.stream("work"))
    for _ in range(6):
        harness.advance(5.0)
    down.end()
    harness.server.drop_connections()
    harness.advance(RETRY)
    assert harness.client.servers[0].state is ServerState.READY
    harness.server.take("work").complete(b"done")
    assert loop.outcome == "exhausted"
    harness.stop()


def test_stream_and_client_find_server_down() -> None:
    harness = ClientHarness()
    down = harness.server.go_down()
    loop = Loop(harness, harness.client.stream("work"))
    assert type(loop.outcome) is NoServersAvailable
    down.end()
    harness.advance(RETRY)
    run_stream(harness)
    harness.stop()


# A retry is not spent on servers that are known to be down, or to accept no connection.


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("client_is_connected", [False, True])
def test_stream_with_retries_survives_outage_without_server_wait(client_is_connected: bool) -> None:
    """As a task does: an outage of the server, or of its new connections alone."""
    harness = ClientHarness().start()
    outage = harness.server.refuse_connections()
    if not client_is_connected:
        harness.server.drop_connections()
    attempts: list[int] = []
    stream = harness.client.stream("work", retries=3, on_retry=lambda task, attempt: attempts.append(attempt))
    loop = Loop(harness, stream)
    for _ in range(22):
        harness.advance(0.1)
        assert loop.outcome is NOTHING
    assert attempts[-1] < 3
    outage.end()
    harness.advance(5)
    harness.server.take("work").complete(b"done")
    assert loop.outcome == "exhausted"
    harness.stop()


def stream_that_waits(harness: ClientHarness, **options: Any) -> Loop:
    """Return a stream that waits for attempts to connect: the first of them has failed."""
    harness.start()
    harness.server.refuse_connections()
    assert type(Loop(harness, harness.client.stream("work")).outcome) is NoServersAvailable
    loop = Loop(harness, harness.client.stream("work", retries=1, **options))
    assert loop.outcome is NOTHING
    return loop


@pytest.mark.guarantee(number=1)
def test_stream_fails_after_the_last_attempt_to_connect() -> None:
    harness = ClientHarness()
    attempts: list[int] = []
    loop = stream_that_waits(harness, on_retry=lambda task, attempt: attempts.append(attempt))
    harness.advance(10)
    assert (type(loop.outcome), attempts) == (NoServersAvailable, [1])
    harness.stop()


@pytest.mark.guarantee(number=13)
def test_failure_of_a_stream_that_waits_may_stop_the_client_and_so_end_the_other() -> None:
    harness = ClientHarness()
    first = stream_that_waits(harness, on_retry=lambda task, attempt: harness.client.stopService())
    second = Loop(harness, harness.client.stream("work", retries=1))
    harness.advance(5)
    assert [type(loop.outcome) for loop in (first, second)] == [ClientStopped] * 2
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_stream_that_waits_for_an_attempt_fails_at_stop() -> None:
    harness = ClientHarness()
    loop = stream_that_waits(harness)
    harness.stop()
    assert type(loop.outcome) is ClientStopped


def test_change_of_servers_leaves_connection_that_failed() -> None:
    """It is retried with back-off, and its server gets no streams until then."""
    harness = ClientHarness(2).start()
    refusals = [server.refuse_connections() for server in harness.servers]
    assert type(Loop(harness, harness.client.stream("work")).outcome) is NoServersAvailable
    refusals[0].end()
    harness.client.job_servers = harness.client.job_servers[::-1]
    assert type(Loop(harness, harness.client.stream("work")).outcome) is NoServersAvailable
    harness.advance(RETRY)
    run_stream(harness)
    harness.stop()


# Streams that end before their connection is ready.


@pytest.mark.guarantee(number=9)
def test_stream_cancelled_while_it_connects_is_never_sent_and_leaves_its_connection_to_next() -> None:
    harness = ClientHarness().start()
    held = harness.server.hold_answers()
    cancelled = Loop(harness, harness.client.stream("work", b"cancelled"))
    cancelled.over.cancel()
    assert type(cancelled.outcome) is CancelledError
    loop = Loop(harness, harness.client.stream("work", b"sent"))
    held.release()
    harness.advance()
    assert (harness.server.queued("work"), harness.connected()) == ([b"sent"], [2])
    harness.server.take("work").complete(b"done")
    assert loop.outcome == "exhausted"
    harness.stop()


def test_connection_that_nobody_needs_any_longer_is_idle_once_ready() -> None:
    harness = ClientHarness().start()
    held = harness.server.hold_answers()
    loop = Loop(harness, harness.client.stream("work", timeout=1.0))
    harness.advance(1.0)
    assert type(loop.outcome) is TaskTimedOut
    held.release()
    harness.advance(IDLE_SECONDS - 1)
    assert harness.connected() == [2]
    harness.advance(1.0)
    assert harness.connected() == [1]
    harness.stop()


def one_in_flight(harness: ClientHarness) -> None:
    take_all(harness.server)


def one_connecting(harness: ClientHarness) -> None:
    harness.server.black_hole_connections()


def one_waiting_for_server(harness: ClientHarness) -> None:
    harness.server.refuse_connections()


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("before", [one_in_flight, one_connecting, one_waiting_for_server])
@pytest.mark.parametrize("restarted", [False, True])
def test_stop_ends_streams(before: Callable[[ClientHarness], None], restarted: bool) -> None:
    """Even if the first task that it ends starts the client again, and begins another stream."""
    harness = ClientHarness(server_wait=100.0).start()
    task = harness.client.add_task("other")
    idle = Loop(harness, harness.client.stream("work"))
    second = Loop(harness, harness.client.stream("work"))
    for _ in range(2):
        harness.server.take("work").complete(b"done")
    assert (idle.outcome, second.outcome, harness.connected()) == ("exhausted", "exhausted", [3])
    transport(harness, SECOND).abortConnection()
    harness.advance()
    first = Loop(harness, harness.client.stream("work", retries=3))
    before(harness)
    loop = Loop(harness, harness.client.stream("work", retries=3))
    again: list[Loop] = []

    def start(_: object) -> None:
        if restarted:
            first.over.cancel()
            harness.client.startService()
            again.append(Loop(harness, harness.client.stream("work", b"again")))

    task.addErrback(start)
    stopped = harness.client.stopService()
    for fault in list(harness.server._faults.active):
        fault.end()
    harness.advance(40.0)
    assert outcome(stopped) is None
    assert [type(one.outcome) for one in (first, loop)] == [
        CancelledError if restarted else ClientStopped,
        ClientStopped,
    ]
    if restarted:
        assert b"again" in take_all(harness.server)
        assert (in_flight(harness), harness.connected()) == ([1], [2])
        again[0].over.cancel()
        assert type(again[0].outcome) is CancelledError
    harness.stop()


def test_removed_server_finishes_streams() -> None:
    harness = ClientHarness().start()
    run_stream(harness)
    busy = Loop(harness, harness.client.stream("work"))
    job = harness.server.take("work")
    idle = Loop(harness, harness.client.stream("work"))
    with harness.server.black_hole_connections():
        connecting = [Loop(harness, harness.client.stream("work", b"moves")) for _ in range(2)]
        harness.server.take("work").complete(b"done")
        new = MemoryJobServer(harness.clock)
        harness.client.job_servers = [new.endpoint()]
        harness.advance()
    assert (idle.outcome, new.queued("work")) == ("exhausted", [b"moves"] * 2)
    job.complete(b"end")
    assert (busy.outcome, busy.results, harness.connected()) == ("exhausted", [b"end"], [0])
    while new.queued("work"):
        new.take("work").complete(b"done")
    assert [loop.outcome for loop in connecting] == ["exhausted"] * 2
    harness.stop()
    assert new.connections == []
