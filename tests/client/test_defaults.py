"""Timeout and retries of a client, for the tasks that do not say otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from txgearman import GearmanClient, Retry, Task, TaskFailed, TaskTimedOut

from ..client_harness import NOTHING, ClientHarness, ignore_errors, outcome


def submitted(harness: ClientHarness, **options: Any) -> Task:
    """Submit a task for ``work``, whose outcome is of no interest."""
    task = Task("work", **options)
    ignore_errors(harness.client.submit(task))
    return task


def first_of(iterator: AsyncIterator[Any]) -> Deferred[Any]:
    """Start to iterate."""

    async def first() -> Any:
        return await anext(iterator)

    return ensureDeferred(first())


def test_task_gets_timeout_and_retries_of_client_at_submit() -> None:
    harness = ClientHarness(timeout=60.0, retries=3)
    task = Task("work")
    assert (task.timeout, task.retries) == (None, 0)
    ignore_errors(harness.client.submit(task))
    assert (task.timeout, task.retries) == (60.0, 3)
    harness.stop()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timeout": None}, (None, 3)),
        ({"timeout": None, "on_created": None}, (None, 3)),
        ({"timeout": 5.0}, (5.0, 3)),
        ({"retries": 0}, (60.0, 0)),
        ({"retries": 7, "timeout": 5.0}, (5.0, 7)),
        ({"retry": Retry(2)}, (60.0, 2)),
        ({"retry": None}, (60.0, 3)),
        ({"on_created": None}, (60.0, 3)),
        ({"background": True}, (60.0, 0)),
        ({"background": True, "timeout": None}, (None, 0)),
    ],
)
def test_what_a_task_says_itself_holds(options: dict[str, Any], expected: tuple[float | None, int]) -> None:
    harness = ClientHarness(timeout=60.0, retries=3)
    for _ in range(2):
        task = submitted(harness, **options)
        assert (task.timeout, task.retries) == expected
    harness.stop()


@pytest.mark.parametrize("options", [{"timeout": 60.0}, {"retries": 3}, {}])
def test_either_default_holds_without_the_other(options: dict[str, Any]) -> None:
    harness = ClientHarness(**options)
    task = submitted(harness)
    assert (task.timeout, task.retries) == (options.get("timeout"), options.get("retries", 0))
    harness.stop()


@pytest.mark.guarantee(number=10)
def test_task_without_worker_times_out_after_timeout_of_client() -> None:
    harness = ClientHarness(timeout=60.0)
    task = harness.client.add_task("misspelt")
    harness.advance(59.9)
    assert outcome(task) is NOTHING
    harness.advance(0.2)
    assert type(outcome(task)) is TaskTimedOut
    harness.stop()


def test_retry_of_client_says_when_for_task_with_retries_of_its_own() -> None:
    harness = ClientHarness(retry=Retry(1, wait=lambda attempt: 10.0, when=lambda error: isinstance(error, TaskFailed)))
    task = harness.client.add_task("work", retries=2)
    for _ in range(2):
        harness.server.take("work").fail()
        harness.advance(9.9)
        assert harness.server.queued("work") == []
        harness.advance(0.2)
    harness.server.take("work").fail()
    assert type(outcome(task)) is TaskFailed
    harness.stop()


def test_stream_and_batches_have_no_defaults() -> None:
    """Their time-outs are theirs alone: one for all jobs of a batch, and one for all chunks of a stream."""
    harness = ClientHarness(timeout=1.0, retries=3)
    stream = first_of(harness.client.stream("work"))
    batch = harness.client.add_tasks("work", [b"1"])
    background = harness.client.add_tasks_bg("work", [b"2"])
    harness.advance(10)
    assert outcome(background)[0].server == "memory:1"
    assert [outcome(deferred) for deferred in (stream, batch)] == [NOTHING, NOTHING]
    for _ in range(3):
        harness.server.take("work").fail()
    assert type(outcome(stream)) is TaskFailed
    assert outcome(batch).failed == 1
    harness.stop()


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_each_task_of_a_map_has_the_defaults(name: str) -> None:
    harness = ClientHarness(timeout=60.0, retry=Retry(1, wait=lambda attempt: 0))
    results = getattr(harness.client, name)("work", [b"1", b"2"])
    first = first_of(results)
    harness.advance()
    harness.server.take("work").fail()
    harness.advance()
    for _ in range(2):
        harness.server.take("work").complete(b"done")
    harness.advance()
    assert outcome(first)[-4:] == b"done" if name == "map" else outcome(first)[1] == b"done"
    ensureDeferred(results.aclose())
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds, not 0"),
        ({"timeout": "60"}, TypeError, "timeout must be a number of seconds, not str"),
        ({"retries": -1}, ValueError, "retries must be at least 0, not -1"),
        ({"retries": None}, TypeError, "retries must be int, not NoneType"),
        ({"retry": 3}, TypeError, "retry must be a Retry, not int"),
        ({"retry": Retry(3), "retries": 3}, ValueError, "retries must be left out if retry is given"),
        ({"reconnect_delay": 3}, TypeError, "reconnect_delay must be callable, not int"),
    ],
)
def test_invalid_default_is_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        GearmanClient(["h"], **options)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"retry": 3}, TypeError, "retry must be a Retry, not int"),
        ({"retry": Retry(3), "retries": 3}, ValueError, "retries must be left out if retry is given"),
        ({"retry": Retry(3), "background": True}, ValueError, "retries must be 0 for a background task"),
        ({"timeout": ""}, TypeError, "timeout must be a number of seconds, not str"),
    ],
)
def test_invalid_option_of_task_is_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Task("work", **options)
