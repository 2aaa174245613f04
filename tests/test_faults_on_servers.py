"""What a client and a worker promise when real job servers stall, restart, lose jobs, or are slow."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import TimeoutError
from twisted.internet.task import deferLater

from txgearman import GearmanClient, GearmanWorker, NoServersAvailable, ServerState, Task, TaskLost

from .daemons import Gearmand
from .raw_worker import Job, connect_worker
from .test_gearmand import outcome, state, until

pytestmark = pytest.mark.daemon("gearmand")

reactor: Any = global_reactor

ROOT: Final = Path(__file__).parent.parent

LATE: Final = 1.0
"""Seconds that a busy machine may be late."""

MIB: Final = 1024 * 1024


def repeat(job: Job) -> None:
    job.complete(job.workload)


@contextmanager
def stalled(server: Gearmand) -> Iterator[None]:
    """The kernel takes connections and bytes for it, and it does nothing."""
    server.stall()
    yield
    server.signal(signal.SIGCONT)


# A server that stalls: guarantee 10.


@pytest.mark.guarantee(number=10)
async def test_a_stalled_server_is_dropped_after_its_ack_timeout(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"work")
    async with GearmanClient([gearmand.address], server_timeout=1.0, connect_timeout=0.5) as client:
        created: Deferred[Task] = Deferred()
        acknowledged = client.add_task("work", on_created=created.callback)
        await worker.job()
        await created  # the worker may hear of the job first
        with stalled(gearmand):
            start = reactor.seconds()
            unacknowledged = client.add_task("work")
            errors = [await outcome(task) for task in (acknowledged, unacknowledged)]
            assert 0.95 < reactor.seconds() - start < 1.5 + LATE
            assert [(type(error), error.acknowledged) for error in errors] == [(TaskLost, True), (TaskLost, False)]
            assert {type(error.__cause__) for error in errors} == {TimeoutError}
            # It accepts the next connection, too, and says nothing on it.
            error = await outcome(client.add_task("work"))
            assert type(error) is NoServersAvailable
        await until(lambda: state(client) is ServerState.READY)
        await worker.close()
        worker = await connect_worker(gearmand.port, b"work", do=repeat)
        assert await client.add_task("work", b"again") == b"again"
    await worker.close()


@pytest.mark.guarantee(number=7)
async def test_tasks_of_a_stalled_server_are_lost_and_the_next_go_to_the_other(
    gearmand: Gearmand, second_gearmand: Gearmand
) -> None:
    servers = [gearmand, second_gearmand]
    workers = [await connect_worker(server.port, b"work", do=repeat) for server in servers]
    async with GearmanClient([server.address for server in servers], server_timeout=1.5) as client:
        await client.echo()
        with stalled(gearmand):
            loads = [b"%d" % number for number in range(20)]
            outcomes = [await outcome(task) for task in [client.add_task("work", load) for load in loads]]
            lost = [error for error in outcomes if type(error) is TaskLost]
            assert {error.task.server for error in lost} == {gearmand.address}
            assert len(lost) == 10  # they take turns
            assert all(result == load for load, result in zip(loads, outcomes, strict=True) if result not in lost)
            assert await gatherResults([client.add_task("work", load) for load in loads]) == loads
    for worker in workers:
        await worker.close()


HEARTBEAT: Final = 0.4


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("who", ["client", "worker"])
async def test_a_heartbeat_finds_a_stalled_server_while_nothing_is_out(gearmand: Gearmand, who: str) -> None:
    """It is asked after one heartbeat of silence at most, and dropped after one more."""
    service: GearmanClient | GearmanWorker
    if who == "client":
        service = GearmanClient([gearmand.address], heartbeat=HEARTBEAT)
    else:
        service = GearmanWorker([gearmand.address], heartbeat=HEARTBEAT, poll_interval=60.0)
        service.register_function("work", lambda job: b"")
    async with service:
        await until(lambda: service.servers[0].state is ServerState.READY)
        quiet = reactor.seconds() + 5 * HEARTBEAT
        while reactor.seconds() < quiet:  # an idle server that answers is kept
            await deferLater(reactor, 0.01)
            assert service.servers[0].state is ServerState.READY
        with stalled(gearmand):
            start = reactor.seconds()
            await until(lambda: service.servers[0].state is not ServerState.READY)
            assert HEARTBEAT < reactor.seconds() - start < 2 * HEARTBEAT + LATE
            assert type(service.servers[0].last_error) is TimeoutError
        await until(lambda: service.servers[0].state is ServerState.READY)


@pytest.mark.guarantee(number=16)
async def test_a_stalled_server_that_owes_nothing_is_found_by_asking_after_its_jobs(gearmand: Gearmand) -> None:
    """Where there is no heartbeat, what is out ends after a ``job_check_interval`` and an ``server_timeout``."""
    worker = await connect_worker(gearmand.port, b"work")
    async with GearmanClient([gearmand.address], job_check_interval=0.4, server_timeout=0.4) as client:
        task = client.add_task("work")
        await client.add_task_bg("other")
        await worker.job()
        with stalled(gearmand):
            start = reactor.seconds()
            error = await outcome(task)
            assert reactor.seconds() - start < 1.5 * 0.8 + LATE
            assert (type(error), error.acknowledged, error.forgotten) == (TaskLost, True, False)
    await worker.close()


# server_wait.


@pytest.mark.guarantee(number=7)
async def test_tasks_wait_through_a_restart_of_the_only_server(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address], server_wait=30.0) as client:
        await client.echo()
        gearmand.stop()
        await until(lambda: state(client) is ServerState.WAITING)
        loads = [b"%d" % number for number in range(50)]
        tasks: list[Deferred[Any]] = [client.add_task("work", load) for load in loads]
        handles: list[Deferred[Any]] = [client.add_task_bg("other", load) for load in loads]
        error = client.servers[0].last_error
        await until(lambda: client.servers[0].last_error is not error)  # it has refused once more
        assert not any(task.called for task in tasks + handles)
        gearmand.start()
        worker = await connect_worker(gearmand.port, b"work", do=repeat)
        assert await gatherResults(tasks) == loads
        assert len({handle.handle for handle in await gatherResults(handles)}) == 50
    await worker.close()


# Retries.


@pytest.mark.guarantee(number=7)
async def test_a_retry_is_done_when_the_server_was_killed(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"work")
    async with GearmanClient([gearmand.address], server_wait=30.0) as client:
        task = client.add_task("work", b"abc", retries=1)
        await worker.job()
        gearmand.stop()
        gearmand.start()
        worker = await connect_worker(gearmand.port, b"work", do=repeat)
        assert await task == b"abc"
    await worker.close()


# Limits.


@pytest.mark.soak
async def test_map_over_ten_thousand_jobs(gearmand: Gearmand) -> None:
    """Lazily: no input is taken before it can be submitted."""
    worker = await connect_worker(gearmand.port, b"work", do=repeat, grabs=50)
    taken, came = 0, 0

    async def workloads() -> AsyncIterator[bytes]:
        nonlocal taken
        for number in range(10_000):
            assert taken - came <= 100
            taken += 1
            yield b"%d" % number

    async with GearmanClient([gearmand.address]) as client:
        async for result in client.map("work", workloads(), concurrency=100):
            assert result == b"%d" % came
            came += 1
        assert (taken, came) == (10_000, 10_000)
        assert client.servers[0].in_flight == 0
    await worker.close()


def memory_process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.memory_process", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="ascii"
    )


def figures(line: str) -> dict[str, int]:
    words = line.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.soak
@pytest.mark.parametrize("beside", ["nothing", "waiting", "sharing"])
async def test_slow_stream_beside_other_tasks_takes_little_memory(gearmand: Gearmand, beside: str) -> None:
    """One of 64 MiB: alone, beside a task that waits on the client's connection, and beside one of the same job."""
    part = bytes(256 * 1024)

    def send(job: Job) -> None:
        for _ in range(64 * MIB // len(part)):
            job.data(part)
        job.complete(b"")

    worker = await connect_worker(gearmand.port, b"big", do=send)
    with memory_process("stream", gearmand.address, beside) as process:
        await until(lambda: process.poll() is not None)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
        found = figures(process.stdout.read())
    print(found)
    assert (found["bytes"], found["chunks"]) == (64 * MIB, 256)
    assert found["grown"] < 16 * 1024
    await worker.close()


@pytest.mark.soak
def test_100_000_tasks_of_64_kib_for_a_stalled_server_take_little_memory(gearmand: Gearmand) -> None:
    """They have one workload in common: what grows is what the socket did not take, as a copy, and the tasks."""
    with memory_process("stalled", gearmand.address, "100000", str(64 * 1024)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with stalled(gearmand):
            print("go", file=process.stdin, flush=True)
            found = figures(process.stdout.readline())
        process.stdin.close()
        assert process.wait(60) == 0
    print(found)
    assert found["stopped"] == 100_000
    assert 0 < found["written"] < 1000
    assert found["grown"] < 150 * 1024


# Other servers, while jobs run.


async def test_job_servers_change_while_two_thousand_jobs_run(gearmand: Gearmand, second_gearmand: Gearmand) -> None:
    servers = [gearmand, second_gearmand]
    first, second = (server.address for server in servers)
    done = dict.fromkeys((first, second), 0)

    def note(address: str) -> Any:
        def do(job: Job) -> None:
            done[address] += 1
            job.complete(job.workload)

        return do

    workers = [await connect_worker(server.port, b"work", do=note(server.address)) for server in servers]
    async with GearmanClient([first], max_in_flight=100) as client:
        plan = iter([[first, second], [second], [second, first], [first]])
        results: list[bytes] = []

        def came(result: bytes) -> bytes:
            results.append(result)
            if len(results) % 400 == 0 and len(results) < 2000:
                client.job_servers = next(plan)
            return result

        loads = [b"%d" % number for number in range(2000)]
        tasks = [
            client.add_task("work", load, unique=load if number % 2 else b"").addCallback(came)
            for number, load in enumerate(loads)
        ]
        assert await gatherResults(tasks) == loads
        assert [server.address for server in client.servers] == [first]
        assert min(done.values()) > 400
        assert sum(done.values()) == 2000
        # The server that was left has no connection but the worker's and the administrator's.
        await until(lambda: len(second_gearmand.admin("workers")) == 3)
    for worker in workers:
        await worker.close()
