"""Posts: what they ask their connections, and what they make of the answers. The worker above them is a plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgearman import GearmanWorker, Job, Priority
from txgearman.connection.protocol import CLOSE_TIMEOUT
from txgearman.packets import (
    CAN_DO,
    CANT_DO,
    GRAB_JOB_ALL,
    JOB_ASSIGN,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    WORK_FAIL,
    PacketType,
)
from txgearman.testing import MemoryJobServer
from txgearman.worker.groups import cancel_timer
from txgearman.worker.worker import POLL_INTERVAL

from ..wire import outcome
from .harness import group_of, slots_held, slots_of_group

WAKE_UPS: Final = 10
"""How often, in close succession, a server may wake for nothing and be asked at once."""


@pytest.fixture
def server() -> Iterator[MemoryJobServer]:
    """A job server that is closed after the test; then no timer may be left on its clock."""
    server = MemoryJobServer()
    yield server
    server.result_of(server.close())
    assert server.clock.getDelayedCalls() == []


def came(server: MemoryJobServer) -> list[PacketType]:
    """What came on the worker's connections that are there."""
    return [packet_type for connection in server.connections for packet_type in connection.requests]


def since(server: MemoryJobServer, start: int) -> list[PacketType]:
    server.advance()
    return came(server)[start:]


def nothing(job: Job) -> None:
    """A function."""


def never(job: Job) -> Deferred[Any]:
    """A function, too."""
    return Deferred()


def submit(server: MemoryJobServer, function: str, count: int = 1, **options: Any) -> None:
    client = server.client()
    for number in range(count):
        server.result_of(client.add_task_bg(function, b"%d" % number, **options))


# What is offered.


def test_a_function_is_offered_on_the_connections_that_are_there(server: MemoryJobServer) -> None:
    worker = server.worker()
    start = len(came(server))
    worker.register_function("f", nothing)
    assert since(server, start) == [CAN_DO, GRAB_JOB_ALL, PRE_SLEEP]


def test_a_connection_without_functions_is_asked_for_nothing(server: MemoryJobServer) -> None:
    server.worker()
    server.advance(60)
    assert GRAB_JOB_ALL not in came(server)[1:]  # the first is the handshake's


def test_a_function_with_no_job_is_taken_back_at_once(server: MemoryJobServer) -> None:
    worker = server.worker()
    for name in ("f", "g"):
        worker.register_function(name, nothing)
    start = len(since(server, 0))
    worker.unregister_function("f")
    assert since(server, start) == [CANT_DO]


@pytest.mark.parametrize("name", ["f", "g"])
def test_a_job_keeps_only_its_own_function_from_being_taken_back(server: MemoryJobServer, name: str) -> None:
    worker = server.worker()
    for each in ("f", "g"):
        worker.register_function(each, never)
    submit(server, "f")
    post = group_of(worker)
    worker.unregister_function(name)
    assert (group_of(worker) is post) is (name == "g")


def test_a_grab_keeps_every_function_from_being_taken_back(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", nothing)
    server.advance()
    hold = server.hold_answers()
    server.advance(POLL_INTERVAL)
    post = group_of(worker)
    worker.unregister_function("f")
    assert group_of(worker) is not post
    hold.release()


# How much is asked for.


@pytest.mark.guarantee(number=18)
def test_no_more_is_asked_for_than_may_run(server: MemoryJobServer) -> None:
    worker = server.worker(max_jobs=4)
    worker.register_function("f", never)
    submit(server, "f", 10)
    assert (slots_held(worker), slots_of_group(worker)) == (4, 4)
    assert server.command("status") == "f\t10\t4\t1\n.\n"


@pytest.mark.guarantee(number=18)
def test_a_limit_is_the_posts_own(server: MemoryJobServer) -> None:
    worker = server.worker(max_jobs=4)
    worker.register_function("f", never, max_jobs=2)
    submit(server, "f", 10)
    assert slots_held(worker) == 2
    assert server.command("status") == "f\t10\t2\t1\n.\n"


def test_an_idle_server_is_asked_for_one_job_a_busy_one_for_more(server: MemoryJobServer) -> None:
    """The window doubles with each job, and begins anew when there is none."""
    worker = server.worker(max_jobs=8)
    worker.register_function("f", nothing)
    server.advance()
    [turn] = group_of(worker).states.values()
    assert turn.window == 1
    hold = server.hold_answers()
    start = len(came(server))
    server.advance(POLL_INTERVAL)
    assert since(server, start) == [GRAB_JOB_ALL]
    hold.release()
    windows: list[int] = []
    worker.register_function("g", lambda job: windows.append(turn.window))
    submit(server, "g")
    assert (windows, turn.window) == ([2], 1)


def test_the_window_of_a_server_that_always_has_jobs_stays_small(server: MemoryJobServer) -> None:
    """A number that doubles with each job would have a million digits after some million jobs without a pause."""
    windows: list[int] = []
    client = server.client()
    for number in range(200):
        server.result_of(client.add_task_bg("f", b"%d" % number))
    worker = server.worker(max_jobs=2)

    def function(job: Job) -> None:
        windows.append(max(turn.window for turn in group_of(worker).states.values()))

    worker.register_function("f", function)
    server.advance()
    assert len(windows) == 200
    assert max(windows) < 2**32


def test_connections_take_turns(server: MemoryJobServer) -> None:
    second = MemoryJobServer(server.clock)
    for each in (server, second):
        submit(each, "f", 4)
    order: list[str] = []
    server.worker(second, max_jobs=1).register_function("f", lambda job: order.append(job.handle.server))
    server.advance()
    assert order == ["endpoint:0", "endpoint:1"] * 4 or order == ["endpoint:1", "endpoint:0"] * 4


# What connections tell.


def give(server: MemoryJobServer, function: bytes) -> None:
    """Answer the next grab with a job of this function."""
    with server.leave_unanswered(GRAB_JOB_ALL):
        server.advance(POLL_INTERVAL)
    server.send_raw(JOB_ASSIGN.response(b"H:x:1", function, b""))


def test_a_job_of_a_function_that_is_not_registered_fails(server: MemoryJobServer, logged_errors: list[str]) -> None:
    worker = server.worker()
    worker.register_function("f", nothing)
    server.advance()
    give(server, b"unheard of")
    server.advance()
    assert came(server).count(WORK_FAIL) == 1
    assert slots_held(worker) == 0
    assert ["unheard of" in text for text in logged_errors] == [True]


def test_a_job_that_was_taken_away_and_comes_again_runs_once(server: MemoryJobServer) -> None:
    """The server took it to be stuck; what the first run would say has no addressee any more."""
    jobs: list[Job] = []
    cancelled: list[Job] = []

    def function(job: Job) -> Deferred[Any]:
        jobs.append(job)
        return Deferred(lambda _: cancelled.append(job))

    worker = server.worker()
    worker.register_function("f", function)
    server.advance()
    give(server, b"f")
    server.advance(1)
    give(server, b"f")
    first, second = jobs
    assert cancelled == [first]
    assert (bool(first.ended), bool(second.ended), slots_held(worker)) == (True, False, 1)
    second.complete(b"")
    assert worker.servers[0].in_flight == 0


@pytest.fixture
def logged_errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What posts log as errors."""
    from txgearman.worker import scheduler as posts

    texts: list[str] = []
    monkeypatch.setattr(posts._log, "error", lambda text, **values: texts.append(text.format(**values)))
    return texts


def test_a_connection_that_was_never_ready_is_lost_in_silence(server: MemoryJobServer) -> None:
    with server.leave_unanswered(times=None):
        worker = server.worker(connect_timeout=1.0)
        worker.register_function("f", nothing)
        server.advance(2)
    assert (slots_held(worker), group_of(worker).states) == (0, {})


@pytest.mark.guarantee(number=18)
def test_what_was_asked_for_is_given_back_with_the_connection(server: MemoryJobServer) -> None:
    worker = server.worker(max_jobs=3)
    worker.register_function("f", nothing)
    server.advance()
    with server.leave_unanswered(GRAB_JOB_ALL):
        server.advance(POLL_INTERVAL)
    assert (slots_held(worker), slots_of_group(worker)) == (1, 1)
    server.drop_connections()
    assert (slots_held(worker), slots_of_group(worker)) == (0, 0)


def test_no_answer_in_time_ends_the_connection(server: MemoryJobServer) -> None:
    worker = server.worker(server_timeout=3.0)
    worker.register_function("f", nothing)
    server.advance()
    with server.leave_unanswered(GRAB_JOB_ALL):
        server.advance(POLL_INTERVAL)
    server.advance(2 * 3.0 + 0.1)
    assert slots_held(worker) == 0
    server.advance(5)
    assert len(group_of(worker).states) == 1


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("packet", [NO_JOB.response(), JOB_ASSIGN.response(b"H:x:1", b"f", b"")])
def test_an_answer_to_nothing_ends_the_connection(server: MemoryJobServer, packet: bytes) -> None:
    worker = server.worker()
    worker.register_function("f", nothing)
    server.advance()
    server.send_raw(packet)
    assert (slots_held(worker), group_of(worker).states) == (0, {})
    assert "answers nothing" in str(worker.servers[0].last_error)


# Waking.


def wake_in_vain(server: MemoryJobServer) -> None:
    server.send_raw(NOOP.response())
    server.advance()


def test_one_that_is_woken_in_vain_too_often_rests(server: MemoryJobServer) -> None:
    """gearmand 1.1 may do it without end (H8)."""
    server.worker().register_function("f", nothing)
    server.advance()
    start = len(came(server))
    for _ in range(2 * WAKE_UPS):
        wake_in_vain(server)
    asked = since(server, start).count(GRAB_JOB_ALL)
    assert WAKE_UPS - 1 <= asked <= WAKE_UPS
    server.advance(1)
    assert since(server, start).count(GRAB_JOB_ALL) == asked + 1


def test_one_that_is_woken_in_vain_now_and_then_is_asked_at_once(server: MemoryJobServer) -> None:
    """Others were faster, that is all."""
    server.worker(poll_interval=1000.0).register_function("f", nothing)
    server.advance()
    start = len(came(server))
    for number in range(2 * WAKE_UPS):
        server.advance(1.5)
        wake_in_vain(server)
        assert since(server, start).count(GRAB_JOB_ALL) == number + 1


def test_a_wake_up_while_it_rests_changes_nothing(server: MemoryJobServer) -> None:
    """It is asked when the rest is over, not before, and once."""
    worker = server.worker()
    worker.register_function("f", nothing)
    server.advance()
    for _ in range(2 * WAKE_UPS):
        wake_in_vain(server)
    worker.register_function("g", nothing)  # which asks, and so lets the server wake it again
    start = len(since(server, 0))
    wake_in_vain(server)
    assert since(server, start) == []
    server.advance(1)
    assert since(server, start) == [GRAB_JOB_ALL, PRE_SLEEP]


def test_a_job_ends_the_suspicion(server: MemoryJobServer) -> None:
    done: list[bytes] = []
    server.worker().register_function("f", lambda job: done.append(job.workload))
    server.advance()
    for _ in range(2 * WAKE_UPS):
        wake_in_vain(server)
    client = server.client()
    server.result_of(client.add_task_bg("f"))
    assert done == []
    server.advance(1)
    for _ in range(WAKE_UPS - 2):  # each ends in one NO_JOB
        server.result_of(client.add_task_bg("f"))
    assert len(done) == WAKE_UPS - 1


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("how", ["drop", "stop"])
def test_a_rest_leaves_no_timer(server: MemoryJobServer, how: str) -> None:
    worker = server.worker()
    worker.register_function("f", nothing)
    server.advance()
    for _ in range(2 * WAKE_UPS):
        wake_in_vain(server)
    [turn] = group_of(worker).states.values()
    rest = turn.backoff
    assert rest is not None
    assert rest.active()
    if how == "drop":
        server.drop_connections()
    else:
        server.result_of(worker.stopService())
    assert not rest.active()


def test_only_sleeping_connections_are_looked_at(server: MemoryJobServer) -> None:
    """One that rests is asked by itself soon."""
    submit(server, "f", at=server.clock.seconds() + 1000)
    submit(server, "f", priority=Priority.LOW)
    worker = server.worker(poll_interval=0.01)
    worker.register_function("f", nothing)
    server.advance(1)
    start = len(came(server))
    server.advance(10)
    assert since(server, start).count(GRAB_JOB_ALL) <= 4 * 10 + 1


# Leaving.


def test_one_that_is_left_asks_for_nothing_more(server: MemoryJobServer) -> None:
    """Nor does it when it is woken, or when its connection is made anew."""
    worker = server.worker(drain_timeout=100.0)
    second = MemoryJobServer(server.clock)
    worker = server.worker(second, drain_timeout=100.0)
    worker.register_function("f", never)
    submit(second, "f")
    stopped = outcome(worker.stopService())
    start = len(came(server))
    submit(server, "f")
    server.advance()
    assert GRAB_JOB_ALL not in came(server)[start:]
    server.drop_connections()
    server.advance(20)
    assert (stopped, len(server.queued("f"))) == ([], 1)
    server.advance(81)
    assert stopped == [None]


def test_one_that_is_left_does_not_sleep_again(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", nothing)
    server.advance()
    hold = server.hold_answers()
    server.advance(POLL_INTERVAL)
    start = len(came(server))
    stopped = outcome(worker.stopService())
    connection = server.connections[0]
    hold.release()
    server.advance(1)
    assert (stopped, connection.requests[start:]) == ([None], [])


def test_a_job_that_was_on_its_way_is_done_before_the_end(server: MemoryJobServer) -> None:
    done: list[bytes] = []
    worker = server.worker()
    worker.register_function("f", lambda job: done.append(job.workload))
    client = server.client()
    server.advance()
    hold = server.hold_answers()
    told = outcome(client.add_task("f", b"x"))
    server.advance(POLL_INTERVAL)
    stopped = outcome(worker.stopService())
    hold.release()
    server.advance(1)
    assert (done, told, stopped) == ([b"x"], [b""], [None])


def test_stopping_twice_is_stopping(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", never)
    submit(server, "f")
    post = group_of(worker)
    stopped = outcome(worker.stopService())
    server.advance()
    assert (stopped, slots_held(worker)) == ([], 1)
    post.stop()
    post.stop()
    server.advance()
    assert (stopped, slots_held(worker), post.states) == ([None], 0, {})


@pytest.mark.guarantee(number=11)
def test_one_that_never_began_ends_at_once() -> None:
    worker = GearmanWorker([MemoryJobServer().endpoint()], reactor=Clock())
    group = group_of(worker)
    stopped = outcome(group.when_stopped())
    group.retire()
    group.stop()
    assert stopped == [None]


@pytest.mark.parametrize("make", [lambda clock: None, lambda clock: clock.callLater(1, lambda: None)])
def test_cancel_timer(make: Callable[[Clock], Any]) -> None:
    clock = Clock()
    cancel_timer(make(clock))
    assert clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_a_peer_that_is_gone_holds_up_an_idle_worker_for_three_seconds_only(
    server: MemoryJobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time to drain is for large results, which must not be cut off."""
    worker = server.worker(drain_timeout=60.0)
    worker.register_function("f", nothing)
    server.advance()
    (connection,) = group_of(worker).states
    monkeypatch.setattr(connection.transport, "loseConnection", lambda: None)  # as with TLS, it waits for the other end
    stopped = outcome(worker.stopService())
    server.advance(CLOSE_TIMEOUT - 0.1)
    assert stopped == []
    server.advance(0.2)
    assert len(stopped) == 1


@pytest.mark.guarantee(number=18)
def test_a_server_that_takes_nothing_is_not_asked(server: MemoryJobServer) -> None:
    """The request would wait behind a large result, and the server seem to owe an answer."""
    worker = server.worker()
    worker.register_function("work", lambda job: job.workload)
    server.advance()
    (connection,) = group_of(worker).states
    connection.pauseProducing()
    done = outcome(server.client().add_task("work", b"x"))
    server.advance(60.0)
    assert (done, connection.error) == ([], None)
    connection.resumeProducing()
    server.advance()
    assert done == [b"x"]


def test_after_a_job_with_a_time_gearmand_is_told_that_we_wait_though_there_is_no_slot(server: MemoryJobServer) -> None:
    """That stops its timer, which would go on to the harm of another job."""
    ends: list[Deferred[bytes]] = []

    def wait(job: Job) -> Deferred[bytes]:
        ends.append(Deferred())
        return ends[-1]

    second = MemoryJobServer(server.clock)
    worker = server.worker(second, max_jobs=2)
    worker.register_function("slow", wait)
    worker.register_function("timed", wait, timeout=60.0)
    first, other = server.client(), second.client()
    for client, function in ((first, "slow"), (first, "timed"), (other, "slow")):
        client.add_task(function).addErrback(lambda _: None)
        server.advance()
    ends[1].callback(b"")
    server.advance()
    assert (len(ends), slots_held(worker)) == (3, 2)
    assert next(iter(group_of(worker).states)).asleep
    server.result_of(second.close())
