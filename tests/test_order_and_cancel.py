"""Which function gets a worker's next slot, and what `cancel_job` does to a job that runs: the servers differ."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, gatherResults

from txgearman import GearmanClient, GearmanWorker, Job, JobHandle, Priority, ServerError, Task, TaskFailed

from .daemons import Geard, Gearmand
from .test_gearmand import outcome

JOBS = [
    ("a", Priority.NORMAL),
    ("b", Priority.NORMAL),
    ("a", Priority.HIGH),
    ("b", Priority.LOW),
    ("b", Priority.HIGH),
    ("a", Priority.LOW),
]


async def order_of_jobs(address: str, *functions: str, again: str = "") -> str:
    """Queue all jobs; return the order in which a worker with one slot gets them.

    :param functions: what it registers, in order.
    :param again: a function that is unregistered and registered again before the start.
    """
    taken: list[str] = []

    def function(job: Job) -> None:
        taken.append(job.workload.decode())

    async with GearmanClient([address]) as client:
        for name, priority in JOBS:
            await client.add_task_bg(name, f"{name}-{priority.name}".encode(), priority=priority)
        worker = GearmanWorker([address], max_jobs=1)
        for name in functions:
            worker.register_function(name, function)
        if again:
            worker.unregister_function(again)
            worker.register_function(again, function)
        async with worker:
            await gatherResults([client.add_task(name, b"last", priority=Priority.LOW) for name in functions])
    return " ".join(text for text in taken if text != "last")


FIRST_A = "a-HIGH a-NORMAL a-LOW b-HIGH b-NORMAL b-LOW"
FIRST_B = "b-HIGH b-NORMAL b-LOW a-HIGH a-NORMAL a-LOW"


@pytest.mark.gearmand("1.1")
async def test_o1_function_registered_last_goes_first_at_gearmand(gearmand: Gearmand) -> None:
    """Whatever the priorities are, which count within a function alone. To register one again makes it the last."""
    assert await order_of_jobs(gearmand.address, "a", "b") == FIRST_B
    assert await order_of_jobs(gearmand.address, "b", "a") == FIRST_A
    assert await order_of_jobs(gearmand.address, "a", "b", again="a") == FIRST_A


@pytest.mark.gearmand("2.0")
async def test_o1_priority_goes_before_function_at_gearmand_2_0(gearmand: Gearmand) -> None:
    """Then the functions take turns, the one registered last before the other."""
    assert await order_of_jobs(gearmand.address, "a", "b") == "b-HIGH a-HIGH b-NORMAL a-NORMAL b-LOW a-LOW"
    assert await order_of_jobs(gearmand.address, "b", "a") == "a-HIGH b-HIGH a-NORMAL b-NORMAL a-LOW b-LOW"


async def test_o1_priority_goes_before_function_at_geard(geard: Geard) -> None:
    """Then the age."""
    expected = "a-HIGH b-HIGH a-NORMAL b-NORMAL b-LOW a-LOW"
    assert await order_of_jobs(geard.address, "a", "b") == expected
    assert await order_of_jobs(geard.address, "b", "a") == expected


class Running:
    """A job that a worker runs until the test says how it ends."""

    def __init__(self, client: GearmanClient, worker: GearmanWorker) -> None:
        self.begun: Deferred[Job] = Deferred()
        self.end: Deferred[bytes] = Deferred()
        worker.register_function("work", self.function)
        self.task = Task("work")
        self.outcome = client.submit(self.task)

    def function(self, job: Job) -> Deferred[bytes]:
        self.begun.callback(job)
        return self.end

    @property
    def handle(self) -> JobHandle:
        assert self.task.handle is not None
        return self.task.handle


async def test_d2_cancel_of_running_job_fails_task_at_gearmand_and_worker_runs_on(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client, GearmanWorker([gearmand.address]) as worker:
        running = Running(client, worker)
        job = await running.begun
        await client.cancel_job(running.handle)
        assert type(await outcome(running.outcome)) is TaskFailed
        assert not job.ended
        running.end.callback(b"late")
        assert job.ended


async def test_d2_cancel_of_running_job_is_refused_by_geard(geard: Geard) -> None:
    async with GearmanClient([geard.address]) as client, GearmanWorker([geard.address]) as worker:
        running = Running(client, worker)
        await running.begun
        with pytest.raises(ServerError) as refused:
            await client.cancel_job(running.handle)
        assert refused.value.code == "UNKNOWN_JOB"
        running.end.callback(b"done")
        assert await running.outcome == b"done"
