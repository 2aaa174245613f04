"""What the client logs of tasks: text and plain fields, so that an observer that keeps events keeps no workload."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from txgearman import Task
from txgearman.testing import MemoryJobServer

from ..client_harness import ClientHarness
from ..conftest import Failures
from ..watched_log import WatchedLog


def raises(task: Task) -> None:
    raise ZeroDivisionError(task.workload)


def submit(harness: ClientHarness, task: Task) -> Deferred[Any]:
    """Submit a task, whose outcome is of no interest."""
    return harness.client.submit(task).addErrback(lambda _: None)


def callback_raises(harness: ClientHarness, task: Task) -> None:
    submit(harness, task)
    harness.server.take("work").complete(b"")


def attempt_fails(harness: ClientHarness, task: Task) -> None:
    submit(harness, task)
    harness.server.take("work").fail()
    harness.advance(1)
    harness.server.take("work").complete(b"")


def job_is_not_dropped(harness: ClientHarness, task: Task) -> None:
    submitted = submit(harness, task)
    harness.server.take("work")
    harness.client.job_servers = [MemoryJobServer(harness.clock).endpoint()]
    submitted.cancel()


def connection_is_lost(harness: ClientHarness, task: Task) -> None:
    submit(harness, task)
    harness.advance()
    harness.server.drop_connections()


@pytest.mark.guarantee(number=12)
@pytest.mark.parametrize(
    ("happens", "options", "text"),
    [
        (callback_raises, {"on_created": raises}, "a callback of work"),
        (attempt_fails, {"retries": 1}, "retrying work"),
        (job_is_not_dropped, {"drop_on_cancel": True}, "was not dropped"),
        (connection_is_lost, {}, "lost the connection"),
    ],
)
def test_log_events_keep_no_task(
    happens: Callable[[ClientHarness, Task], None], options: dict[str, Any], text: str, logged_failures: Failures
) -> None:
    harness = ClientHarness().start()
    task = Task("work", bytes(1000), **options)
    kept = weakref.ref(task)
    with WatchedLog() as log:
        happens(harness, task)
        del task
        harness.stop()
        gc.collect()
        assert any(text in logged for logged in log.texts())
        assert kept() is None
    logged_failures.flush(ZeroDivisionError)


def retries(log: WatchedLog) -> list[str]:
    return [text for text in log.texts() if text.startswith("retrying")]


def test_retries_of_one_cause_are_logged_in_one_line() -> None:
    harness = ClientHarness(server_wait=100.0).start()
    with WatchedLog() as log:
        for _ in range(50):
            submit(harness, Task("work", retries=1))
        harness.advance()
        harness.server.drop_connections()
        assert retries(log) == []
        harness.advance(0.1)
        [line] = retries(log)
    assert re.match(r"retrying 50 tasks in 0\.\d\d to 0\.\d\d seconds, work ", line)
    assert "connection lost after JOB_CREATED" in line
    harness.stop()


def test_retry_of_single_task_names_it_and_its_cause() -> None:
    harness = ClientHarness().start()
    with WatchedLog() as log:
        submit(harness, Task("work", retries=1))
        harness.server.take("work").fail()
        harness.advance(0.1)
        [line] = retries(log)
    assert line.startswith("retrying work memory:1//H:")
    assert line.endswith(": failed")
    harness.stop()


def test_retries_of_different_causes_have_a_line_each() -> None:
    """A line for each cause and delay, whatever the number of tasks."""
    harness = ClientHarness().start()
    with WatchedLog() as log:
        for name in ("work", "play"):
            for _ in range(2):
                submit(harness, Task(name, retries=2))
        for _ in range(2):
            harness.server.take("work").fail()
            harness.server.take("play").send_exception(b"x")
        harness.advance(0.1)
        lines = retries(log)
    assert [re.sub(r"\d\.\d\d", "0", line).partition(",")[0] for line in lines] == (
        ["retrying 2 tasks in 0 to 0 seconds"] * 2
    )
    assert [line.rpartition(": ")[2] for line in lines] == ["failed", "x"]
    harness.stop()


@pytest.mark.guarantee(number=11)
def test_stop_writes_lines_that_are_due() -> None:
    harness = ClientHarness().start()
    with WatchedLog() as log:
        submit(harness, Task("work", retries=1))
        harness.server.take("work").fail()
        harness.stop()
        assert len(retries(log)) == 1
