"""Flow control: tasks that wait in the backlog while writing is paused, and reading that is paused for slow callers."""

from __future__ import annotations

import weakref

import pytest
from twisted.internet.defer import CancelledError

from txgearman.client.task import Task
from txgearman.errors import (
    TaskLost,
)
from txgearman.packets import STATUS_RES

from ..garbage import is_freed
from ..wire import outcome
from .connection_harness import (
    H1,
    H2,
    ConnectionHarness,
    OwnedTask,
    complete,
    created,
    data,
)

# The backlog: tasks that wait while writing is paused.


def workloads(harness: ConnectionHarness) -> list[bytes]:
    """Return the workloads of the submits that the server has received since the last call."""
    return [arguments[-1] for packet_type, arguments in harness.server.received() if "SUBMIT" in packet_type.name]


def test_tasks_wait_in_backlog_while_writing_is_paused() -> None:
    harness = ConnectionHarness()
    harness.connection.pauseProducing()
    tasks = [harness.submit(b"%d" % number, background=number == 1) for number in range(4)]
    assert workloads(harness) == []
    assert (harness.connection.in_flight, harness.connection._load, harness.connection._busy) == (0, 4, True)
    harness.connection.resumeProducing()
    assert workloads(harness) == [b"0", b"1", b"2", b"3"]
    assert (harness.connection.in_flight, harness.connection._load) == (4, 4)
    harness.server.send(*(created(b"H:%d" % number) for number in range(4)), complete(b"r", b"H:0"))
    assert tasks[0].outcomes == [b"r"]


def pause_after_each_write(harness: ConnectionHarness, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the transport pause its producer after each write; return a list of the sizes of writes."""
    sizes: list[int] = []
    write = harness.server.transport.write

    def write_and_pause(data: bytes) -> None:
        sizes.append(len(data))
        write(data)
        harness.connection.pauseProducing()

    monkeypatch.setattr(harness.server.transport, "write", write_and_pause)
    monkeypatch.setattr(harness.server.transport, "writeSequence", lambda data: write_and_pause(b"".join(data)))
    return sizes


def test_backlog_is_written_only_while_writing_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = ConnectionHarness()
    harness.connection.pauseProducing()
    for number in range(6):
        harness.submit(b"%d" % number * 40_000)
    waiting = outcome(harness.connection.when_drained())
    pause_after_each_write(harness, monkeypatch)
    seen = []
    for _ in range(3):
        assert waiting == []
        harness.connection.resumeProducing()
        seen.append([workload[:1] for workload in workloads(harness)])
    assert seen == [[b"0", b"1"], [b"2", b"3"], [b"4", b"5"]]
    assert waiting == []  # the last of them is not transmitted yet
    harness.connection.resumeProducing()
    assert waiting == [None]


def test_backlog_of_small_tasks_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = ConnectionHarness()
    harness.connection.pauseProducing()
    for number in range(100):
        harness.submit(b"%d" % number)
    sizes = pause_after_each_write(harness, monkeypatch)
    harness.connection.resumeProducing()
    assert (len(sizes), len(workloads(harness)), harness.connection.writing_paused) == (1, 100, True)


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("background", [False, True])
def test_task_cancelled_in_backlog_is_never_sent(background: bool) -> None:
    harness = ConnectionHarness()
    harness.connection.pauseProducing()
    tasks = [harness.submit(b"%d" % number, background=background) for number in range(3)]
    tasks[1].deferred.cancel()
    assert tasks[1].outcomes == [CancelledError]
    harness.connection.resumeProducing()
    assert workloads(harness) == [b"0", b"2"]


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("background", [False, True])
def test_backlog_is_rerouted_when_connection_is_lost(background: bool) -> None:
    harness = ConnectionHarness()
    written = OwnedTask(harness, b"written", background=background)
    harness.connection.pauseProducing()
    waiting = OwnedTask(harness, b"waiting", background=background)
    other = harness.submit(b"of the connection", background=background)
    harness.server.lose()
    assert (written.outcomes, waiting.rerouted, waiting.outcomes) == ([TaskLost], [waiting.task], [])
    assert other.outcomes == [TaskLost]
    assert not other.error.acknowledged
    assert waiting.task._holder is None
    assert written.task.ended


@pytest.mark.guarantee(number=7)
def test_task_cancelled_by_lost_task_is_not_rerouted() -> None:
    harness = ConnectionHarness()
    first = harness.submit(b"written")
    harness.connection.pauseProducing()
    waiting = OwnedTask(harness, b"waiting")
    first.deferred.addBoth(lambda _: waiting.deferred.cancel())
    harness.server.lose()
    assert (waiting.rerouted, waiting.outcomes) == ([], [CancelledError])


@pytest.mark.guarantee(number=7)
def test_backlog_is_rerouted_when_connection_is_retired() -> None:
    harness = ConnectionHarness()
    written = OwnedTask(harness, b"written")
    harness.connection.pauseProducing()
    waiting = OwnedTask(harness, b"waiting")
    idle: list[bool] = []
    harness.connection._retire(lambda: idle.append(True))
    assert (waiting.rerouted, idle) == ([waiting.task], [])
    harness.server.send(created(), complete(b"r"))
    assert (written.outcomes, idle, written.task.ended) == ([b"r"], [True], True)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_retired_connection_is_idle_once_last_task_is_cancelled(acknowledged: bool) -> None:
    """The answer to a submit is outstanding even if its task was cancelled."""
    harness = ConnectionHarness()
    recorded = harness.submit()
    if acknowledged:
        harness.server.send(created())
    idle: list[bool] = []
    harness.connection._retire(lambda: idle.append(True))
    assert idle == []
    recorded.deferred.cancel()
    assert idle == [True] * acknowledged
    if not acknowledged:
        harness.server.send(created())
    assert idle == [True]
    assert not harness.connection._busy


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", ["cancelled", "lost"])
def test_connection_keeps_no_reference_to_unsent_task(end: str) -> None:
    harness = ConnectionHarness()
    harness.connection.pauseProducing()
    task = Task(b"f")
    kept = weakref.ref(task)
    deferred = harness.connection.submit(task).addErrback(lambda _: None)
    if end == "cancelled":
        deferred.cancel()
    else:
        harness.server.lose()
    assert deferred.called
    del task, deferred
    assert is_freed(kept)


# Reading is paused for a slow caller, whose task has the connection to itself.


def paused(harness: ConnectionHarness) -> bool:
    return bool(harness.server.transport.producerState == "paused")


def test_reading_is_paused_while_task_is_held() -> None:
    harness = ConnectionHarness()
    recorded = harness.submit()
    harness.server.send(created())
    for _ in range(2):
        harness.tasks.hold(recorded.task)
        assert paused(harness)
        harness.tasks.release(recorded.task)
        assert not paused(harness)


@pytest.mark.parametrize("end", ["complete", "cancelled", "forgotten"])
def test_reading_resumes_when_held_task_ends(end: str) -> None:
    """Of a job that is forgotten, the answer that says so is in what was read last."""
    harness = ConnectionHarness(job_check_interval=8.0)
    recorded = harness.submit()
    recorded.react["on_data"] = lambda: harness.tasks.hold(recorded.task)
    harness.server.send(created())
    if end == "forgotten":
        harness.clock.pump([4.0] * 3)
    last = {
        "complete": complete(b"r"),
        "cancelled": b"",
        "forgotten": STATUS_RES.response(H1, b"0", b"0", b"0", b"0"),
    }[end]
    harness.server.send(data(b"1") + last)
    assert paused(harness) == (end == "cancelled")
    recorded.deferred.cancel()
    assert not paused(harness)
    assert recorded.outcomes == [{"complete": b"r", "cancelled": CancelledError, "forgotten": TaskLost}[end]]


def test_release_of_task_that_is_not_held_does_not_resume_reading() -> None:
    harness = ConnectionHarness()
    before, held = harness.submit(), harness.submit()
    harness.server.send(created(H1), created(H2))
    harness.tasks.hold(before.task)
    harness.server.send(complete(b"", H1))
    harness.tasks.hold(held.task)
    harness.tasks.release(before.task)
    assert paused(harness)
    harness.tasks.release(held.task)
    assert not paused(harness)


def test_hold_on_lost_connection_does_nothing() -> None:
    harness = ConnectionHarness()
    recorded = harness.submit()
    harness.server.send(created())
    harness.server.lose()
    harness.tasks.hold(recorded.task)
    assert not paused(harness)
