"""A connection keeps no reference to a task that has ended, however it ended (guarantee 12)."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from txgearman.client.task import Task
from txgearman.errors import (
    ClientStopped,
)
from txgearman.packets import (
    ERROR,
    STATUS_RES,
)

from ..garbage import is_freed
from .connection_harness import (
    H1,
    ConnectionHarness,
    complete,
    created,
    exception,
    work_fail,
)

# Counts and references.


End = Callable[[ConnectionHarness, Task, Deferred[Any]], None]


def completes(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created(), complete(b"r"))


def completes_while_sharing_job(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    """Another task of the same job is still in flight."""
    harness.submit(unique=b"u")
    harness.server.send(created(), created(), complete(b"r"))


def fails(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created(), work_fail())


def raises(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created(), exception(b"e"))


def is_rejected(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(ERROR.response(b"code", b"text"))


def is_cancelled_early(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    deferred.cancel()


def is_cancelled_late(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created())
    deferred.cancel()


def is_cancelled_while_sharing_job(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.submit(unique=b"u")
    harness.server.send(created(), created())
    deferred.cancel()


def is_lost_early(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.lose()


def is_lost_late(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created())
    harness.server.lose()


def is_lost_to_garbage(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(b"garbage" * 3)


def is_lost_to_a_wrong_answer(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    """The connection and its listener keep the error."""
    harness.server.send(created(b""))


def is_held_and_lost(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created())
    harness.tasks.hold(task)
    harness.server.lose()


def is_held_and_completes(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created())
    harness.tasks.hold(task)
    harness.server.send(complete(b"r"))


def is_held_and_cancelled(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created())
    harness.tasks.hold(task)
    deferred.cancel()


def is_forgotten(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created())
    harness.clock.pump([30, 30])
    harness.server.send(STATUS_RES.response(H1, b"0", b"0", b"0", b"0"))


def is_stopped(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.factory.stop(ClientStopped())


def is_task_freed(end: End, **options: Any) -> bool:
    """Submit a task and end it; return whether nothing refers to it any more. The connection still exists."""
    harness = ConnectionHarness()
    task = Task(b"f", unique=b"u", **options)
    kept = weakref.ref(task)
    deferred = harness.connection.submit(task)
    end(harness, task, deferred)
    assert deferred.called
    deferred.addErrback(lambda _: None)
    del task, deferred
    return is_freed(kept)


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize(
    "end",
    [
        completes,
        completes_while_sharing_job,
        fails,
        raises,
        is_rejected,
        is_cancelled_early,
        is_cancelled_late,
        is_cancelled_while_sharing_job,
        is_lost_early,
        is_lost_late,
        is_lost_to_garbage,
        is_lost_to_a_wrong_answer,
        is_held_and_lost,
        is_held_and_completes,
        is_held_and_cancelled,
        is_forgotten,
        is_stopped,
    ],
)
def test_connection_keeps_no_reference_to_ended_task(end: End) -> None:
    assert is_task_freed(end)


def is_created(harness: ConnectionHarness, task: Task, deferred: Deferred[Any]) -> None:
    harness.server.send(created())


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", [is_created, is_rejected, is_cancelled_early, is_lost_early, is_stopped])
def test_connection_keeps_no_reference_to_ended_background_task(end: End) -> None:
    assert is_task_freed(end, background=True)


@pytest.mark.guarantee(number=12)
def test_many_tasks_leave_tables_empty() -> None:
    harness = ConnectionHarness()
    for number in range(500):
        handle = b"H:%d" % number
        for background in (False, True):
            harness.submit(unique=handle, background=background)
        harness.submit(unique=handle).deferred.cancel()
        harness.server.send(*[created(handle)] * 3, *[complete(b"r", handle)] * 2)
        harness.server.received()
    assert (harness.tables(), harness.connection.in_flight) == ((0, 0, 0), 0)
