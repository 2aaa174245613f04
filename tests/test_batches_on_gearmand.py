"""Batches against a real gearmand: each job has its outcome, in its place, whatever becomes of the others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.task import LoopingCall, deferLater

from txgearman import (
    BatchFailed,
    ClientStopped,
    GearmanClient,
    GearmanWorker,
    JobFailed,
    JobHandle,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.worker.job import Job

from .conftest import Failures
from .daemons import Gearmand

pytestmark = pytest.mark.daemon("gearmand")

reactor: Any = global_reactor


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def kinds(outcomes: Any) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes)


def fail_some(job: Job) -> bytes:
    number = int(job.workload)
    if number % 10 == 3:
        raise JobFailed("a three")
    if number % 10 == 7:
        raise ValueError("a seven")
    return b"r%d" % number


@pytest.mark.guarantee(number=3)
async def test_refusals_are_in_their_places(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.add_task_bg("full", b"first")  # a limit needs the function
        gearmand.admin("maxqueue full 1000")
        with pytest.raises(BatchFailed) as failed:
            await client.add_tasks_bg("full", numbers(3000))
    outcomes = failed.value.outcomes
    assert failed.value.failed == 2001
    assert all(isinstance(outcome, JobHandle) for outcome in outcomes[:999])
    assert all(isinstance(outcome, TaskRejected) for outcome in outcomes[999:])
    last = outcomes[-1]
    assert isinstance(last, TaskRejected)
    assert (last.code, last.task.workload) == ("QUEUE_ERROR", b"2999")


async def test_failures_are_in_their_places_beside_single_tasks(gearmand: Gearmand, logged_failures: Failures) -> None:
    worker = GearmanWorker([gearmand.address], max_jobs=50)
    worker.register_function("f", fail_some)
    worker.startService()
    async with GearmanClient([gearmand.address]) as client:
        before = [client.add_task("f", b"%d" % number) for number in range(0, 100, 10)]
        batch = client.add_tasks("f", numbers(1000))
        after = [client.add_task("f", b"%d" % number) for number in range(1, 100, 10)]
        with pytest.raises(BatchFailed) as failed:
            await batch
        outcomes = failed.value.outcomes
        assert kinds(outcomes) == {"bytes": 800, "TaskFailed": 100, "TaskException": 100}
        assert [type(outcome) for outcome in outcomes[3::10]] == [TaskFailed] * 100
        assert [type(outcome) for outcome in outcomes[7::10]] == [TaskException] * 100
        assert outcomes[::10] == [b"r%d" % number for number in range(0, 1000, 10)]
        assert await gatherResults(before) == [b"r%d" % number for number in range(0, 100, 10)]
        assert await gatherResults(after) == [b"r%d" % number for number in range(1, 100, 10)]
        assert client.servers[0].in_flight == 0
    await worker.stopService()
    assert len(logged_failures.flush(ValueError)) == 100


async def test_coalesced_jobs_have_one_result(gearmand: Gearmand) -> None:
    worker = GearmanWorker([gearmand.address], max_jobs=50)
    worker.register_function("f", lambda job: job.handle.handle)
    async with GearmanClient([gearmand.address]) as client:
        uniques = [b"u%d" % (number % 100) for number in range(1000)]
        batch = client.add_tasks("f", numbers(1000), uniques=uniques)
        again = client.add_tasks("f", numbers(100), uniques=uniques[:100])
        single = client.add_task("f", b"x", unique=b"u7")
        await client.echo()
        worker.startService()
        results = await batch
        assert results == results[:100] * 10
        assert len(set(results)) == 100
        assert await again == results[:100]
        assert await single == results[7]
    await worker.stopService()


async def test_max_in_flight_admits_batch_piece_by_piece(gearmand: Gearmand) -> None:
    worker = GearmanWorker([gearmand.address], max_jobs=100)
    worker.register_function("f", lambda job: job.workload)
    worker.startService()
    async with GearmanClient([gearmand.address], max_in_flight=100) as client:
        seen: set[int] = set()
        probe = LoopingCall(lambda: seen.add(client.servers[0].in_flight))
        probe.start(0.0005)
        assert await client.add_tasks("f", numbers(5000)) == numbers(5000)
        probe.stop()
    assert max(seen) <= 100
    await worker.stopService()


@pytest.mark.guarantee(number=10)
async def test_timeout_and_cancel_leave_nothing_in_flight(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        with pytest.raises(BatchFailed) as failed:
            await client.add_tasks("nobody", [b"a", b"b"], timeout=0.2)
        assert [type(outcome) for outcome in failed.value.outcomes] == [TaskTimedOut] * 2
        assert client.servers[0].in_flight == 0
        batch = client.add_tasks("nobody", [b"x" * 1000] * 5000)
        await client.echo()
        batch.cancel()
        with pytest.raises(CancelledError):
            await batch
        assert client.servers[0].in_flight == 0
        await client.drain()


@pytest.mark.guarantee(number=7)
async def test_server_that_dies_loses_what_it_had(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.echo()
        gearmand.stall()
        batch = client.add_tasks_bg("f", [b"%01000d" % number for number in range(20_000)])
        await deferLater(reactor, 0.05)
        gearmand.stop()
        with pytest.raises(BatchFailed) as failed:
            await batch
    assert len(failed.value.outcomes) == 20_000
    assert set(kinds(failed.value.outcomes)) == {"TaskLost", "NoServersAvailable"}
    assert isinstance(failed.value.outcomes[0], TaskLost)


@pytest.mark.guarantee(number=7)
async def test_what_was_not_sent_goes_to_other_server(gearmand: Gearmand, second_gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address, second_gearmand.address]) as client:
        await client.echo()
        gearmand.stall()
        batch = client.add_tasks_bg("f", [b"%01000d" % number for number in range(20_000)])
        await deferLater(reactor, 0.05)
        gearmand.stop()
        with pytest.raises(BatchFailed) as failed:
            await batch
    outcomes = failed.value.outcomes
    assert {outcome.server for outcome in outcomes if isinstance(outcome, JobHandle)} == {second_gearmand.address}
    found = kinds(outcomes)
    assert set(found) == {"TaskLost", "JobHandle"}
    assert found["JobHandle"] > 10_000


@pytest.mark.guarantee(number=1)
async def test_stop_fails_what_has_no_outcome(gearmand: Gearmand) -> None:
    client = GearmanClient([gearmand.address])
    batch = client.add_tasks("nobody", [b"1"] * 100)
    await client.echo()
    stopped = client.stopService()
    with pytest.raises(BatchFailed) as failed:
        await batch
    assert [type(outcome) for outcome in failed.value.outcomes] == [ClientStopped] * 100
    await stopped
