"""What the worker logs of jobs: text and plain fields, so that an observer that keeps events keeps no workload."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from txgearman import Job, JobFailed
from txgearman.testing import MemoryJobServer

from ..conftest import Failures
from ..watched_log import WatchedLog
from ..wire import outcome
from .harness import never_end


def raises(job: Job) -> None:
    raise ZeroDivisionError


def raises_late(job: Job) -> None:
    job.complete(b"")
    raise ZeroDivisionError


def fails(job: Job) -> None:
    raise JobFailed("it has no colour")


def does_not_cancel(job: Job) -> Deferred[None]:
    def cancel(_: object) -> None:
        raise ZeroDivisionError

    return Deferred(cancel)


@pytest.mark.guarantee(number=12)
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (raises, "failed"),
        (raises_late, "after its end"),
        (fails, "it has no colour"),
        (never_end, "took longer"),
        (does_not_cancel, "can't be cancelled"),
    ],
)
def test_log_events_keep_no_job(
    server: MemoryJobServer, logged_failures: Failures, function: Callable[[Job], object], text: str
) -> None:
    jobs: list[weakref.ref[Job]] = []

    def watched(job: Job) -> object:
        jobs.append(weakref.ref(job))
        return function(job)

    worker = server.worker()
    worker.register_function("work", watched, timeout=1.0)
    with WatchedLog() as log:
        outcome(server.client().add_task("work", bytes(1000)))
        server.advance(2.0)
        gc.collect()
        assert any(text in logged for logged in log.texts())
        assert jobs[0]() is None
    logged_failures.flush(ZeroDivisionError)
