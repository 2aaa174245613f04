"""The same probes of client, worker and admin client at each job server: gearmand, geard and the one in Perl.

Where servers differ, a table beside the test has what each of them does. `test_gearmand`, `test_geard` and
`test_perl_server` have what only one of them can show.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from types import NoneType
from typing import Any, Final

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from txgearman import (
    Answers,
    ClientStopped,
    GearmanAdmin,
    GearmanClient,
    GearmanError,
    GearmanWorker,
    Job,
    JobHandle,
    JobStatus,
    Priority,
    RequestUnsupported,
    ServerError,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.packets import CAN_DO, GRAB_JOB, GRAB_JOB_UNIQ, PacketType

from .conftest import Failures
from .contract.harness import SocketPeer
from .daemons import Daemon, Geard, Gearmand, PerlServer
from .test_gearmand import Events, outcome, until

SERVERS: Final[dict[str, type[Daemon]]] = {"gearmand": Gearmand, "geard": Geard, "perl": PerlServer}

QUICK: Final[dict[str, Any]] = {"reconnect_delay": lambda attempt: 0.05}
"""So that a server that was started again, or a geard that closed its first connection, is found soon."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("gearmand", marks=pytest.mark.daemon("gearmand")),
        pytest.param("geard", marks=pytest.mark.daemon("gear")),
        pytest.param("perl", marks=pytest.mark.daemon("gearman-server")),
    ],
)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def shared(kind: str) -> Iterator[Daemon]:
    """For tests that leave no job behind."""
    with SERVERS[kind]() as server:
        yield server


@pytest.fixture
def own(kind: str) -> Iterator[Daemon]:
    """A server of the test's own."""
    with SERVERS[kind]() as server:
        yield server


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it says nothing of its types
async def client(shared: Daemon) -> AsyncIterator[GearmanClient]:
    async with GearmanClient([shared.address], **QUICK) as client:
        await client.when_ready()
        yield client


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # as above
async def worker(shared: Daemon) -> AsyncIterator[GearmanWorker]:
    async with GearmanWorker([shared.address], max_jobs=100, drain_timeout=0, **QUICK) as worker:
        await worker.when_ready()
        yield worker


def reverse(job: Job) -> bytes:
    return job.workload[::-1]


async def until_unknown(client: GearmanClient, handle: JobHandle) -> None:
    """Ask until the server does not have the job: the worker's result may be on its way."""
    while (await client.get_status(handle)).known:
        pass


def code_of(answer: object) -> str:
    """The code of a server's error; "unanswered" if it left the request so; "OK" if there is no error."""
    if isinstance(answer, RequestUnsupported):
        return "unanswered"
    return answer.code if isinstance(answer, ServerError) else "OK"


def error_of(answers: Answers[Any]) -> GearmanError | None:
    """The error of the only server, if any."""
    return next(iter(answers.errors.values()), None)


# Jobs.


async def test_foreground_and_background_jobs_are_done(client: GearmanClient, worker: GearmanWorker) -> None:
    done: list[bytes] = []
    worker.register_function("reverse", reverse)
    worker.register_function("note", lambda job: done.append(job.workload))
    assert await client.add_task("reverse", b"a\0bc") == b"cb\0a"
    handle = await client.add_task_bg("note", b"noted")
    await until_unknown(client, handle)
    assert done == [b"noted"]


async def test_status_is_relayed_and_asked_for(client: GearmanClient, worker: GearmanWorker) -> None:
    taken: list[Job] = []
    end: Deferred[bytes] = Deferred()

    def work(job: Job) -> Deferred[bytes]:
        taken.append(job)
        return end

    events = Events()
    task = Task("work", **events.options)
    created = events.next("created")
    result = client.submit(task)
    await created
    assert task.handle
    waiting = await client.get_status(task.handle)
    assert (waiting.known, waiting.running, waiting.progress) == (True, False, None)
    worker.register_function("work", work)
    await until(lambda: taken)
    reported = events.next("status")
    taken[0].send_status(1, 4)
    await reported
    running = await client.get_status(task.handle)
    assert (running.known, running.running, running.progress) == (True, True, 0.25)
    end.callback(b"done")
    assert await result == b"done"
    assert events.seen == [("created",), ("status", 1, 4), ("complete", b"done")]


PASSED_ON: Final[dict[str, list[tuple[Any, ...]]]] = {
    "gearmand": [("data", b"chunk"), ("warning", b"warning"), ("complete", b"u")],
    "geard": [("data", b"chunk"), ("warning", b"warning"), ("complete", b"u")],
    "perl": [("complete", b"")],
}


async def test_chunks_warnings_and_unique_are_passed_on(
    client: GearmanClient, worker: GearmanWorker, kind: str
) -> None:
    """Not by Perl's server, which answers the worker with errors. It goes on."""

    def work(job: Job) -> bytes:
        job.send_data(b"chunk")
        job.send_warning(b"warning")
        return job.unique

    worker.register_function("chunks", work)
    events = Events()
    await client.add_task("chunks", unique="u", **events.options)
    assert events.seen == [("created",), *PASSED_ON[kind]]
    assert [info.state for info in worker.servers] == [ServerState.READY]


@pytest.mark.guarantee(number=3)
async def test_failure_and_exception_reach_the_client(
    client: GearmanClient, worker: GearmanWorker, logged_failures: Failures
) -> None:
    """H13: our worker sends a failure behind the exception to Perl's server, where that is all that ends the job."""

    def raises(job: Job) -> None:
        raise ValueError("why")

    worker.register_function("raise", raises)
    worker.register_function("fail", lambda job: job.fail())
    worker.register_function("reverse", reverse)
    failed, raised = Task("fail"), Task("raise")
    errors = [await outcome(client.submit(task)) for task in (failed, raised)]
    assert [type(error) for error in errors] == [TaskFailed, TaskException]
    assert errors[1].data == b"ValueError: why"
    assert await client.add_task("reverse", b"abc") == b"cba"
    assert raised.handle
    assert not (await client.get_status(raised.handle)).known
    assert len(logged_failures.flush(ValueError)) == 1


RUNS: Final = {"gearmand": [b"0"], "geard": [b"0", b"1", b"2", b"background"], "perl": [b"0"]}


@pytest.mark.guarantee(number=4)
async def test_tasks_of_one_unique_share_a_job(client: GearmanClient, worker: GearmanWorker, kind: str) -> None:
    """At geard each is a job of its own. The tasks can't see that."""
    runs: list[bytes] = []

    def work(job: Job) -> bytes:
        runs.append(job.workload)
        job.send_status(1, 2)
        return b"done"

    seen = [Events() for _ in range(3)]
    tasks = [client.add_task("shared", b"%d" % n, unique="u", **events.options) for n, events in enumerate(seen)]
    handle = await client.add_task_bg("shared", b"background", unique="u")
    worker.register_function("shared", work)
    assert await gatherResults(tasks) == [b"done"] * 3
    await until_unknown(client, handle)
    assert sorted(runs) == RUNS[kind]
    assert [events.seen for events in seen] == [[("created",), ("status", 1, 2), ("complete", b"done")]] * 3


LOADS: Final = [
    (b"low", Priority.LOW),
    (b"normal", Priority.NORMAL),
    (b"normal 2", Priority.NORMAL),
    (b"high", Priority.HIGH),
    (b"high 2", Priority.HIGH),
]

ORDER: Final = {
    "gearmand": [b"high", b"high 2", b"normal", b"normal 2", b"low"],
    "geard": [b"high", b"high 2", b"normal", b"normal 2", b"low"],
    "perl": [b"high 2", b"high", b"normal", b"normal 2"],
}


async def test_priorities_order_jobs(client: GearmanClient, worker: GearmanWorker, kind: str) -> None:
    """Perl's server assigns the newest HIGH job first, and rejects LOW."""
    order: list[bytes] = []
    tasks = [client.submit(Task("ordered", load, priority=priority)) for load, priority in LOADS]
    await client.add_task_bg("other")
    worker.register_function("other", lambda job: None)
    worker.register_function("ordered", lambda job: order.append(job.workload), max_jobs=1)
    low, *rest = [await outcome(task) for task in tasks]
    assert (order, rest) == (ORDER[kind], [b""] * 4)
    assert (type(low), getattr(low, "code", "")) == ((TaskRejected, "server_error") if kind == "perl" else (bytes, ""))


SIZES: Final = {"gearmand": 8_000_000, "geard": 500_000, "perl": 8_000_000}
"""geard takes 8 seconds for 8 MB (docs/gearman.md §10)."""


@pytest.mark.guarantee(number=15)
async def test_payload_comes_back_intact(client: GearmanClient, worker: GearmanWorker, kind: str) -> None:
    worker.register_function("echo", lambda job: job.workload)
    for size in (0, 1, 65_536, SIZES[kind]):
        load = bytes(range(256)) * (size // 256) or b"\0" * size
        assert await client.add_task("echo", load) == load


async def test_thousand_jobs_of_all_kinds_are_in_flight(
    client: GearmanClient, worker: GearmanWorker, logged_failures: Failures
) -> None:
    """Each has its own outcome, however they are mixed."""

    def work(job: Job) -> bytes:
        if job.workload.endswith(b"3"):
            raise ValueError(job.workload)
        if job.workload.endswith(b"7"):
            job.fail()
        return job.workload

    loads = [b"%d" % number for number in range(1000)]
    tasks: list[Deferred[Any]] = []
    for number, load in enumerate(loads):
        if number % 10 == 5:
            tasks.append(client.add_task_bg("mixed", load))
        else:
            priority = Priority.HIGH if number % 2 else Priority.NORMAL
            tasks.append(client.submit(Task("mixed", load, priority=priority)))
    worker.register_function("mixed", work)
    outcomes = [await outcome(task) for task in tasks]
    for end, expected in ((3, TaskException), (7, TaskFailed), (5, JobHandle)):
        assert {type(each) for each in outcomes[end::10]} == {expected}
    kept = [number for number in range(1000) if number % 10 not in (3, 5, 7)]
    assert [outcomes[number] for number in kept] == [loads[number] for number in kept]
    logged_failures.flush(ValueError)


@pytest.mark.guarantee(number=10)
async def test_time_out_of_a_task_and_of_a_function(
    client: GearmanClient, worker: GearmanWorker, logged_failures: Failures
) -> None:
    """The worker ends the job; to the server it announces a later limit, unless that is geard, which has none."""
    assert type(await outcome(client.add_task("nobody", timeout=0.1))) is TaskTimedOut
    worker.register_function("slow", lambda job: Deferred(), timeout=0.2)
    error = await outcome(client.add_task("slow"))
    assert (type(error), b"TimeoutError" in error.data) == (TaskException, True)
    logged_failures.flush(Exception)


async def test_worker_with_a_prefix_gets_the_jobs_of_that_prefix(shared: Daemon, client: GearmanClient) -> None:
    async with (
        GearmanWorker([shared.address], prefix="sandbox", **QUICK) as worker,
        GearmanClient([shared.address], prefix="sandbox", **QUICK) as inside,
    ):
        worker.register_function("reverse", reverse)
        assert await inside.add_task("reverse", b"abc") == b"cba"
        assert type(await outcome(client.add_task("reverse", timeout=0.1))) is TaskTimedOut


# Requests that are not about one job, and what servers lack.

LACKS: Final[dict[str, list[tuple[type[object], str]]]] = {
    "gearmand": [(JobHandle, ""), (JobStatus, "")],
    "geard": [(TaskRejected, ""), (RequestUnsupported, "")],
    "perl": [(TaskRejected, "server_error"), (ServerError, "server_error")],
}
"""What becomes of a job for a time, and of the status of a unique: type and code."""


@pytest.mark.guarantee(number=17)
async def test_request_that_a_server_lacks_shifts_no_answer(own: Daemon, kind: str) -> None:
    """Whether it refuses such a request, or leaves it unanswered (H6)."""
    at = time.time() + 1000
    async with GearmanClient([own.address], **QUICK) as client, GearmanWorker([own.address], **QUICK) as worker:
        worker.register_function("reverse", reverse)
        known = await client.add_task_bg("queued", unique="u")
        asked: list[Any] = []
        for _ in range(50):
            asked += [
                client.add_task("reverse", b"abc"),
                client.add_task_bg("timed", at=at),
                client.get_status(known),
                client.get_status_unique("u"),
                client.echo(b"e"),
            ]
        answers = [await outcome(deferred) for deferred in asked]
        assert set(answers[0::5]) == {b"cba"}
        found = [{(type(each), getattr(each, "code", "")) for each in answers[n::5]} for n in (1, 3)]
        assert found == [{expected} for expected in LACKS[kind]]
        assert {(status.known, status.running) for status in answers[2::5]} == {(True, False)}
        assert all(set(seconds) == {own.address} for seconds in answers[4::5])
        assert client.servers[0].state is ServerState.READY


FULL: Final[dict[str, list[type[object]]]] = {
    "gearmand": [NoneType, ClientStopped, TaskRejected],
    "geard": [RequestUnsupported, ClientStopped, ClientStopped],
    "perl": [NoneType, TaskFailed, ClientStopped],
}
"""The answer to `set_max_queue`, and the outcomes of a job that was queued before and of the one behind it."""


@pytest.mark.guarantee(number=3)
async def test_full_queue_hits_one_job(own: Daemon, kind: str) -> None:
    """gearmand rejects the new one; Perl's server takes it, and fails the one that was queued before."""
    async with GearmanClient([own.address], **QUICK) as client, GearmanAdmin([own.address], **QUICK) as admin:
        first = client.add_task("full")
        await client.echo()
        answers = await admin.set_max_queue("full", 1)
        second = client.add_task("full")
        await client.echo()
        waiting = [not task.called for task in (first, second)]
    outcomes = [error_of(answers), await outcome(first), await outcome(second)]
    assert [type(each) for each in outcomes] == FULL[kind]
    assert waiting == [each is ClientStopped for each in FULL[kind][1:]]


COMMANDS: Final = {
    "status": {"gearmand": "OK", "geard": "OK", "perl": "OK"},
    "workers": {"gearmand": "OK", "geard": "OK", "perl": "OK"},
    "version": {"gearmand": "OK", "geard": "unanswered", "perl": "OK"},
    "priority_status": {"gearmand": "OK", "geard": "unanswered", "perl": "unknown_command"},
    "jobs": {"gearmand": "OK", "geard": "unanswered", "perl": "unknown_command"},
    "unique_jobs": {"gearmand": "OK", "geard": "unanswered", "perl": "unknown_command"},
    "pid": {"gearmand": "OK", "geard": "unanswered", "perl": "unknown_command"},
    "verbosity": {"gearmand": "OK", "geard": "unanswered", "perl": "unknown_command"},
    "create_function": {"gearmand": "OK", "geard": "unanswered", "perl": "unknown_command"},
    "drop_function": {"gearmand": "OK", "geard": "unanswered", "perl": "unknown_command"},
    "cancel_job": {"gearmand": "OK", "geard": "OK", "perl": "unknown_command"},
    "shutdown": {"gearmand": "UNKNOWN_COMMAND", "geard": "unanswered", "perl": "OK"},
}

ARGUMENTS: Final = {"create_function": ("new",), "drop_function": ("new",)}


async def test_admin_commands(own: Daemon, kind: str) -> None:
    """The last of them ends Perl's server."""
    answers: dict[str, str] = {}
    async with (
        GearmanAdmin([own.address], **QUICK) as admin,
        GearmanClient([own.address], **QUICK) as client,
        GearmanWorker([own.address], client_id="me", **QUICK) as worker,
    ):
        worker.register_function("reverse", reverse)
        handle = await client.add_task_bg("queued")
        await until(lambda: "reverse\t0\t0\t1" in own.admin("status"))
        rows = {row.function: (row.total, row.running, row.workers) for row in (await admin.status()).one()}
        assert rows == {b"reverse": (0, 0, 1), b"queued": (1, 0, 0)}
        assert {info.client_id: info.functions for info in (await admin.workers()).one()}[b"me"] == (b"reverse",)
        for name in COMMANDS:
            arguments = (handle,) if name == "cancel_job" else ARGUMENTS.get(name, ())
            answer = await outcome(getattr(admin, name)(*arguments))
            answers[name] = code_of(answer if answer is None or isinstance(answer, GearmanError) else error_of(answer))
        ends = answers["shutdown"] == "OK"
        await until(lambda: (own.exit_code() is not None) is ends)
        assert own.exit_code() == (0 if ends else None)
    assert answers == {name: by_kind[kind] for name, by_kind in COMMANDS.items()}


# What ends.

GRABS: Final = {"gearmand": GRAB_JOB, "geard": GRAB_JOB_UNIQ, "perl": GRAB_JOB}
"""A request for a job that the server answers."""

LEFT_BY_WORKER: Final = {"gearmand": b"abc", "geard": TaskFailed, "perl": TaskFailed}


@pytest.mark.guarantee(number=3)
async def test_death_of_a_worker(own: Daemon, kind: str) -> None:
    """gearmand gives its job to the next worker; the others fail it. What is queued waits for the next worker."""
    async with GearmanClient([own.address], **QUICK) as client:
        running, queued = client.add_task("work", b"cba"), client.add_task("work", b"321")
        await client.echo()
        raw = raw_worker(own, b"work", GRABS[kind])
        _, (*_, workload) = raw.receive()
        assert workload == b"cba"
        raw.close()
        async with GearmanWorker([own.address], **QUICK) as worker:
            worker.register_function("work", reverse)
            left, waited = await outcome(running), await outcome(queued)
        assert (left if isinstance(left, bytes) else type(left), waited) == (LEFT_BY_WORKER[kind], b"123")


def raw_worker(server: Daemon, function: bytes, grab: PacketType) -> SocketPeer:
    """A worker that has asked for one job."""
    while True:
        peer = SocketPeer(server.port)
        try:
            peer.send(CAN_DO.request(function), grab.request())
        except ConnectionError:  # a busy machine's geard
            peer.close()
        else:
            return peer


async def test_worker_that_is_restarted(own: Daemon) -> None:
    """It ends the job that it runs, takes no other, and takes it once it is started again."""
    begun: list[Deferred[bytes]] = []

    def work(job: Job) -> Deferred[bytes]:
        begun.append(Deferred())
        return begun[-1]

    worker = GearmanWorker([own.address], drain_timeout=10.0, max_jobs=1, **QUICK)
    worker.register_function("work", work)
    async with GearmanClient([own.address], **QUICK) as client:
        async with worker:
            running, waiting = client.add_task("work"), client.add_task("work")
            await until(lambda: begun)
            stopped = worker.stopService()
            begun[0].callback(b"first")
            await stopped
        assert await running == b"first"
        assert (len(begun), waiting.called) == (1, False)
        async with worker:
            await until(lambda: len(begun) == 2)
            begun[1].callback(b"second")
            assert await waiting == b"second"


@pytest.mark.guarantee(number=7)
async def test_server_that_is_restarted(own: Daemon) -> None:
    """A task is lost, one with retries is done, and the worker is back."""
    async with GearmanClient([own.address], **QUICK) as client, GearmanWorker([own.address], **QUICK) as worker:
        lost, retried = client.add_task("work", b"abc"), client.add_task("work", b"abc", retries=1)
        await client.echo()
        own.stop()
        assert type(await outcome(lost)) is TaskLost
        own.start()
        worker.register_function("work", reverse)
        assert await retried == b"cba"


async def test_drained_client_has_left_its_background_jobs(own: Daemon) -> None:
    async with GearmanClient([own.address], **QUICK) as client:
        handles = [client.add_task_bg("later", b"%d" % number) for number in range(200)]
        await client.drain()
    assert len({handle.handle for handle in await gatherResults(handles)}) == 200
    assert own.admin("status") == ["later\t200\t0\t0", "."]
