"""Many jobs that are abandoned: all end at once, and their functions are cancelled in several turns of the reactor."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from txgearman import Job
from txgearman.testing import MemoryJobServer
from txgearman.worker import execution

from ..wire import outcome
from .harness import Slow, group_of, scheduler_of, slots_held, submit_bg

SLICE = 2


@pytest.fixture(autouse=True)
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "MAX_CANCELS", SLICE)


def test_functions_are_cancelled_in_slices_once_all_jobs_have_ended(server: MemoryJobServer) -> None:
    slow, worker = Slow(), server.worker()
    worker.register_function("slow", slow)
    submit_bg(server, "slow", 5)
    server.advance()
    scheduler_of(worker).runner.abandon_all(group_of(worker), "a test wants it")
    assert {job.ended for job in slow.jobs} == {"a test wants it"}
    assert (len(slow.cancelled), slots_held(worker)) == (SLICE, 5 - SLICE)
    server.advance()
    assert (len(slow.cancelled), slow.running) == (5, {})


@pytest.mark.guarantee(number=13)
def test_canceller_may_abandon_further_jobs(server: MemoryJobServer) -> None:
    """They are cancelled after it, not within it."""
    worker = server.worker()
    depth, depths = 0, []

    def cancel(_: object) -> None:
        nonlocal depth
        depth += 1
        depths.append(depth)
        scheduler_of(worker).runner.abandon_all(group_of(worker), "a canceller wants it")
        depth -= 1

    def function(job: Job) -> Deferred[Any]:
        return Deferred(cancel)

    worker.register_function("work", function)
    submit_bg(server, "work", 3)
    server.advance()
    scheduler_of(worker).runner.abandon_all(group_of(worker), "a test wants it")
    server.advance()
    assert depths == [1, 1, 1]
    assert scheduler_of(worker).runner.running == {}


@pytest.mark.guarantee(number=11)
def test_stop_fires_when_all_functions_are_cancelled(server: MemoryJobServer) -> None:
    slow, worker = Slow(), server.worker(drain_timeout=0)
    worker.register_function("slow", slow)
    submit_bg(server, "slow", 5)
    server.advance()
    stopped = outcome(worker.stopService().addCallback(lambda _: (len(slow.cancelled), slots_held(worker))))
    assert (slow.cancelled, stopped) == ([], [])
    server.advance()
    assert stopped == [(5, 0)]


@pytest.mark.guarantee(number=11)
def test_functions_that_end_by_themselves_leave_no_timer(server: MemoryJobServer) -> None:
    """Those of jobs that were abandoned, and wait to be cancelled."""
    slow, worker = Slow(), server.worker()
    worker.register_function("slow", slow)
    submit_bg(server, "slow", 5)
    server.advance()
    scheduler_of(worker).runner.abandon_all(group_of(worker), "a test wants it")
    stopped = outcome(worker.stopService())
    slow.end_all()
    assert (slots_held(worker), stopped) == (1, [])  # the request by which the stop ends the sleep
    server.advance()
    assert stopped == [None]
