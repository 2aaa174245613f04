"""Events of the log as JSON, as `twist --log-format=json` writes them: plain fields say what an event is about."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher, jsonFileLogObserver

from txgearman import GearmanClient, Job, JobFailed
from txgearman.testing import MemoryJobServer

from .client_harness import ignore_errors
from .conftest import Failures

PLAIN = (str, int, float, bool, type(None))


@contextmanager
def json_log() -> Iterator[list[dict[str, Any]]]:
    """Collect the events of the library, as they are read from a file of JSON."""
    file = StringIO()
    events: list[dict[str, Any]] = []
    observer = jsonFileLogObserver(file, recordSeparator="")
    globalLogPublisher.addObserver(observer)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observer)
        lines = [json.loads(line) for line in file.getvalue().splitlines()]
        events += [event for event in lines if event["log_namespace"].startswith("txgearman.")]


def raises(job: Job) -> None:
    raise ZeroDivisionError("no colour")


def fails(job: Job) -> None:
    raise JobFailed("no colour")


def never_ends(job: Job) -> Deferred[None]:
    return Deferred()


def is_lost(server: MemoryJobServer, client: GearmanClient) -> None:
    server.drop_connections()
    server.advance()


def is_retried(server: MemoryJobServer, client: GearmanClient) -> None:
    server.take("resize").fail()
    server.advance(1)


def events_of(events: list[dict[str, Any]], text: str) -> dict[str, Any]:
    event, *_ = [event for event in events if text in event["log_format"]]
    return event


@pytest.mark.parametrize(
    ("function", "text", "error"),
    [
        (raises, "{job} failed", "ZeroDivisionError"),
        (fails, "{job}: {reason}", "JobFailed"),
        (never_ends, "took longer", "TimeoutError"),
    ],
)
def test_event_of_a_failed_job(
    function: Callable[[Job], object], text: str, error: str, logged_failures: Failures
) -> None:
    server = MemoryJobServer()
    with json_log() as events:
        server.worker().register_function("resize", function, timeout=5.0)
        ignore_errors(server.client().add_task("resize", unique="u"))
        server.advance(6)
        server.close(verify=False)
    event = events_of(events, text)
    assert {name: event[name] for name in ("function", "server", "unique", "error")} == {
        "function": "resize",
        "server": "memory:1",
        "unique": "u",
        "error": error,
    }
    assert event["handle"].startswith("H:")
    assert ("log_failure" in event) is (function is raises)
    assert all(isinstance(value, PLAIN) for name, value in event.items() if not name.startswith("log_"))
    logged_failures.flush(ZeroDivisionError)


@pytest.mark.parametrize(
    ("happens", "options", "text", "expected"),
    [
        (is_lost, {}, "were lost with the connection", {"error": "TaskLost", "count": 3, "attempt": 0}),
        (is_retried, {"retries": 1}, "retrying", {"error": "TaskFailed", "count": 1, "attempt": 1}),
    ],
)
def test_event_of_a_task(
    happens: Callable[[MemoryJobServer, GearmanClient], None],
    options: dict[str, Any],
    text: str,
    expected: dict[str, Any],
) -> None:
    server = MemoryJobServer()
    with json_log() as events:
        client = server.client()
        ignore_errors(client.add_task("resize", unique="u", **options))
        ignore_errors(client.add_tasks("rotate", [b"1", b"2"]))
        server.advance()
        happens(server, client)
        server.close(verify=False)
    event = events_of(events, text)
    assert {name: event[name] for name in expected} == expected
    assert {name: event[name] for name in ("function", "server", "unique")} == {
        "function": "resize",
        "server": "memory:1",
        "unique": "u",
    }
    assert event["handle"].startswith("H:")
    assert all(isinstance(value, PLAIN) for name, value in event.items() if not name.startswith("log_"))


def test_event_of_lost_jobs_of_a_batch_alone() -> None:
    server = MemoryJobServer()
    with json_log() as events:
        ignore_errors(server.client().add_tasks("rotate", [b"1", b"2"]))
        server.advance()
        server.drop_connections()
        server.advance()
        server.close(verify=False)
    event = events_of(events, "were lost with the connection")
    assert (event["count"], event["server"], event["error"]) == (2, "memory:1", "TaskLost")


def test_events_of_a_server() -> None:
    server = MemoryJobServer()
    with json_log() as events:
        server.client()
        server.go_down()
        server.advance(3)
        server.close(verify=False)
    ready, lost, failed = (events_of(events, text) for text in ("connected to", "lost the", "could not connect"))
    assert [event["server"] for event in (ready, lost, failed)] == ["memory:1"] * 3
    assert (lost["error"], failed["error"]) == ("ConnectionLost", "ConnectionRefusedError")
