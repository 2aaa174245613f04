"""The client against geard, a job server that leaves much of the protocol out (H6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from txgearman import (
    BatchFailed,
    GearmanClient,
    RequestUnsupported,
    ServerState,
    TaskException,
    TaskFailed,
    TaskRejected,
)

from .daemons import Geard
from .raw_worker import Worker, connect_worker
from .test_gearmand import outcome


async def settled_worker(geard: Geard, *functions: bytes, **options: Any) -> Worker:
    """A busy machine's geard may close a connection that it has just accepted: then make another."""
    while True:
        worker = await connect_worker(geard.port, *functions, **options)
        if await worker.settled:
            return worker


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it says nothing of its types
async def worker(geard: Geard) -> AsyncIterator[Worker]:
    worker = await settled_worker(geard, b"work")
    yield worker
    await worker.close()


@pytest.mark.guarantee(number=5)
async def test_it_never_answers_what_the_client_asks_first(geard: Geard, worker: Worker) -> None:
    """The client asks for exceptions, and works all the same."""
    async with GearmanClient([geard.address], exceptions=True) as client:
        task = client.add_task("work", b"abc")
        job = await worker.job()
        assert job.workload == b"abc"
        job.complete(b"cba")
        assert await task == b"cba"
        assert client.servers[0].state is ServerState.READY


async def test_batch_has_each_outcome_in_its_place(geard: Geard, worker: Worker) -> None:
    async with GearmanClient([geard.address]) as client:
        batch = client.add_tasks("work", [b"1", b"2", b"3"])
        (await worker.job()).complete(b"one")
        (await worker.job()).fail()
        (await worker.job()).complete(b"three")
        error = await outcome(batch)
        assert isinstance(error, BatchFailed)
        assert [error.outcomes[0], type(error.outcomes[1]), error.outcomes[2]] == [b"one", TaskFailed, b"three"]
        assert (error.failed, client.servers[0].in_flight) == (1, 0)
        handles = await client.add_tasks_bg("work", [b"4", b"5"])
        for handle in handles:
            assert (await client.get_status(handle)).known


async def test_status_by_handle(geard: Geard, worker: Worker) -> None:
    async with GearmanClient([geard.address]) as client:
        handle = await client.add_task_bg("work", b"abc")
        job = await worker.job()
        running = await client.get_status(handle)
        assert (running.known, running.running, running.numerator, running.denominator) == (True, True, 0, 0)
        job.status(1, 4)
        while (await client.get_status(handle)).progress is None:
            pass
        assert (await client.get_status(handle)).progress == 0.25
        job.complete(b"")
        while (await client.get_status(handle)).known:
            pass


@pytest.mark.guarantee(number=3)
async def test_a_job_that_fails_and_one_with_an_exception(geard: Geard, worker: Worker) -> None:
    async with GearmanClient([geard.address]) as client:
        failed, raised, good = (client.add_task("work", load) for load in (b"1", b"2", b"3"))
        (await worker.job()).fail()
        (await worker.job()).exception(b"why")
        (await worker.job()).complete(b"fine")
        assert type(await outcome(failed)) is TaskFailed
        error = await outcome(raised)
        assert (type(error), error.data) == (TaskException, b"why")
        assert await good == b"fine"


@pytest.mark.guarantee(number=5)
async def test_the_failure_after_a_workers_death_has_the_wrong_magic(geard: Geard) -> None:
    """M2."""
    dying = await settled_worker(geard, b"mortal")
    async with GearmanClient([geard.address]) as client:
        task = client.add_task("mortal")
        await dying.job()
        await dying.close()
        assert type(await outcome(task)) is TaskFailed
        assert client.servers[0].state is ServerState.READY


@pytest.mark.guarantee(number=17)
async def test_what_it_leaves_unanswered_is_told_and_shifts_nothing(geard: Geard, worker: Worker) -> None:
    async with GearmanClient([geard.address]) as client:
        known = await client.add_task_bg("queued")
        asked: list[Any] = []
        for _ in range(50):
            asked += [
                client.add_task("work", b"x"),
                client.add_task_bg("work", at=1.0),
                client.get_status(known),
                client.get_status_unique("u"),
                client.echo(b"e"),
            ]
        for _ in range(50):
            (await worker.job()).complete(b"y")
        answers = [await outcome(deferred) for deferred in asked]
        assert set(answers[0::5]) == {b"y"}
        assert {(type(error), error.code) for error in answers[1::5]} == {(TaskRejected, "")}
        assert {status.known for status in answers[2::5]} == {True}
        assert {(type(error), error.code) for error in answers[3::5]} == {(RequestUnsupported, "")}
        assert all(set(seconds) == {geard.address} for seconds in answers[4::5])
        assert client.servers[0].state is ServerState.READY


async def test_many_jobs(geard: Geard) -> None:
    """The same unique is many jobs here, since geard does not coalesce (docs/gearman.md §1)."""
    worker = await settled_worker(geard, b"echo", do=lambda job: job.complete(job.workload), grabs=50)
    loads = [b"%d" % number for number in range(1000)]
    async with GearmanClient([geard.address]) as client:
        assert await gatherResults([client.add_task("echo", load) for load in loads]) == loads
        assert await gatherResults([client.add_task("echo", load, unique="u") for load in loads]) == loads
    await worker.close()
