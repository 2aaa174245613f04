"""Control of a worker with a real gearmand: it is paused, drains, or loses a server, and others do the jobs.

This gearmand wakes one worker for a job. If that one takes no jobs, the job waits for the next poll of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest
from twisted.internet.defer import Deferred

from txgearman import GearmanClient, GearmanWorker

from .daemons import Gearmand
from .test_gearmand import until
from .worker.harness import group_of

JOBS: Final = 4
"""Jobs one after the other: with two workers that are woken in turn, each is due twice."""


@pytest.fixture(scope="module")
def one_wakeup() -> Iterator[Gearmand]:
    with Gearmand("--worker-wakeup=1") as server:
        yield server


def workers_of(server: Gearmand, function: str) -> int:
    """How many workers of a function the server counts."""
    return next(int(line.split("\t")[3]) for line in server.admin("status") if line.startswith(f"{function}\t"))


def row_of(server: Gearmand, client_id: str) -> list[str]:
    """The rows of a worker's connections in `workers`, each with its descriptor and its functions."""
    return [line for line in server.admin("workers") if line.split()[2:3] == [client_id]]


async def until_asleep(*workers: GearmanWorker) -> None:
    for worker in workers:
        states = group_of(worker).states
        await until(lambda states=states: states and all(connection.asleep for connection in states))  # type: ignore[misc]  # its type is the default's


async def do_jobs(client: GearmanClient, *functions: str) -> set[bytes]:
    """Submit jobs, one after the other, and return who did them."""
    return {await client.add_task(function) for _ in range(JOBS) for function in functions}


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
async def test_paused_worker_swallows_no_wakeup_and_resumes_on_its_connection(one_wakeup: Gearmand) -> None:
    worker, other = GearmanWorker([one_wakeup.address], client_id="w"), GearmanWorker([one_wakeup.address])
    for function in ("one", "two"):
        worker.register_function(function, lambda job: b"w")
        other.register_function(function, lambda job: b"other")
    async with worker, GearmanClient([one_wakeup.address]) as client:
        await until_asleep(worker)
        (before,) = row_of(one_wakeup, "w")
        worker.pause()
        await until(lambda: row_of(one_wakeup, "w") == [before.partition(" : ")[0] + " :"])
        queued = client.add_task("one")
        async with other:
            await until_asleep(other)
            assert await do_jobs(client, "one", "two") == {b"other"}
            assert (await queued, workers_of(one_wakeup, "one")) == (b"other", 1)
        worker.resume()
        assert await do_jobs(client, "one", "two") == {b"w"}
        assert (row_of(one_wakeup, "w"), workers_of(one_wakeup, "one")) == ([before], 1)


def remove_server(worker: GearmanWorker) -> None:
    worker.job_servers = ["127.0.0.1:1"]


WITHDRAWALS: Final[dict[str, Callable[[GearmanWorker], object]]] = {
    "pause": GearmanWorker.pause,
    "stop": GearmanWorker.stopService,
    "removal of the server": remove_server,
    "unregistration": lambda worker: worker.unregister_function("slow"),
}


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("withdrawal", WITHDRAWALS)
async def test_worker_that_requests_no_jobs_swallows_no_wakeup_while_a_job_runs(
    one_wakeup: Gearmand, withdrawal: str
) -> None:
    """Neither for the function that runs nor for another one; and that one is not counted."""
    gate: Deferred[bytes] = Deferred()
    worker, other = GearmanWorker([one_wakeup.address], client_id="w"), GearmanWorker([one_wakeup.address])
    worker.register_function("slow", lambda job: gate)
    worker.register_function("idle", lambda job: b"w")
    for function in ("slow", "idle"):
        other.register_function(function, lambda job: b"other")
    async with worker, GearmanClient([one_wakeup.address]) as client:
        await until_asleep(worker)
        running = client.add_task("slow")
        await until(lambda: worker.running_jobs)
        await until_asleep(worker)
        (old,) = group_of(worker).states
        WITHDRAWALS[withdrawal](worker)
        await until(lambda: not (old.asleep or old.grabs))
        assert old.registered == {b"slow"}
        if withdrawal == "unregistration":
            worker.unregister_function("idle")  # its new connection offers it
        async with other:
            await until_asleep(other)
            assert (workers_of(one_wakeup, "slow"), workers_of(one_wakeup, "idle")) == (2, 1)
            assert await do_jobs(client, "slow", "idle") == {b"other"}
        gate.callback(b"w")
        assert await running == b"w"
