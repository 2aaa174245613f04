"""The worker with real job servers and with `MemoryJobServer` on a port; its jobs come from clients of ours and others.

What it does on the wire, and what servers may do to it, is tested without them. Here is what people see.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IAddress
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from txgearman import GearmanClient, GearmanWorker, Job, JobFailed, ServerState, Task, TaskException, TaskFailed
from txgearman.packets import ERROR, GRAB_JOB_ALL, GRAB_JOB_UNIQ, WORK_EXCEPTION, PacketType
from txgearman.testing import MemoryJobServer
from txgearman.testing.protocol import JobServerProtocol
from txgearman.worker import groups

from .conftest import Failures
from .daemons import Geard, Gearmand
from .programs import require_program
from .test_c_tools import compiled
from .test_gearmand import outcome, until
from .worker.harness import group_of

reactor: Any = global_reactor

PATIENCE: Final = 10.0
"""Seconds that what is soon to be may take on a busy machine."""

ROOT: Final = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shared_gearmand() -> Iterator[Gearmand]:
    """For tests that leave no job behind."""
    with Gearmand() as server:
        yield server


@pytest.fixture(scope="module")
def shared_geard() -> Iterator[Geard]:
    with Geard() as server:
        yield server


@pytest.fixture(
    params=[
        pytest.param("gearmand", marks=pytest.mark.daemon("gearmand")),
        pytest.param("geard", marks=pytest.mark.daemon("gear")),
        "memory",
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it says nothing of its types
async def address(request: pytest.FixtureRequest, kind: str) -> AsyncIterator[str]:
    """That of a job server of each kind."""
    if kind == "memory":
        server = MemoryJobServer(reactor)
        yield server.listen()
        await server.close()
    else:
        shared: Gearmand | Geard = request.getfixturevalue(f"shared_{kind}")
        yield shared.address


def events_of(client: GearmanClient, function: str, workload: bytes = b"") -> tuple[Deferred[bytes], list[Any]]:
    """Have a job done; what came of it, and what the callbacks were told."""
    seen: list[Any] = []

    def note(name: str) -> Callable[..., None]:
        return lambda _, *told: seen.append((name, *told))

    options: dict[str, Any] = {f"on_{name}": note(name) for name in ("data", "warning", "status", "exception")}
    return client.add_task(function, workload, **options), seen


def later(result: Any) -> Deferred[Any]:
    return deferLater(reactor, 0.001, lambda: result)


def running(server: Gearmand) -> int:
    """How many jobs the server says are running."""
    return sum(int(line.split("\t")[2]) for line in server.admin("status") if line != ".")


def rows_of(server: Gearmand, client_id: str) -> list[set[str]]:
    """The functions of each connection with this id."""
    rows = (line.partition(" : ") for line in server.admin("workers"))
    return sorted((set(names.split()) for head, _, names in rows if head.split()[2:] == [client_id]), key=sorted)


# What functions return.


async def async_generator(job: Job) -> AsyncIterator[bytes]:
    yield b"1"
    await later(None)
    yield b"2"


async def completes_and_goes_on(job: Job) -> bytes:
    job.complete(b"told")
    return bytes(await later(b"too late"))


def from_a_thread(job: Job) -> bytes:
    job.send_status(1, 2)
    job.send_data(b"d")
    job.send_warning(b"w")
    time.sleep(0.001)
    return b"end"


def speaks(job: Job) -> bytes:
    job.send_status(0, 4)
    job.send_data(b"d\0\xff")
    job.send_warning(b"w")
    job.send_status(2**32 - 1, 2**32 - 1)
    job.send_data(b"")
    return b"end"


MANY: Final = bytes(range(256)) * 4096

SPOKEN: Final = [("status", 0, 4), ("data", b"d\0\xff"), ("warning", b"w"), ("status", 2**32 - 1, 2**32 - 1)]

RETURNS: Final = [
    pytest.param(lambda job: MANY, {}, MANY, [], id="many bytes"),
    pytest.param(lambda job: None, {}, b"", [], id="None"),
    pytest.param(async_generator, {}, b"", [("data", b"1"), ("data", b"2")], id="async generator"),
    pytest.param(completes_and_goes_on, {}, b"told", [], id="complete, and a result"),
    pytest.param(
        from_a_thread,
        {"threaded": True},
        b"end",
        [("status", 1, 2), ("data", b"d"), ("warning", b"w")],
        id="all sorts from a thread",
    ),
    pytest.param(speaks, {}, b"end", [*SPOKEN, ("data", b"")], id="data, warning, status"),
    pytest.param(lambda job: job.workload, {"timeout": 30.0}, b"abc", [], id="with a time-out"),
    pytest.param(lambda job: job.workload, {"max_jobs": 1}, b"abc", [], id="with a limit"),
]
"""What differs on the wire; each kind of function is in worker/test_execution.py."""


@pytest.mark.parametrize(("function", "options", "result", "told"), RETURNS)
async def test_what_a_function_returns_is_what_the_client_gets(
    address: str, function: Callable[[Job], Any], options: dict[str, Any], result: bytes, told: list[Any]
) -> None:
    async with GearmanWorker([address]) as worker, GearmanClient([address]) as client:
        worker.register_function("work", function, **options)
        answer, seen = events_of(client, "work", b"abc")
        assert await answer == result
        assert seen == told


# Failures.


def raises(job: Job) -> bytes:
    raise ValueError("wh\u00fd")


def raises_after_a_chunk(job: Job) -> Iterator[bytes]:
    yield b"1"
    raise ValueError("wh\u00fd")


def refuses(job: Job) -> bytes:
    raise JobFailed("not today")


WHY: Final = "ValueError: wh\u00fd".encode()
NO_BYTES: Final = b"TypeError: result must be bytes, not str"

FAILURES: Final = [
    pytest.param(raises_after_a_chunk, {}, WHY, [("data", b"1")], ValueError, id="generator"),
    pytest.param(lambda job: job.send_exception(b"bo\0om"), {}, b"bo\0om", [], None, id="send_exception"),
    pytest.param(refuses, {"threaded": True}, None, [], None, id="JobFailed in a thread"),
    pytest.param(lambda job: job.fail(), {}, None, [], None, id="fail"),
    pytest.param(lambda job: "text", {}, NO_BYTES, [], TypeError, id="text"),
    pytest.param(
        lambda job: Deferred(),
        {"timeout": 0.1},
        b"TimeoutError: it took longer than 0.1 seconds",
        [],
        None,
        id="time-out",
    ),
]


@pytest.mark.parametrize(("function", "options", "exception", "data", "logged"), FAILURES)
async def test_how_a_function_fails_is_what_the_client_is_told(
    logged_failures: Failures,
    address: str,
    function: Callable[[Job], Any],
    options: dict[str, Any],
    exception: bytes | None,
    data: list[Any],
    logged: type[Exception] | None,
) -> None:
    """And the worker goes on, on the same connection."""
    async with GearmanWorker([address]) as worker, GearmanClient([address]) as client:
        worker.register_function("bad", function, **options)
        worker.register_function("good", lambda job: b"fine")
        answer, seen = events_of(client, "bad")
        error = await outcome(answer)
        assert await client.add_task("good") == b"fine"
        assert (worker.servers[0].in_flight, worker.servers[0].last_error) == (0, None)
    if exception is None:
        assert (type(error), seen) == (TaskFailed, data)
    else:
        assert (type(error), error.data, seen) == (TaskException, exception, [*data, ("exception", exception)])
    assert len(logged_failures.flush(*[logged] if logged else [])) == (1 if logged else 0)


async def test_what_is_sent_of_an_exception_is_the_users_choice(address: str, logged_failures: Failures) -> None:
    """Also to a client that has not asked for exceptions: geard tells it all the same."""
    worker = GearmanWorker([address], format_exception=lambda failure: b"code 7")
    worker.register_function("bad", raises)
    async with worker, GearmanClient([address]) as client:
        assert (await outcome(client.add_task("bad"))).data == b"code 7"
    assert len(logged_failures.flush(ValueError)) == 1


async def test_what_a_job_knows(address: str) -> None:
    """The function's name is without the prefix, which both sides have."""
    jobs: list[Job] = []
    worker = GearmanWorker([address], prefix="sandbox")
    worker.register_function("work", jobs.append)
    async with worker, GearmanClient([address], prefix="sandbox") as client, GearmanClient([address]) as plain:
        task = Task("work", b"a\0b", unique="key")
        await client.submit(task)
        await plain.add_task("sandbox\twork", b"c")
    assert [(job.function, job.workload, job.reducer) for job in jobs] == [("work", b"a\0b", b""), ("work", b"c", b"")]
    assert (jobs[0].unique, jobs[0].handle) == (b"key", task.handle)


# Stopping.


async def test_stopping_waits_for_jobs_and_takes_no_more(address: str) -> None:
    gate: Deferred[bytes] = Deferred()
    started: list[bytes] = []

    def slow(job: Job) -> Deferred[bytes]:
        started.append(job.workload)
        return gate

    worker = GearmanWorker([address], max_jobs=2)
    worker.register_function("slow", slow)
    async with GearmanClient([address]) as client:
        worker.startService()
        first = client.add_task("slow", b"1")
        await until(lambda: started)
        # Else it has asked for one more.
        await until(lambda: all(connection.asleep for connection in group_of(worker).states))
        states = list(group_of(worker).states)
        stopped = worker.stopService()
        await until(lambda: not any(connection.grabs for connection in states))  # gearmand's sleep ends by a request
        second = client.add_task("slow", b"2")
        await client.get_status(await client.add_task_bg("nobody"))
        assert (started, stopped.called) == ([b"1"], False)
        gate.callback(b"done")
        assert await first == b"done"
        await stopped
        assert worker.servers[0].state is ServerState.STOPPED
        async with GearmanWorker([address]) as another:
            another.register_function("slow", lambda job: b"by another")
            assert await second == b"by another"
            another.register_function("nobody", lambda job: None)


async def test_stopping_cuts_short_what_takes_too_long(kind: str, address: str) -> None:
    """Another worker gets the job; geard fails it."""
    cancelled: list[BaseException] = []

    async def slow(job: Job) -> None:
        try:
            await Deferred()
        except CancelledError as error:
            cancelled.append(error)
            raise

    worker = GearmanWorker([address], drain_timeout=0.1)
    worker.register_function("slow", slow)
    async with GearmanClient([address]) as client:
        worker.startService()
        answer = client.add_task("slow")
        await until(lambda: worker.servers[0].in_flight)
        await worker.stopService()
        assert len(cancelled) == 1
        async with GearmanWorker([address]) as another:
            another.register_function("slow", lambda job: b"by another")
            result = await outcome(answer)
    assert type(result) is TaskFailed if kind == "geard" else result == b"by another"


def test_each_stop_gives_the_jobs_of_its_time_the_whole_drain_timeout() -> None:
    """Also where a job of an earlier stop is still running."""
    server = MemoryJobServer()
    client = server.client()
    worker = server.worker(drain_timeout=10.0)
    worker.register_function("work", lambda job: deferLater(server.clock, float(job.workload), lambda: job.workload))
    hopeless = client.add_task("work", b"100")
    server.advance(1.0)
    worker.stopService()
    worker.startService()
    server.advance(8.0)
    answer = client.add_task("work", b"5")
    server.advance(0.5)
    stopped = worker.stopService()
    server.advance(8.0)
    assert server.result_of(answer) == b"5"
    assert server.result_of(stopped) is None
    hopeless.cancel()
    hopeless.addErrback(lambda _: None)
    assert server.result_of(server.close()) is None


# Several servers, and servers that fail.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_was_restarted_gets_its_worker_back(
    gearmand: Gearmand, second_gearmand: Gearmand, number: signal.Signals
) -> None:
    """With id and functions, at the next attempt to connect; meanwhile the other server is served."""
    worker = GearmanWorker([gearmand.address, second_gearmand.address], prefix="p", client_id="phoenix")
    worker.register_function("reverse", lambda job: job.workload[::-1])
    worker.register_function("timed", lambda job: b"in time", timeout=5.0)
    worker.register_function("single", lambda job: b"alone", max_jobs=1)
    expected = [{"p\treverse", "p\ttimed"}, {"p\tsingle"}]
    rows = [{name for part in row for name in part.split()} for row in expected]
    addresses = [gearmand.address, second_gearmand.address]
    async with worker, GearmanClient(addresses[:1], prefix="p") as one, GearmanClient(addresses[1:], prefix="p") as two:
        await until(lambda: rows_of(gearmand, "phoenix") == rows_of(second_gearmand, "phoenix") == rows)
        assert await gatherResults([one.add_task("single"), two.add_task("single")]) == [b"alone"] * 2
        second_gearmand.stop(number)
        await until(lambda: worker.servers[1].state is ServerState.WAITING)
        assert await one.add_task("reverse", b"abc") == b"cba"
        second_gearmand.start()
        start = time.monotonic()
        await until(lambda: rows_of(second_gearmand, "phoenix") == rows)
        assert time.monotonic() - start < 5.0  # the first delays are up to 2, 1 and 2 seconds
        await until(lambda: two.servers[0].state is ServerState.READY)
        answers = [two.add_task(name, b"abc") for name in ("reverse", "timed", "single")]
        assert await gatherResults(answers) == [b"cba", b"in time", b"alone"]


async def test_max_jobs_is_for_all_servers_together_and_no_job_waits_in_the_worker(
    gearmand: Gearmand, second_gearmand: Gearmand
) -> None:
    """Whatever the servers call running runs, and never more than five."""
    servers = [gearmand, second_gearmand]
    gates: list[Deferred[bytes]] = []

    def slow(job: Job) -> Deferred[bytes]:
        gates.append(Deferred())
        assert len(gates) <= 5
        return gates[-1]

    worker = GearmanWorker([server.address for server in servers], max_jobs=5)
    worker.register_function("slow", slow)
    choice = random.Random(4)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker)
        clients = [await stack.enter_async_context(GearmanClient([server.address])) for server in servers]
        answers = [client.add_task("slow") for client in clients for _ in range(50)]
        left = len(answers)
        while left:
            await until(lambda: sum(map(running, servers)) == len(gates) == min(5, left))  # noqa: B023  # it is called in this turn of the loop
            for _ in range(3):  # nothing is under way that would change it
                await later(None)
                assert sum(map(running, servers)) == len(gates)
            for _ in range(choice.randint(1, len(gates))):
                left -= 1
                gates.pop(choice.randrange(len(gates))).callback(b"done")
        assert await gatherResults(answers) == [b"done"] * 100


async def test_the_servers_timer_ends_with_its_job(
    gearmand: Gearmand, second_gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gearmand keeps it till the worker waits for another job there; it then counts one job less than none."""
    monkeypatch.setattr(groups, "TIMEOUT_MARGIN", 0.1)
    slow: list[Deferred[bytes]] = []

    def wait(job: Job) -> Deferred[bytes]:
        slow.append(Deferred())
        return slow[-1]

    worker = GearmanWorker([gearmand.address, second_gearmand.address], max_jobs=2)
    worker.register_function("slow", wait)
    worker.register_function("quick", lambda job: deferLater(reactor, 0.3, lambda: b"q"), timeout=0.9)
    async with worker, GearmanClient([gearmand.address]) as client, GearmanClient([second_gearmand.address]) as other:
        await until(lambda: all(info.state is ServerState.READY for info in worker.servers))
        first = client.add_task("slow")
        await until(lambda: len(slow) == 1)
        quick = client.add_task("quick")
        await until(lambda: running(gearmand) == 2)
        elsewhere = other.add_task("slow")  # gets the slot that is free next
        assert await quick == b"q"
        await until(lambda: len(slow) == 2)
        await deferLater(reactor, 2.5)  # the time that gearmand waits has long passed
        assert gearmand.admin("status")[:2] == ["quick\t0\t0\t1", "slow\t1\t1\t1"]
        for deferred in slow:
            deferred.callback(b"s")
        assert await gatherResults([first, elsewhere]) == [b"s", b"s"]
    assert len(slow) == 2


async def test_a_job_for_a_time_runs_although_nobody_is_woken_for_it(gearmand: Gearmand) -> None:
    """H7. It comes at the first safety poll after its time, which is a whole second."""
    begun: list[float] = []
    worker = GearmanWorker([gearmand.address], poll_interval=1.0)
    worker.register_function("work", lambda job: begun.append(time.time()))
    async with worker, GearmanClient([gearmand.address]) as client:
        await client.echo()
        await until(lambda: worker.servers[0].state is ServerState.READY)
        at = int(time.time()) + 2
        await client.add_task_bg("work", at=at)
        await until(lambda: begun)
    assert at <= begun[0] < at + 1.5


# Processes that are stopped by a signal.


class Fleet:
    """Workers in processes of their own."""

    def __init__(self, server: Gearmand, journal: Path, count: int) -> None:
        journal.touch()
        self._server = server
        self._command = [sys.executable, "-m", "tests.worker_process", str(journal), "0.02", server.address]
        self.processes = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    async def restart(self, place: int) -> None:
        """Stop one that is at work, as a service manager does, and start it anew."""
        process = self.processes[place]
        await until(lambda: rows_of(self._server, f"process-{process.pid}"))
        process.terminate()
        await until(lambda: process.poll() is not None)
        assert process.stderr is not None
        with process.stderr as said:
            assert (process.returncode, said.read()) == (0, b"")
        self.processes[place] = self._start()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


@pytest.mark.soak
async def test_workers_that_are_restarted_under_load_lose_no_job_and_do_none_twice(
    gearmand: Gearmand, tmp_path: Path
) -> None:
    """Three processes, each restarted twice by SIGTERM while 1000 jobs are done."""
    journal = tmp_path / "journal"
    fleet = Fleet(gearmand, journal, 3)
    results: Counter[bytes] = Counter()
    loads = [b"%d" % number for number in range(1000)]
    try:
        async with GearmanClient([gearmand.address]) as client:
            answers = [client.add_task("square", load, on_complete=lambda _, r: results.update([r])) for load in loads]
            for turn in range(6):
                await until(lambda: results.total() > 100 * turn)  # noqa: B023  # it is called in this turn of the loop
                await fleet.restart(turn % 3)
                assert results.total() < 1000, "there was no load"
            assert await gatherResults(answers) == [b"%d" % int(load) ** 2 for load in loads]
    finally:
        fleet.close()
    assert results == Counter(b"%d" % int(load) ** 2 for load in loads)
    assert Counter(journal.read_bytes().split()) == Counter(loads)


# Clients of others.


@pytest.fixture(scope="module")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client on libgearman."""
    return compiled("client", tmp_path_factory.mktemp("c"))


async def ran(*command: str | Path) -> tuple[int, bytes, bytes]:
    """Run a program; its exit code, what it printed, and what it complained of."""
    done = await deferToThread(
        subprocess.run, [*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE
    )
    return done.returncode, done.stdout, done.stderr


@pytest_twisted.async_yield_fixture(  # type: ignore[untyped-decorator]  # it says nothing of its types
    params=["gearmand", "memory"]
)
async def port(request: pytest.FixtureRequest, shared_gearmand: Gearmand) -> AsyncIterator[str]:
    """The port of a server with a worker for others' clients."""
    memory = MemoryJobServer(reactor) if request.param == "memory" else None
    address = memory.listen() if memory else shared_gearmand.address
    worker = GearmanWorker([address])
    worker.register_function("reverse", lambda job: job.workload[::-1])
    worker.register_function("speak", speaks_to_c)
    worker.register_function("bad", raises)
    worker.register_function("refuse", refuses)
    worker.register_function("thread", lambda job: job.workload, threaded=True)
    worker.register_function("reduced", lambda job: b"|".join([job.unique, job.reducer, job.workload]))
    with_prefix = GearmanWorker([address], prefix="space")
    with_prefix.register_function("reverse", lambda job: b"space " + job.workload[::-1])
    async with worker, with_prefix:
        yield address.rpartition(":")[2]
    if memory is not None:
        await memory.close()


def speaks_to_c(job: Job) -> Generator[bytes, None, bytes]:
    job.send_status(1, 3)
    yield b"some"
    job.send_warning(b"hot")
    yield b""
    job.send_status(3, 3)
    return b"done"  # the result of the job


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("reverse", (0, b"cba", b"")),
        ("thread", (0, b"abc", b"")),
        ("speak", (0, b"somedone33% Complete\n100% Complete\n", b"hot")),
        ("refuse", (1, b"", b"Job failed\n")),
    ],
)
async def test_jobs_of_the_command_gearman(port: str, function: str, expected: tuple[int, bytes, bytes]) -> None:
    assert await ran(require_program("gearman"), "-h", "127.0.0.1", "-p", port, "-f", function, "abc") == expected


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["do", "normal", "reverse", "u", "abc"], "GEARMAN_SUCCESS [cba]"),
        (["do", "high", "thread", "u", "abc"], "GEARMAN_SUCCESS [abc]"),
        (["do", "low", "speak", "u", "abc"], "GEARMAN_SUCCESS [somedone]"),
        (["do", "normal", "refuse", "u", "abc"], "GEARMAN_WORK_FAIL []"),
        (["-n", "space\t", "do", "normal", "reverse", "u", "abc"], "GEARMAN_SUCCESS [space cba]"),
        (["partition", "normal", "reduced", "red", "key", "abc"], "result [key|red|abc]"),
    ],
)
async def test_jobs_of_libgearman(port: str, c_client: Path, arguments: list[str], out: str) -> None:
    code, said, complaint = await ran(c_client, port, *arguments)
    assert (code, complaint) == (0, b"")
    assert out in said.decode().splitlines()


async def test_an_exception_reaches_libgearman(port: str, c_client: Path, logged_failures: Failures) -> None:
    """If it has asked for exceptions. (If not, gearmand's WORK_FAIL has a NUL, and it waits on: M1.)"""
    assert await ran(c_client, port, "-e", "do", "normal", "bad", "u", "abc") == (
        0,
        b"GEARMAN_WORK_EXCEPTION []\n",
        b"",
    )
    assert len(logged_failures.flush(ValueError)) == 1


async def test_tasks_of_libgearman(port: str, c_client: Path, logged_failures: Failures) -> None:
    """Several at once: what its callbacks are told."""
    tasks = ["normal speak s x", "high bad b x", "low refuse r x", "normal reverse v abc", "background reverse w x"]
    _, said, _ = await ran(c_client, port, "-e", "tasks", *" ".join(tasks).split())
    lines = [line for line in said.decode().splitlines() if " created " not in line]
    told = {unique: [line[2:] for line in lines if line.startswith(f"{unique} ")] for unique in "sbrv"}
    assert told == {
        "s": [
            "status known 1 running 0 1/3",
            "data [some]",
            "warning [hot]",
            "data []",
            "status known 1 running 1 3/3",
            "complete [done]",
        ],
        "b": ["exception [ValueError: whý]"],
        "r": ["fail"],
        "v": ["complete [cba]"],
    }
    assert lines[-1] == "GEARMAN_SUCCESS"
    assert len(logged_failures.flush(ValueError)) == 1


# The server in perl.


class PerlProtocol(JobServerProtocol):
    """What perl's server does differently to a worker, as it was seen of Gearman::Server 1.130.1."""

    UNKNOWN: Final = (GRAB_JOB_UNIQ, GRAB_JOB_ALL)

    def _packet_received(self, packet_type: PacketType, arguments: list[bytes]) -> None:
        if packet_type in self.UNKNOWN:
            self.send(ERROR.response(b"server_error", b""))
        elif packet_type is WORK_EXCEPTION:  # it is relayed, and is not the end
            job = self._core.jobs.by_handle(arguments[0])
            assert job is not None
            for listener in job.listeners:
                listener.send(WORK_EXCEPTION.response(*arguments))
        else:
            super()._packet_received(packet_type, arguments)


class PerlJobServer(MemoryJobServer):
    def buildProtocol(self, addr: IAddress | None) -> JobServerProtocol | None:
        return PerlProtocol(self.clock, self._core, self._faults, b"127.0.0.1")


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it says nothing of its types
async def perl_server() -> AsyncIterator[PerlJobServer]:
    server = PerlJobServer(reactor)
    yield server
    await server.close()


async def test_a_worker_with_the_server_in_perl(perl_server: PerlJobServer, logged_failures: Failures) -> None:
    """It knows neither GRAB_JOB_UNIQ nor GRAB_JOB_ALL; after an exception the job has to be failed (H13)."""
    address = perl_server.listen()
    worker = GearmanWorker([address], drain_timeout=1.0)
    worker.register_function("reverse", lambda job: job.workload[::-1])
    worker.register_function("bad", raises)
    async with worker, GearmanClient([address]) as client:
        assert await client.add_task("reverse", b"abc", unique="u").addTimeout(2.0, reactor) == b"cba"
        assert (await outcome(client.add_task("bad"))).data == WHY
        assert await client.add_task("reverse", b"abc") == b"cba"
        assert sorted(perl_server.command("status").splitlines()) == [".", "bad\t0\t0\t1", "reverse\t0\t0\t1"]
    assert len(logged_failures.flush(ValueError)) == 1
