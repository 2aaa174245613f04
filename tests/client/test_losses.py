"""A lost connection with many tasks: their outcomes come in slices, each exactly once, whatever happens meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from txgearman import Task, TaskLost, TaskTimedOut
from txgearman.client.fresh_attempt import AwaitingAttempt
from txgearman.client.losses import MAX_REPORTED, Losses
from txgearman.client.task_queue import TaskQueue
from txgearman.packets import JOB_CREATED

from .batch_harness import BatchHarness

COUNT = 2 * MAX_REPORTED + 100


class TurningClock(Clock):
    """A clock that may be turned once: what is scheduled meanwhile for the same time waits for the next turn."""

    def turn(self) -> None:
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


class Lossy(BatchHarness):
    """A client with many tasks in flight, half of them acknowledged; it records what their Deferreds fire with."""

    clock: TurningClock

    def __init__(self, count: int = COUNT, servers: int = 1, **options: Any) -> None:
        super().__init__(servers, clock=TurningClock(), **options)
        self.fired: list[Any] = []
        self.tasks = [self.submit() for _ in range(count)]

    def submit(self, **options: Any) -> Deferred[Any]:
        deferred = self.client.add_task("f", **options)
        return deferred.addCallbacks(self.fired.append, lambda failure: self.fired.append(failure.value))

    def acknowledge(self, count: int) -> None:
        self.server.send(*(JOB_CREATED.response(b"H:s:%d" % number) for number in range(count)))


@pytest.mark.guarantee(number=1)
def test_outcomes_come_in_slices() -> None:
    harness = Lossy()
    harness.acknowledge(COUNT // 2)
    harness.server.lose()
    assert harness.in_flight == [0]
    counts = [len(harness.fired)]
    for _ in range(3):
        harness.clock.turn()
        counts.append(len(harness.fired))
    assert counts == [MAX_REPORTED, 2 * MAX_REPORTED, COUNT, COUNT]
    assert {type(error) for error in harness.fired} == {TaskLost}
    assert sum(error.acknowledged for error in harness.fired) == COUNT // 2


@pytest.mark.guarantee(number=9)
def test_task_that_waits_for_its_outcome_can_be_cancelled() -> None:
    harness = Lossy()
    harness.server.lose()
    harness.tasks[-1].cancel()
    assert type(harness.fired.pop()) is CancelledError
    harness.clock.advance(0)
    assert [type(error) for error in harness.fired] == [TaskLost] * (COUNT - 1)


def test_time_of_task_that_waits_for_its_outcome_may_run_out() -> None:
    harness = Lossy()
    harness.submit(timeout=1.0)
    harness.server.lose()
    harness.clock.rightNow += 1.0  # all of it passes in one turn
    harness.clock.calls.sort(key=lambda call: call.getTime() != 1.0)
    harness.clock.turn()
    harness.clock.advance(0)
    assert [type(error) for error in harness.fired].count(TaskTimedOut) == 1
    assert len(harness.fired) == COUNT + 1


@pytest.mark.guarantee(number=11)
def test_stop_reports_all_that_are_left() -> None:
    harness = Lossy()
    harness.server.lose()
    harness.client.stopService()
    assert [type(error) for error in harness.fired] == [TaskLost] * COUNT
    assert harness.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=13)
def test_callback_may_stop_client_while_losses_are_reported() -> None:
    harness = Lossy(0)
    stop = harness.submit()
    stop.addCallback(lambda _: harness.client.stopService())
    for _ in range(COUNT):
        harness.submit()
    harness.server.lose()
    assert [type(error) for error in harness.fired] == [TaskLost] * (COUNT + 1)
    assert harness.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=7)
def test_tasks_that_were_not_sent_go_to_another_server_in_slices() -> None:
    harness = Lossy(0, servers=2)
    first, second = (server.connection for server in harness.client._servers)
    assert first is not None
    assert second is not None
    first.writing_paused = second.writing_paused = True
    for _ in range(2 * COUNT):
        harness.submit()
    unsent = len(first._backlog)
    assert unsent > MAX_REPORTED
    second.resumeProducing()
    assert second.in_flight == 2 * COUNT - unsent
    harness.server.lose()
    assert second.in_flight == 2 * COUNT - unsent + MAX_REPORTED
    harness.clock.advance(0)
    assert second.in_flight == 2 * COUNT
    assert harness.fired == []


def test_losses_of_several_connections_are_reported_in_order() -> None:
    """The second one is lost while the first one's tasks wait."""
    harness = Lossy(0)
    reported: list[Any] = []
    losses = Losses(harness.clock)
    for name in ("first", "second"):
        queue = TaskQueue()
        for _ in range(MAX_REPORTED + 1):
            queue.append(harness.client.add_task("f").addErrback(lambda _: None)._task)  # type: ignore[attr-defined]  # the library's own Deferred
        losses.add(queue, lambda work, name=name: reported.append(name))  # type: ignore[misc]  # a default argument
        losses.report_some()
    assert reported == ["first"] * (MAX_REPORTED + 1) + ["second"] * (MAX_REPORTED - 1)
    losses.report_all()
    assert reported == ["first"] * (MAX_REPORTED + 1) + ["second"] * (MAX_REPORTED + 1)


@pytest.mark.guarantee(number=1)
def test_tasks_that_have_waited_for_an_attempt_to_connect_are_reported_in_slices() -> None:
    """Meanwhile they can be cancelled, and a stop reports those that are left."""
    harness = Lossy(0)
    (server,) = harness.client._servers
    reported: list[Task] = []
    awaiting = AwaitingAttempt(harness.clock, harness.client._servers, reported.append)
    tasks = [Task("f") for _ in range(COUNT)]
    for task in tasks:
        awaiting.add(task)
    awaiting.attempt_failed(server)
    assert (len(reported), bool(awaiting)) == (MAX_REPORTED, False)
    harness.clock.turn()
    assert len(reported) == 2 * MAX_REPORTED
    cancelled = tasks[-1]
    assert cancelled._holder is not None
    cancelled._holder.discard(cancelled)
    awaiting.report_all()
    assert reported == tasks[:-1]
    harness.clock.advance(0)
    assert len(reported) == COUNT - 1
