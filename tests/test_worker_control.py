"""Control of a worker with a real gearmand: it is paused, drains, or loses a server, and others do the jobs.

This gearmand wakes one worker for a job. If that one takes no jobs, the job waits for the next poll of another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from txgearman import GearmanClient, GearmanWorker, Job, ServerState

from .daemons import Gearmand
from .test_gearmand import until
from .worker.harness import Slow, group_of, never_end

PATIENCE: Final = 10.0
"""Seconds that a thread waits for the test."""

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
    """The rows of a worker's connections in `workers`, each with its descriptor and its functions, in alphabetic order.

    gearmand 2.0 puts the function whose job it has assigned at the end.
    """
    rows = [line.partition(" : ") for line in server.admin("workers") if line.split()[2:3] == [client_id]]
    return [head + colon + " ".join(sorted(names.split())) for head, colon, names in rows]


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


# Threads.


class Thread:
    """A function that blocks until the test says so.

    :ivar running: how many of its jobs run, and how many have run at a time.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.running = self.most_running = 0
        self._lock = threading.Lock()

    def __call__(self, job: Job) -> bytes:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.gate.wait(PATIENCE)
        with self._lock:
            self.running -= 1
        return b"by the thread"


@pytest.mark.daemon("gearmand")
async def test_thread_that_outlives_drain_runs_its_job_alone_to_its_end(one_wakeup: Gearmand) -> None:
    """The other job of the worker is cancelled at the end of the drain, and done by another worker at once."""
    thread = Thread()
    worker, other = GearmanWorker([one_wakeup.address], drain_timeout=0.01), GearmanWorker([one_wakeup.address])
    worker.register_function("thread", thread, threaded=True)
    worker.register_function("cancelled", never_end)
    for function in ("thread", "cancelled"):
        other.register_function(function, lambda job: b"by another")
    async with GearmanClient([one_wakeup.address]) as client:
        worker.startService()
        tasks = [client.add_task(function) for function in ("thread", "cancelled")]
        await until(lambda: thread.running and len(worker.running_jobs) == 2)
        stopped = worker.stopService()
        async with other:
            assert await tasks[1] == b"by another"
            assert (stopped.called, await client.add_task("thread")) == (False, b"by another")
            thread.gate.set()
            assert await tasks[0] == b"by the thread"
            await stopped


@pytest.mark.daemon("gearmand")
async def test_drain_without_limit_lasts_until_job_ends(one_wakeup: Gearmand) -> None:
    gate: Deferred[bytes] = Deferred()
    worker = GearmanWorker([one_wakeup.address], drain_timeout=None)
    worker.register_function("slow", lambda job: gate)
    async with GearmanClient([one_wakeup.address]) as client:
        worker.startService()
        task = client.add_task("slow")
        await until(lambda: worker.running_jobs)
        stopped = worker.stopService()
        await client.echo()
        assert not stopped.called
        gate.callback(b"done")
        assert await task == b"done"
        await stopped


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize(("threaded", "most_running"), [(True, 1), (False, 2)])
async def test_only_threaded_function_keeps_max_jobs_when_connection_is_lost(
    one_wakeup: Gearmand, threaded: bool, most_running: int
) -> None:
    """The Deferred of deferToThread is cancelled, and the thread goes on; so its slot is free too early."""
    thread = Thread()
    worker = GearmanWorker([one_wakeup.address], max_jobs=1)
    worker.register_function("work", thread if threaded else lambda job: deferToThread(thread, job), threaded=threaded)
    async with worker, GearmanClient([one_wakeup.address]) as client:
        task = client.add_task("work")
        await until(lambda: thread.running)
        (lost,) = group_of(worker).states
        (job,) = worker.running_jobs
        lost.abort(ConnectionError("the test has cut it"))
        await until(lambda: job.ended and group_of(worker).states and worker.servers[0].state is ServerState.READY)
        if not threaded:
            await until(lambda: thread.running == 2)
        thread.gate.set()
        assert await task == b"by the thread"
    assert thread.most_running == most_running


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=18)
async def test_max_jobs_at_run_time(one_wakeup: Gearmand) -> None:
    slow = Slow()
    worker = GearmanWorker([one_wakeup.address], max_jobs=1)
    worker.register_function("slow", slow)
    async with worker, GearmanClient([one_wakeup.address]) as client:
        tasks = [client.add_task("slow", b"%d" % number) for number in range(8)]
        await until(lambda: len(slow.running) == 1)
        worker.max_jobs = 4
        await until(lambda: len(slow.running) == 4)
        worker.max_jobs = 2
        for left in (3, 2, 2, 2, 2):
            slow.end()
            await until(lambda left=left: len(slow.running) == left)  # type: ignore[misc]  # its type is the default's
            await client.echo()
            assert len(worker.running_jobs) == left
        await until(lambda: len(slow.running) == 2)
        worker.max_jobs = 8
        await until(lambda: len(slow.started) == 8)
        slow.end_all()
        assert await gatherResults(tasks) == [b"%d" % number for number in range(8)]
    assert slow.most_running == 4
