"""The policy of a worker: which connection is asked for a job and when, on job servers in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater

from txgearman import GearmanClient, GearmanWorker, Job, JobEnded, Priority, ServerState, TaskLost
from txgearman.connection.options import SERVER_TIMEOUT
from txgearman.packets import GRAB_JOB_ALL, JOB_ASSIGN, NOOP, PRE_SLEEP, WORK_FAIL
from txgearman.testing import MemoryJobServer
from txgearman.worker import scheduler
from txgearman.worker.worker import DRAIN_TIMEOUT, POLL_INTERVAL

from ..wire import outcome
from .harness import (
    MINUTE,
    Slow,
    do_nothing,
    function_status,
    group_of,
    never_end,
    packets_received,
    packets_since,
    results,
    running_jobs,
    scheduler_of,
    slots_held,
    slots_of_group,
    submit,
    submit_bg,
)

reactor: Any = global_reactor

WAKE_UPS: Final = 10
"""Spurious wake-ups in close succession after which a connection is not asked at once."""


# Slots, limits and windows.


@pytest.mark.guarantee(number=18)
def test_worker_requests_no_more_jobs_than_max_jobs(server: MemoryJobServer) -> None:
    worker = server.worker(max_jobs=4)
    worker.register_function("f", never_end)
    submit_bg(server, "f", 10)
    assert (slots_held(worker), slots_of_group(worker)) == (4, 4)
    assert server.command("status") == "f\t10\t4\t1\n.\n"


@pytest.mark.guarantee(number=18)
async def test_jobs_of_a_read_free_their_slots_over_tcp() -> None:
    """There, the results of a read and the requests for as many jobs are sent together."""
    server = MemoryJobServer(reactor)
    address = server.listen()
    worker = GearmanWorker([address], reactor=reactor, max_jobs=4)
    worker.register_function("f", lambda job: job.workload[::-1])
    workloads = [b"%03d" % number for number in range(20)]
    async with worker, GearmanClient([address], reactor=reactor) as client:
        assert await client.add_tasks("f", workloads) == [workload[::-1] for workload in workloads]
        await worker.stopService()
        assert slots_held(worker) == 0
    await server.close()


@pytest.mark.guarantee(number=18)
def test_function_requests_no_more_jobs_than_its_limit(server: MemoryJobServer) -> None:
    worker = server.worker(max_jobs=4)
    worker.register_function("f", never_end, max_jobs=2)
    submit_bg(server, "f", 10)
    assert slots_held(worker) == 2
    assert server.command("status") == "f\t10\t2\t1\n.\n"


def test_window_doubles_with_each_job_and_resets_at_no_job(server: MemoryJobServer) -> None:
    """So a busy server is asked for several jobs at a time, and an idle one for one."""
    worker = server.worker(max_jobs=8)
    worker.register_function("f", do_nothing)
    server.advance()
    [state] = group_of(worker).states.values()
    assert state.window == 1
    hold = server.hold_answers()
    start = len(packets_received(server))
    server.advance(POLL_INTERVAL)
    assert packets_since(server, start) == [GRAB_JOB_ALL]
    hold.release()
    windows: list[int] = []
    worker.register_function("g", lambda job: windows.append(state.window))
    submit_bg(server, "g")
    assert (windows, state.window) == ([2], 1)


def test_window_of_busy_server_stays_bounded(server: MemoryJobServer) -> None:
    """A number that doubles with each job would have a million digits after some million jobs without a pause."""
    windows: list[int] = []
    client = server.client()
    for number in range(200):
        server.result_of(client.add_task_bg("f", b"%d" % number))
    worker = server.worker(max_jobs=2)

    def function(job: Job) -> None:
        windows.append(max(state.window for state in group_of(worker).states.values()))

    worker.register_function("f", function)
    server.advance()
    assert len(windows) == 200
    assert max(windows) < 2**32


def test_connections_take_turns_if_there_is_one_slot(server: MemoryJobServer) -> None:
    second = MemoryJobServer(server.clock)
    for each in (server, second):
        submit_bg(each, "f", 4)
    order: list[str] = []
    server.worker(second, max_jobs=1).register_function("f", lambda job: order.append(job.handle.server))
    server.advance()
    assert order == ["memory:1", "memory:2"] * 4 or order == ["memory:2", "memory:1"] * 4


def test_connection_that_is_drained_before_it_is_ready_is_not_asked(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", do_nothing)
    server.advance()
    start = len(packets_received(server))
    unready: Any = object()
    scheduler_of(worker).connection_drained(unready)
    assert packets_since(server, start) == []


@pytest.mark.guarantee(number=18)
def test_connection_is_not_asked_while_writing_is_paused(server: MemoryJobServer) -> None:
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


def check_load(slow: Slow, worker: GearmanWorker, servers: list[MemoryJobServer], limit: int) -> None:
    assert sum(map(running_jobs, servers)) == len(slow.running) <= limit
    assert slots_held(worker) >= len(slow.running)
    assert sum(info.in_flight for info in worker.servers) == len(slow.running)


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("max_jobs", [1, 2, 5])
def test_every_assigned_job_runs_at_once(count: int, max_jobs: int, server: MemoryJobServer) -> None:
    servers = [server, *(MemoryJobServer(server.clock) for _ in range(count - 1))]
    slow = Slow()
    worker = server.worker(*servers[1:], max_jobs=max_jobs)
    worker.register_function("slow", slow)
    outcomes = [submit(each.client(), range(number, 40, count)) for number, each in enumerate(servers)]
    for _ in range(40):
        server.advance()
        check_load(slow, worker, servers, max_jobs)
        assert len(slow.running) == min(max_jobs, 40 - sum(len(results(each)) for each in outcomes))
        slow.end()
    server.advance()
    done = [result for each in outcomes for result in results(each)]
    assert sorted(done, key=int) == [b"%d" % number for number in range(40)]
    assert (slow.most_running, len(slow.jobs), slots_held(worker)) == (max_jobs, 40, 0)


@pytest.mark.parametrize("max_jobs", [1, 2, 5])
def test_servers_take_turns(max_jobs: int, server: MemoryJobServer, second: MemoryJobServer) -> None:
    third = MemoryJobServer(server.clock)
    servers = [server, second, third]
    for number, each in enumerate(servers):
        submit(each.client(), range(number * 100, number * 100 + 50))
    slow = Slow()
    server.worker(second, third, max_jobs=max_jobs).register_function("slow", slow)
    for _ in range(60):
        server.advance()
        slow.end()
    shares = [sum(int(workload) // 100 == number for workload in slow.started[:60]) for number in range(3)]
    assert max(shares) - min(shares) <= 1 + max_jobs
    slow.end_all()


def test_limit_of_function_holds_beside_other_functions(server: MemoryJobServer, second: MemoryJobServer) -> None:
    limited, free = Slow(), Slow()
    worker = server.worker(second, max_jobs=3)
    worker.register_function("limited", limited, max_jobs=1)
    worker.register_function("free", free)
    for each in (server, second):
        submit(each.client(), range(id(each), id(each) + 10), "limited")
        submit(each.client(), range(id(each), id(each) + 10), "free")
    for _ in range(20):
        server.advance()
        assert len(limited.running) == sum(running_jobs(each, "limited") for each in (server, second)) <= 1
        assert len(free.running) == sum(running_jobs(each, "free") for each in (server, second))
        assert len(limited.running) + len(free.running) <= 3
        for slow in (limited, free):
            if slow.running:
                slow.end()
    while limited.running or free.running:
        limited.end_all()
        free.end_all()
        server.advance()
    assert (len(limited.jobs), len(free.jobs), limited.most_running) == (20, 20, 1)


def test_limit_of_function_holds_across_restart(server: MemoryJobServer) -> None:
    """A job of the function is still running when the worker is started again."""
    slow = Slow()
    worker = server.worker()
    worker.register_function("slow", slow, max_jobs=1)
    outcomes = submit(server.client(), range(3))
    server.advance()
    worker.stopService()
    worker.startService()
    server.advance(1)
    try:
        assert len(slow.running) == 1
    finally:
        for _ in range(3):
            slow.end_all()
            server.advance(1)
    assert results(outcomes) == [b"0", b"1", b"2"]


def test_limit_of_function_holds_after_registration_anew(server: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker()
    worker.register_function("slow", slow, max_jobs=1)
    worker.register_function("other", slow, max_jobs=5)
    outcomes = submit(server.client(), range(3))
    server.advance()
    worker.unregister_function("other")
    worker.unregister_function("slow")
    worker.register_function("slow", slow, max_jobs=1)
    server.advance(1)
    assert len(slow.running) == 1
    for _ in range(3):
        slow.end_all()
        server.advance(1)
    assert (slow.most_running, results(outcomes)) == (1, [b"0", b"1", b"2"])


# What connections report.


def assign(server: MemoryJobServer, function: bytes) -> None:
    """Answer the next request with a job of this function."""
    with server.leave_unanswered(GRAB_JOB_ALL):
        server.advance(POLL_INTERVAL)
    server.send_raw(JOB_ASSIGN.response(b"H:x:1", function, b""))


def test_job_of_unregistered_function_fails(server: MemoryJobServer, logged_errors: list[str]) -> None:
    worker = server.worker()
    worker.register_function("f", do_nothing)
    server.advance()
    assign(server, b"unheard of")
    server.advance()
    assert packets_received(server).count(WORK_FAIL) == 1
    assert slots_held(worker) == 0
    assert ["unheard of" in text for text in logged_errors] == [True]


def test_job_that_is_assigned_anew_ends_its_first_run(server: MemoryJobServer) -> None:
    """The server has given up on the first run; nothing that it would send has a receiver any more."""
    jobs: list[Job] = []
    cancelled: list[Job] = []

    def function(job: Job) -> Deferred[Any]:
        jobs.append(job)
        return Deferred(lambda _: cancelled.append(job))

    worker = server.worker()
    worker.register_function("f", function)
    server.advance()
    assign(server, b"f")
    server.advance(1)
    assign(server, b"f")
    first, second = jobs
    assert cancelled == [first]
    assert (bool(first.ended), bool(second.ended), slots_held(worker)) == (True, False, 1)
    second.complete(b"")
    assert worker.servers[0].in_flight == 0


@pytest.fixture
def logged_errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the scheduler logs as errors."""
    texts: list[str] = []
    monkeypatch.setattr(scheduler._log, "error", lambda text, **values: texts.append(text.format(**values)))
    return texts


# Wake-ups, sleep and polls.


def wake_without_job(server: MemoryJobServer) -> None:
    server.send_raw(NOOP.response())
    server.advance()


def test_connection_backs_off_after_too_many_spurious_wakeups(server: MemoryJobServer) -> None:
    """gearmand 1.1 may send them without end (H8)."""
    server.worker().register_function("f", do_nothing)
    server.advance()
    start = len(packets_received(server))
    for _ in range(2 * WAKE_UPS):
        wake_without_job(server)
    asked = packets_since(server, start).count(GRAB_JOB_ALL)
    assert WAKE_UPS - 1 <= asked <= WAKE_UPS
    server.advance(1)
    assert packets_since(server, start).count(GRAB_JOB_ALL) == asked + 1


def test_connection_is_asked_at_once_if_spurious_wakeups_are_rare(server: MemoryJobServer) -> None:
    """Other workers were faster, that is all."""
    server.worker(poll_interval=1000.0).register_function("f", do_nothing)
    server.advance()
    start = len(packets_received(server))
    for number in range(2 * WAKE_UPS):
        server.advance(1.5)
        wake_without_job(server)
        assert packets_since(server, start).count(GRAB_JOB_ALL) == number + 1


def test_wakeup_during_backoff_changes_nothing(server: MemoryJobServer) -> None:
    """It is asked once, when the backoff is over."""
    worker = server.worker()
    worker.register_function("f", do_nothing)
    server.advance()
    for _ in range(2 * WAKE_UPS):
        wake_without_job(server)
    worker.register_function("g", do_nothing)  # which asks, and so lets the server wake it again
    start = len(packets_since(server, 0))
    wake_without_job(server)
    assert packets_since(server, start) == []
    server.advance(1)
    assert packets_since(server, start) == [GRAB_JOB_ALL, PRE_SLEEP]


def test_job_resets_count_of_spurious_wakeups(server: MemoryJobServer) -> None:
    done: list[bytes] = []
    server.worker().register_function("f", lambda job: done.append(job.workload))
    server.advance()
    for _ in range(2 * WAKE_UPS):
        wake_without_job(server)
    client = server.client()
    server.result_of(client.add_task_bg("f"))
    assert done == []
    server.advance(1)
    for _ in range(WAKE_UPS - 2):  # each ends in one NO_JOB
        server.result_of(client.add_task_bg("f"))
    assert len(done) == WAKE_UPS - 1


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("how", ["drop", "stop"])
def test_backoff_leaves_no_timer_after_its_connection(server: MemoryJobServer, how: str) -> None:
    worker = server.worker()
    worker.register_function("f", do_nothing)
    server.advance()
    for _ in range(2 * WAKE_UPS):
        wake_without_job(server)
    [state] = group_of(worker).states.values()
    timer = state.backoff
    assert timer is not None
    assert timer.active()
    if how == "drop":
        server.drop_connections()
    else:
        server.result_of(worker.stopService())
    assert not timer.active()


def test_poll_asks_only_connections_that_sleep(server: MemoryJobServer) -> None:
    """One that backs off is asked soon anyway."""
    submit_bg(server, "f", at=server.clock.seconds() + 1000)
    submit_bg(server, "f", priority=Priority.LOW)
    worker = server.worker(poll_interval=0.01)
    worker.register_function("f", do_nothing)
    server.advance(1)
    start = len(packets_received(server))
    server.advance(10)
    assert packets_since(server, start).count(GRAB_JOB_ALL) <= 4 * 10 + 1


def test_end_of_timed_job_sends_pre_sleep_to_gearmand_even_if_no_slot_is_free(server: MemoryJobServer) -> None:
    """PRE_SLEEP stops the server's timer, which would go on and end another job."""
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
    assert min(group_of(worker).states, key=lambda connection: connection.factory.name).asleep
    second.close(verify=False)


@pytest.mark.parametrize("poll_interval", [2.0, 10.0])
def test_job_with_start_time_starts_within_poll_interval(server: MemoryJobServer, poll_interval: float) -> None:
    """gearmand 1.1 wakes nobody for it (H7)."""
    started: list[float] = []
    server.worker(poll_interval=poll_interval).register_function(
        "f", lambda job: started.append(server.clock.seconds())
    )
    at = server.clock.seconds() + 21
    server.result_of(server.client().add_task_bg("f", at=at))
    server.advance(21 + poll_interval)
    assert len(started) == 1
    assert 0 <= started[0] - at <= poll_interval


def test_idle_worker_sends_grab_and_pre_sleep_per_poll(server: MemoryJobServer, second: MemoryJobServer) -> None:
    worker = server.worker(second)
    worker.register_function("f", lambda job: None)
    server.advance()
    before = [len(packets_received(each)) for each in (server, second)]
    server.advance(MINUTE)
    for count, each in zip(before, (server, second), strict=True):
        assert packets_received(each)[count:] == [GRAB_JOB_ALL, PRE_SLEEP] * 6


def test_endless_wakeups_cause_few_requests(server: MemoryJobServer) -> None:
    """A job for later hides a LOW one from GRAB_JOB, but not from PRE_SLEEP (H8)."""
    done: list[bytes] = []
    client = server.client()
    server.result_of(client.add_task_bg("f", b"epoch", at=server.clock.seconds() + 61))
    server.result_of(client.add_task_bg("f", b"low", priority=Priority.LOW))
    worker = server.worker()
    worker.register_function("f", lambda job: done.append(job.workload))
    worker.register_function("g", lambda job: b"g")
    server.advance(0)
    before = len(packets_received(server))
    server.advance(MINUTE)
    assert done == []
    assert len(packets_received(server)) - before <= 2 * 4 * MINUTE + 40
    assert server.result_of(client.add_task_bg("g")) is not None
    server.advance(2)
    assert done == [b"epoch", b"low"]


@pytest.mark.parametrize("burst", [1, 13, 100])
def test_bursts_of_jobs_start_at_once(server: MemoryJobServer, burst: int) -> None:
    """At the end of each burst many requests are answered by NO_JOB, which does not count as spurious wake-ups."""
    worker, client = server.worker(max_jobs=burst), server.client()
    worker.register_function("f", lambda job: job.workload)
    server.advance()
    for _ in range(5):
        done = [outcome(client.add_task("f", b"x")) for _ in range(burst)]
        server.advance()
        assert done == [[b"x"]] * burst


def test_successive_jobs_cost_few_requests(server: MemoryJobServer) -> None:
    worker, client = server.worker(), server.client()
    worker.register_function("f", lambda job: job.workload)
    server.advance()
    before = len(packets_received(server))
    for _ in range(20):
        assert server.result_of(client.add_task("f", b"x")) == b"x"
    grabs = packets_received(server)[before:].count(GRAB_JOB_ALL)
    assert 20 < grabs <= 60


# Connections that are lost.


def test_connection_that_was_never_ready_closes_without_effect(server: MemoryJobServer) -> None:
    with server.leave_unanswered(times=None):
        worker = server.worker(connect_timeout=1.0)
        worker.register_function("f", do_nothing)
        server.advance(2)
    assert (slots_held(worker), group_of(worker).states) == (0, {})


@pytest.mark.guarantee(number=18)
def test_lost_connection_frees_slots_of_its_requests(server: MemoryJobServer) -> None:
    worker = server.worker(max_jobs=3)
    worker.register_function("f", do_nothing)
    server.advance()
    with server.leave_unanswered(GRAB_JOB_ALL):
        server.advance(POLL_INTERVAL)
    assert (slots_held(worker), slots_of_group(worker)) == (1, 1)
    server.drop_connections()
    assert (slots_held(worker), slots_of_group(worker)) == (0, 0)


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize("limit", [None, 1])
def test_lost_connection_that_held_the_slot_lets_job_of_another_server_start_at_once(
    server: MemoryJobServer, second: MemoryJobServer, limit: int | None
) -> None:
    """Not only at the next poll."""
    worker = server.worker(second, max_jobs=1 if limit is None else 2)
    worker.register_function("f", lambda job: b"done", max_jobs=limit)
    server.advance()
    with server.leave_unanswered(GRAB_JOB_ALL):
        server.advance(POLL_INTERVAL)
    assert slots_held(worker) == 1
    done = outcome(second.client().add_task("f"))
    server.advance()
    assert done == []
    server.drop_connections()
    server.advance(0)
    assert done == [b"done"]


@pytest.mark.guarantee(number=18)
def test_connection_that_closes_while_another_one_is_asked_frees_its_slots(
    server: MemoryJobServer, second: MemoryJobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an endpoint's transport may do it while it is written to."""
    worker = server.worker(second, max_jobs=2)
    worker.register_function("f", do_nothing)
    server.advance()
    first, last = group_of(worker).states

    def grab_and_close(count: int) -> None:
        last.abort(ConnectionLost())
        type(first).grab(first, count)

    monkeypatch.setattr(first, "grab", grab_and_close)
    worker.register_function("g", do_nothing)
    assert (first.grabs, last.grabs, slots_held(worker)) == (1, 0, 1)
    server.advance()
    assert slots_held(worker) == 0


@pytest.mark.guarantee(number=18)
def test_lost_connection_frees_slots_of_its_jobs(server: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(max_jobs=2)
    worker.register_function("slow", slow)
    client = server.client()
    for number in range(5):
        server.result_of(client.add_task_bg("slow", b"%d" % number))
    for _ in range(5):
        server.drop_connections()
        assert (slow.running, slots_held(worker)) == ({}, 0)
        server.advance(MINUTE)
        assert len(slow.running) == 2
    slow.end_all()


@pytest.mark.guarantee(number=18)
def test_function_that_closes_its_connection_frees_all_slots(server: MemoryJobServer) -> None:
    submit_bg(server, "f", 6)
    worker = server.worker(max_jobs=4)
    held: list[int] = []

    def close_once(job: Job) -> None:
        if not held and len(connections[0].jobs) == 1 and connections[0].grabs == 1:  # one of several in a read
            connections[0].abort(ConnectionLost())
            held.append(slots_held(worker))

    worker.register_function("f", close_once)
    connections = list(group_of(worker).states)
    server.advance()
    assert (held, slots_held(worker)) == ([1], 0)
    server.advance(MINUTE)
    assert (function_status(server), slots_held(worker)) == ({"f": (0, 0, 1)}, 0)


def test_server_that_is_down_does_not_delay_jobs_of_another(server: MemoryJobServer, second: MemoryJobServer) -> None:
    worker = server.worker(second, max_jobs=1)
    worker.register_function("f", lambda job: job.workload)
    with server.go_down():
        for _ in range(5):
            assert server.result_of(second.client().add_task("f", b"x")) == b"x"
            server.advance(5)
        states = [info.state for info in worker.servers]
        assert states[1] is ServerState.READY
        assert states[0] in (ServerState.WAITING, ServerState.CONNECTING)
    server.advance(MINUTE)
    assert server.result_of(server.client().add_task("f", b"y")) == b"y"


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize("max_jobs", [1, 3])
def test_silent_server_holds_slot_for_server_timeout_only(
    server: MemoryJobServer, second: MemoryJobServer, max_jobs: int
) -> None:
    """It was asked for a job before it fell silent."""
    worker = server.worker(second, max_jobs=max_jobs, server_timeout=4.0)
    worker.register_function("f", lambda job: b"done")
    client = second.client()
    server.advance()
    with server.fall_silent():
        for _ in range(10):
            server.advance(8.1)
            done = outcome(client.add_task("f"))
            server.advance(8.1)
            assert done == [b"done"]
    server.advance(MINUTE)
    assert slots_held(worker) == 0
    assert [info.state for info in worker.servers] == [ServerState.READY] * 2


def test_idle_worker_notices_dead_server_at_poll(server: MemoryJobServer) -> None:
    """Workers that are alive and do nothing are what users complain of most."""
    worker = server.worker()
    worker.register_function("f", lambda job: b"done")
    server.advance()
    silence = server.fall_silent()
    server.advance(POLL_INTERVAL + 1.5 * SERVER_TIMEOUT)
    assert [info.state for info in worker.servers] != [ServerState.READY]
    silence.end()
    server.advance(MINUTE)
    assert server.result_of(server.client().add_task("f")) == b"done"


def test_lost_connection_cancels_job_which_runs_again(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function("slow", slow)
    server.result_of(server.client().add_task_bg("slow", b"x"))
    job = slow.jobs[0]
    server.drop_connections()
    assert slow.cancelled == [b"x"]
    assert "lost" in job.ended
    with pytest.raises(JobEnded, match="connection was lost"):
        job.send_data(b"")
    server.advance(MINUTE)
    assert slow.started == [b"x", b"x"]
    slow.end_all()
    server.advance()
    assert function_status(server)["slow"] == (0, 0, 1)


def test_lost_connection_closes_generator(server: MemoryJobServer) -> None:
    closed: list[str] = []

    async def chunks(job: Job) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await deferLater(server.clock, 1)
        finally:
            closed.append("closed")

    server.worker().register_function("f", chunks)
    received = outcome(server.client().add_task("f"))
    server.advance(2.5)
    server.drop_connections()
    assert (closed, [type(error) for error in received]) == (["closed"], [TaskLost])


# Stopping.


def test_stopping_worker_requests_nothing_even_if_woken_or_reconnected(server: MemoryJobServer) -> None:
    worker = server.worker(drain_timeout=100.0)
    second = MemoryJobServer(server.clock)
    worker = server.worker(second, drain_timeout=100.0)
    worker.register_function("f", never_end)
    submit_bg(second, "f")
    stopped = outcome(worker.stopService())
    start = len(packets_received(server))
    submit_bg(server, "f")
    server.advance()
    assert GRAB_JOB_ALL not in packets_received(server)[start:]
    server.drop_connections()
    server.advance(20)
    assert (stopped, len(server.queued("f"))) == ([], 1)
    server.advance(81)
    assert stopped == [None]


def test_stopping_worker_does_not_sleep_after_no_job(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", do_nothing)
    server.advance()
    hold = server.hold_answers()
    server.advance(POLL_INTERVAL)
    start = len(packets_received(server))
    stopped = outcome(worker.stopService())
    connection = server.connections[0]
    hold.release()
    server.advance(1)
    assert (stopped, connection.requests[start:]) == ([None], [])


def test_job_that_was_requested_before_stop_runs(server: MemoryJobServer) -> None:
    done: list[bytes] = []
    worker = server.worker()
    worker.register_function("f", lambda job: done.append(job.workload))
    client = server.client()
    server.advance()
    hold = server.hold_answers()
    received = outcome(client.add_task("f", b"x"))
    server.advance(POLL_INTERVAL)
    stopped = outcome(worker.stopService())
    hold.release()
    server.advance(1)
    assert (done, received, stopped) == ([b"x"], [b""], [None])


def test_stop_lets_running_jobs_end_and_requests_no_more(server: MemoryJobServer, second: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(second, max_jobs=4)
    worker.register_function("slow", slow)
    outcomes = submit(server.client(), range(3)) + submit(second.client(), range(10, 13))
    server.advance()
    started = slow.started
    stopped = outcome(worker.stopService())
    server.advance(DRAIN_TIMEOUT - 1)
    assert (stopped, len(slow.running), slow.started) == ([], 4, started)
    slow.end_all()
    server.advance()
    assert (stopped, len(results(outcomes)), slow.cancelled) == ([None], 4, [])
    assert len(server.queued("slow") + second.queued("slow")) == 2


@pytest.mark.parametrize("drain_timeout", [0, 0.5, 7.0])
def test_job_that_outlasts_drain_timeout_returns_to_server(server: MemoryJobServer, drain_timeout: float) -> None:
    slow = Slow()
    worker = server.worker(drain_timeout=drain_timeout)
    worker.register_function("slow", slow, timeout=100.0)
    submit(server.client(), range(2))
    server.advance()
    stopped = outcome(worker.stopService())
    if drain_timeout:
        server.advance(drain_timeout - 0.1)
        assert (stopped, slow.cancelled) == ([], [])
    server.advance(0.2)
    assert (stopped, slow.cancelled, slots_held(worker)) == ([None], [b"0", b"1"], 0)
    assert sorted(server.queued("slow")) == [b"0", b"1"]


def test_end_drain_returns_running_jobs_to_server(server: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(drain_timeout=100.0)
    worker.register_function("slow", slow)
    submit(server.client(), range(2))
    server.advance()
    stopped = outcome(worker.stopService())
    worker.end_drain()
    server.advance()
    assert (stopped, slow.cancelled, slots_held(worker)) == ([None], [b"0", b"1"], 0)
    assert sorted(server.queued("slow")) == [b"0", b"1"]
    assert [call for call in server.clock.getDelayedCalls() if call.getTime() > server.clock.seconds() + 50] == []


@pytest.mark.parametrize("ends", [True, False])
def test_drain_without_limit_lasts_until_jobs_end_or_it_is_ended(server: MemoryJobServer, ends: bool) -> None:
    slow, worker = Slow(), server.worker(drain_timeout=None)
    worker.register_function("slow", slow)
    submit_bg(server, "slow", 2)
    server.advance()
    stopped = outcome(worker.stopService())
    server.advance(100_000.0)
    assert (len(slow.running), stopped) == (2, [])
    if ends:
        slow.end_all()
    else:
        worker.end_drain()
    server.advance()
    assert (slow.running, len(slow.cancelled), stopped) == ({}, 0 if ends else 2, [None])


def test_end_drain_leaves_worker_that_was_not_stopped(server: MemoryJobServer) -> None:
    """Also the jobs of a function that was unregistered."""
    slow = Slow()
    worker = server.worker()
    worker.register_function("slow", slow, max_jobs=1)
    submit(server.client(), range(1))
    server.advance()
    worker.unregister_function("slow")
    worker.end_drain()
    server.advance()
    assert (list(slow.running), slow.cancelled) == ([b"0"], [])
    slow.end_all()


@pytest.mark.guarantee(number=13)
def test_canceller_may_end_drain_again(server: MemoryJobServer) -> None:
    cancelled: list[bytes] = []

    def function(job: Job) -> Deferred[bytes]:
        def cancel(_: object) -> None:
            cancelled.append(job.workload)
            worker.end_drain()

        return Deferred(cancel)

    worker = server.worker(drain_timeout=100.0)
    for name in ("one", "two"):
        worker.register_function(name, function, max_jobs=1)
        server.client().add_task(name, name.encode()).addErrback(lambda _: None)
    server.advance()
    stopped = outcome(worker.stopService())
    worker.end_drain()
    server.advance()
    assert (stopped, sorted(cancelled)) == ([None], [b"one", b"two"])


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("stubborn", [False, True])
def test_stop_cancels_function_that_goes_on_after_end_of_job(server: MemoryJobServer, stubborn: bool) -> None:
    """Its connection has forgotten the job; but the function runs, and its time-out is still to come."""
    cancelled: list[bool] = []

    async def function(job: Job) -> None:
        if not stubborn:
            job.complete(b"done")
        try:
            await deferLater(server.clock, 500)
        except CancelledError:
            cancelled.append(True)
            if stubborn:
                await Deferred()

    worker = GearmanWorker([server.endpoint()], reactor=server.clock, drain_timeout=2.0)
    worker.register_function("f", function, timeout=1000.0)
    worker.startService()
    outcome(server.client().add_task("f"))
    server.advance(1)
    stopped = outcome(worker.stopService())
    server.advance(10)
    left = [call for call in server.clock.getDelayedCalls() if call.getTime() - server.clock.seconds() > 100]
    for call in left:
        call.cancel()
    assert (stopped, cancelled, left) == ([None], [True], [])


def test_end_of_drain_closes_generator(server: MemoryJobServer) -> None:
    closed: list[bool] = []

    async def endless(job: Job) -> AsyncIterator[bytes]:
        try:
            while True:
                await deferLater(server.clock, 1)
                yield b"x"
        finally:
            closed.append(True)

    worker = server.worker(drain_timeout=5.0)
    worker.register_function("f", endless)
    received: list[bytes] = []
    server.client().add_task("f", on_data=lambda _, data: received.append(data)).addErrback(lambda _: None)
    server.advance()
    stopped = outcome(worker.stopService())
    server.advance(5.1)
    assert (stopped, closed) == ([None], [True])
    assert len(received) >= 4


def test_stop_ends_drain_of_groups_that_were_retired_before(server: MemoryJobServer) -> None:
    """The jobs of a function that was unregistered get the drain time-out, no more."""
    slow = Slow()
    worker = server.worker(drain_timeout=5.0)
    worker.register_function("slow", slow)
    submit(server.client(), range(1))
    server.advance()
    worker.unregister_function("slow")
    server.advance(100)
    assert len(slow.running) == 1
    stopped = outcome(worker.stopService())
    server.advance(2)
    stopped += outcome(worker.stopService())
    server.advance(3.1)
    assert (stopped, slow.cancelled) == ([None], [b"0"])


def test_each_stop_waits_only_for_what_it_stopped(server: MemoryJobServer) -> None:
    """The stop does not wait for a group that was retired after the restart."""
    slow = Slow()
    worker = server.worker(drain_timeout=5.0)
    worker.register_function("slow", slow)
    submit(server.client(), range(1))
    server.advance()
    first = outcome(worker.stopService())
    worker.startService()
    submit(server.client(), range(1, 2))
    server.advance(1)
    worker.unregister_function("slow")
    server.advance(30)
    assert slow.cancelled == [b"0"]
    assert list(slow.running) == [b"1"]
    received = list(first)
    slow.end_all()
    server.advance()
    assert received == [None]


def test_stop_sends_large_result_before_close(server: MemoryJobServer) -> None:
    gate: Deferred[bytes] = Deferred()
    worker = server.worker()
    worker.register_function("f", lambda job: gate)
    done = outcome(server.client().add_task("f"))
    server.advance()
    stopped = outcome(worker.stopService())
    gate.callback(b"x" * 3_000_000)
    server.advance()
    assert (done, stopped) == ([b"x" * 3_000_000], [None])
