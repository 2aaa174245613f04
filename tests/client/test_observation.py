"""What observers of a client get: each task and each job of a batch ends exactly once, however it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from txgearman import ClientStopped, Retry
from txgearman.packets import SUBMIT_JOB, SUBMIT_JOB_BG

from ..client_harness import NOTHING, ClientHarness, Events, ignore_errors, names, outcome, recording
from ..conftest import Failures
from ..observing import Recorder


class Observed(ClientHarness):
    """A client with an observer, and its job servers."""

    def __init__(self, servers: int = 1, **options: Any) -> None:
        self.observer = Recorder()
        super().__init__(servers, observers=[self.observer], **options)


def completes(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    submit()
    harness.server.take("work").complete(b"done")


def fails(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    submit()
    harness.server.take("work").fail()


def raises(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    submit()
    harness.server.take("work").send_exception(b"x")


def is_rejected(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    harness.server.reject("QUEUE_ERROR")
    submit()


def is_lost_before_its_answer(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    harness.server.drop_after(SUBMIT_JOB)
    submit()


def is_lost_before_its_answer_in_background(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    harness.server.drop_after(SUBMIT_JOB_BG)
    submit()


def is_lost_after_its_answer(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    submit()
    harness.advance()
    harness.server.drop_connections()


def times_out(harness: Observed, submit: Callable[..., Deferred[Any]]) -> None:
    submit(timeout=2.0)
    harness.advance(2.5)


def times_out_unanswered(harness: Observed, submit: Callable[..., Deferred[Any]]) -> None:
    with harness.server.hold_answers():
        submit(timeout=2.0)
        harness.advance(2.5)


def finds_no_server(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    harness.server.go_down().end()
    submit()


def is_cancelled(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    with harness.server.hold_answers():
        deferred = submit()
        harness.advance()
        deferred.cancel()


def client_stops(harness: Observed, submit: Callable[[], Deferred[Any]]) -> None:
    with harness.server.hold_answers():
        submit()
        harness.advance()
        harness.client.stopService()


BOTH: list[tuple[Callable[[Observed, Callable[..., Deferred[Any]]], None], str]] = [
    (is_rejected, "rejected"),
    (times_out_unanswered, "timed_out"),
    (finds_no_server, "unavailable"),
    (is_cancelled, "cancelled"),
    (client_stops, "stopped"),
]
FOREGROUND = [
    (completes, "completed"),
    (fails, "failed"),
    (raises, "exception"),
    (is_lost_before_its_answer, "lost"),
    (is_lost_after_its_answer, "lost"),
    (times_out, "timed_out"),
    *BOTH,
]
BACKGROUND = [(completes, "completed"), (is_lost_before_its_answer_in_background, "lost"), *BOTH]

TABLE = [
    *(("add_task", b"x", happens, expected) for happens, expected in FOREGROUND),
    *(("add_task_bg", b"x", happens, expected) for happens, expected in BACKGROUND),
    *(("add_tasks", [b"x"], happens, expected) for happens, expected in FOREGROUND),
    *(("add_tasks_bg", [b"x"], happens, expected) for happens, expected in BACKGROUND),
]


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize(
    ("call", "argument", "happens", "expected"), TABLE, ids=[f"{row[0]}-{row[2].__name__}" for row in TABLE]
)
def test_each_outcome_is_reported_once(
    call: str,
    argument: Any,
    happens: Callable[[Observed, Callable[..., Deferred[Any]]], None],
    expected: str,
) -> None:
    harness = Observed()
    harness.start()
    ends: list[Any] = []

    def submit(**options: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = getattr(harness.client, call)("work", argument, **options)
        return deferred.addBoth(lambda _: ends.extend(harness.observer.ends()))

    happens(harness, submit)
    harness.advance(60)
    wanted = {expected: 1} if "tasks" in call else expected
    assert ends == [wanted]  # before the Deferred of the caller has fired
    harness.client.stopService()
    harness.advance()
    assert harness.observer.ends() == [wanted]
    started, *_ = harness.observer.named("task_started", "batch_started")
    assert started == (("batch_started", "work", 1) if "tasks" in call else ("task_started",))


def test_stream_is_reported_as_a_task() -> None:
    harness = Observed()
    harness.start()

    async def first(chunks: AsyncIterator[bytes]) -> bytes:
        return await anext(chunks)

    chunk = ensureDeferred(first(harness.client.stream("work")))
    harness.server.take("work").complete(b"done")
    assert outcome(chunk) == b"done"
    assert harness.observer.named("task_started", "task_finished") == [
        ("task_started",),
        ("task_finished", "completed"),
    ]
    harness.stop()


@pytest.mark.parametrize(("call", "expected"), [("map", 0), ("as_completed", 12)])
def test_each_job_of_a_map_is_reported_once(call: str, expected: int) -> None:
    """In batches, or as tasks."""
    harness = Observed()
    harness.start()

    async def iterate() -> list[Any]:
        return [each async for each in getattr(harness.client, call)("work", [b"x"] * 12, concurrency=12)]

    done = ensureDeferred(iterate())
    for _ in range(12):
        harness.server.take("work").complete(b"done")
    assert len(outcome(done)) == 12
    tasks = harness.observer.named("task_finished")
    batches = harness.observer.named("batch_finished")
    assert len(tasks) == expected
    assert len(tasks) + sum(call[-1]["completed"] for call in batches) == 12
    harness.stop()


def test_jobs_of_a_batch_that_were_done_before_its_cancel_are_completed() -> None:
    harness = Observed()
    harness.start()
    batch = harness.client.add_tasks("work", [b"x"] * 5)
    harness.server.take("work").complete(b"done")
    harness.server.take("work").fail()
    batch.cancel()
    outcome(batch)
    assert harness.observer.ends() == [{"completed": 1, "failed": 1, "cancelled": 3}]
    harness.stop()


def test_empty_batch_is_not_reported() -> None:
    harness = Observed()
    harness.start()
    assert outcome(harness.client.add_tasks("work", [])) == []
    assert harness.observer.named("batch_started", "batch_finished") == []
    harness.stop()


def test_retries_are_reported_between_start_and_end() -> None:
    harness = Observed()
    events: Events = []
    harness.observer.react = lambda name: events.append((name,))
    task = harness.client.add_task("work", retries=2, **recording(events))
    harness.server.take("work").fail()
    harness.advance(1)
    harness.server.take("work").send_exception(b"x")
    harness.advance(1)
    harness.server.take("work").complete(b"done")
    task.addCallback(lambda _: events.append(("fired",)))
    assert [name for name in names(events) if name not in ("created", "server_changed")] == [
        *("task_started", "task_retried", "retry", "exception", "task_retried", "retry"),
        *("complete", "task_finished", "fired"),
    ]
    assert harness.observer.named("task_retried") == [
        ("task_retried", 1, "TaskFailed"),
        ("task_retried", 2, "TaskException"),
    ]
    assert harness.observer.seconds == [2.0]
    harness.stop()


def test_changes_of_servers_are_reported() -> None:
    harness = Observed(2)
    harness.start()
    harness.servers[1].drop_connections()
    harness.advance(3)
    harness.client.job_servers = harness.client.job_servers[:1]
    harness.advance()
    harness.stop()
    changes = [call[1:] for call in harness.observer.named("server_changed")]
    assert sorted(changes[:2]) == [("memory:1", "ready"), ("memory:2", "ready")]
    assert changes[2:] == [
        ("memory:2", "waiting"),
        ("memory:2", "ready"),
        ("memory:2", "stopped"),
        ("memory:1", "stopped"),
    ]


# Observers that call the client.


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("call", ["task_started", "batch_started"])
def test_observer_of_the_start_may_stop_the_client(call: str, restart: bool) -> None:
    """A task of the ended run is not sent in the next one."""
    harness = Observed()
    harness.start()

    def stop(name: str) -> None:
        if name == call:
            harness.client.stopService()
            if restart:
                harness.client.startService()

    harness.observer.react = stop
    submitted: Any = (
        harness.client.add_task("work", timeout=5.0)
        if call == "task_started"
        else harness.client.add_tasks("work", [b""])
    )
    harness.advance(1)
    error = outcome(submitted)
    assert isinstance(error if call == "task_started" else error.outcomes[0], ClientStopped)
    assert harness.server.queued("work") == []
    harness.observer.react = lambda name: None
    harness.stop()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("call", ["task_retried", "task_finished"])
def test_observer_may_stop_the_client_later(call: str) -> None:
    harness = Observed()
    events: Events = []
    harness.observer.react = lambda name: harness.client.stopService() if name == call else None
    other = harness.client.add_task("other")
    task = harness.client.add_task("work", retries=1, **recording(events))
    harness.server.take("work").fail()
    harness.advance(1)
    if call == "task_finished":
        assert outcome(task) is NOTHING
        harness.server.take("work").complete(b"done")
        assert outcome(task) == b"done"
    else:
        assert type(outcome(task)) is ClientStopped
        assert "retry" not in names(events)  # its on_retry would come after its end
    assert type(outcome(other)) is ClientStopped
    harness.stop()


@pytest.mark.guarantee(number=13)
def test_observer_may_submit_and_cancel() -> None:
    harness = Observed(max_in_flight=1)
    more: list[Deferred[bytes]] = []

    def react(name: str) -> None:
        if name == "task_finished" and not more:
            more.append(harness.client.add_task("work", b"more"))
            first.cancel()
            ignore_errors(first)

    harness.observer.react = react
    first = harness.client.add_task("work", b"first")
    second = harness.client.add_task("work", b"second")
    harness.server.take("work").complete(b"1")
    for _ in range(2):
        harness.server.take("work").complete(b"2")
    assert [outcome(deferred) for deferred in (second, *more)] == [b"2", b"2"]
    assert harness.observer.ends() == ["completed"] * 3
    harness.stop()


@pytest.mark.guarantee(number=13)
def test_observer_may_raise(logged_failures: Failures) -> None:
    harness = Observed()

    def react(name: str) -> None:
        raise ZeroDivisionError

    harness.observer.react = react
    task = harness.client.add_task("work", retry=Retry(1, wait=lambda attempt: 0))
    batch = harness.client.add_tasks("work", [b""])
    harness.server.take("work").fail()
    harness.advance(0.1)
    for _ in range(2):
        harness.server.take("work").complete(b"done")
    assert (outcome(task), outcome(batch)) == (b"done", [b"done"])
    harness.stop()
    assert len(logged_failures.flush(ZeroDivisionError)) == 7


@pytest.mark.guarantee(number=12)
def test_client_without_observers_reports_to_nobody() -> None:
    harness = ClientHarness()
    ignore_errors(harness.client.add_task("work"))
    assert not harness.client._dispatcher._prepares
    harness.server.take("work").complete(b"done")
    harness.stop()
