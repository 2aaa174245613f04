"""What only geard does, which leaves much of the protocol out (H6).

`test_each_server` has the probes of all servers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted

from txgearman import BatchFailed, GearmanClient, ServerState, TaskFailed
from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    GRAB_JOB,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    NO_JOB,
    SUBMIT_JOB,
    WORK_COMPLETE,
)

from .contract.harness import SocketPeer
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


# On the wire.


def asked(geard: Geard, *packets: bytes) -> SocketPeer:
    """A connection that has sent these; a busy machine's geard may close one that it has just accepted."""
    while True:
        peer = SocketPeer(geard.port)
        try:
            peer.send(*packets, SUBMIT_JOB.request(b"other", b"", b""))
            peer.receive()
        except (AssertionError, ConnectionError):
            peer.close()
        else:
            return peer


def test_worker_is_answered_only_if_it_requests_uniques(geard: Geard) -> None:
    """docs/gearman.md §3: GRAB_JOB has no answer. §8: CAN_DO_TIMEOUT does not register a function."""
    client = asked(geard)
    handle = client.submit(SUBMIT_JOB.request(b"f", b"u", b"w"))
    timed = asked(geard, CAN_DO.request(b"g"), CAN_DO_TIMEOUT.request(b"f", b"1000"))
    assert timed.ask(GRAB_JOB.request() + GRAB_JOB_UNIQ.request()) == (NO_JOB, [])
    worker = asked(geard, CAN_DO.request(b"f"))
    assert worker.ask(GRAB_JOB.request() + GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"w"])
    for peer in (client, timed, worker):
        peer.close()


def test_any_connection_ends_any_job(geard: Geard) -> None:
    """docs/gearman.md §3. And CANT_DO for what is not registered ends the connection."""
    client, other = asked(geard), asked(geard)
    handle = client.submit(SUBMIT_JOB.request(b"f", b"", b"w"))
    other.send(WORK_COMPLETE.request(handle, b"forged"))
    assert client.receive() == (WORK_COMPLETE, [handle, b"forged"])
    other.send(CANT_DO.request(b"f"))
    assert other.is_closed()
    for peer in (client, other):
        peer.close()
