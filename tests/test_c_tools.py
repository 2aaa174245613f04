"""Software that is not ours works with `MemoryJobServer` on TCP: the programs of gearman-tools, and libgearman.

Each scenario is played against gearmand and against `MemoryJobServer`. Whatever the programs print and exit with must
be the same; what it is, the tests say too.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

import pytest

from txgearman.packets import (
    CAN_DO,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    JOB_ASSIGN,
    SET_CLIENT_ID,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_FAIL,
    WORK_STATUS,
    Packet,
)

from .contract.harness import MemoryServers, SocketPeer
from .daemons import Gearmand
from .programs import is_version, require, require_program

pytestmark = pytest.mark.daemon("gearmand")

PATIENCE: Final = 10.0
"""Seconds that a program may take."""

SOURCES: Final = Path(__file__).parent / "c"
MANY: Final = 300_000
"""Bytes: more than fit in anybody's buffer."""

T = TypeVar("T")


# Running programs.


def compiled(name: str, where: Path) -> Path:
    """Compile one of the C programs beside this test."""
    require("libgearman")
    source, output = SOURCES / f"{name}.c", where / name
    command = ["cc", "-std=gnu11", "-o", str(output), str(source), "-lgearman"]
    ran = subprocess.run(command, capture_output=True, timeout=60, text=True, check=False)
    if ran.returncode:
        pytest.fail(f"{source.name} does not compile\n{ran.stderr}")
    return output


def libgearman_version() -> str:
    """Return the version of libgearman that programs are compiled with."""
    source = "#include <libgearman/gearman.h>\nLIBGEARMAN_VERSION_STRING\n"
    ran = subprocess.run(["cc", "-E", "-P", "-"], input=source, capture_output=True, check=True, text=True)
    return ran.stdout.split()[-1].strip('"')


class Ran(NamedTuple):
    """A program that has ended: how, and what it said."""

    code: int
    out: bytes
    err: bytes


CHANGING: Final = (
    (rb"pid\(\d+\)", b"pid(PID)"),
    (rb"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", b"UUID"),
)
"""What is never the same twice."""


def normal(text: bytes) -> bytes:
    for pattern, replacement in CHANGING:
        text = re.sub(pattern, replacement, text)
    return text


class Running:
    """A program that was started. It has its input, if that is short."""

    def __init__(self, command: list[str], data: bytes = b"") -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._data = data

    def end(self) -> Ran:
        """Give it the rest of its input, and wait until it ends."""
        out, err = self.process.communicate(self._data, timeout=PATIENCE)
        return Ran(self.process.returncode, normal(out), normal(err))

    def step(self) -> None:
        """Give it a line."""
        assert self.process.stdin
        self.process.stdin.write(b"\n")

    def line(self) -> bytes:
        """The next line that it says."""
        assert self.process.stdout
        return self.process.stdout.readline()

    def close(self) -> None:
        """End it, however it is."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate(timeout=PATIENCE)


class Place:
    """A job server, and the programs and connections that use it."""

    def __init__(self, kind: str, port: int) -> None:
        self.kind = kind
        self.port = port
        self._started: list[Running] = []
        self._peers: list[SocketPeer] = []
        self._watcher: SocketPeer | None = None

    def start(self, tool: str | Path, *arguments: str, data: bytes = b"") -> Running:
        """Start gearman, gearadmin, or a program of ours that takes the port as its first argument."""
        if isinstance(tool, Path):
            command = [str(tool), str(self.port)]
        else:
            command = [require_program(tool), "-h", "127.0.0.1", "-p", str(self.port)]
        self._started.append(Running([*command, *arguments], data))
        return self._started[-1]

    def run(self, tool: str | Path, *arguments: str, data: bytes = b"") -> Ran:
        """Run it to its end."""
        return self.start(tool, *arguments, data=data).end()

    def rows(self, option: str) -> list[bytes]:
        """What gearadmin prints, sorted, as its order tells nothing; the last line stays the last."""
        ran = self.run("gearadmin", option)
        assert (ran.code, ran.err) == (0, b"")
        *lines, last = ran.out.splitlines()
        return [*sorted(lines), last]

    def peer(self) -> SocketPeer:
        """A raw connection."""
        self._peers.append(SocketPeer(self.port))
        return self._peers[-1]

    def until(self, table: bytes, condition: Callable[[list[bytes]], bool]) -> None:
        """Wait until a table of the server's is so. Who watches it is among the server's connections from then on."""
        end = time.monotonic() + PATIENCE
        watcher = self._watcher = self._watcher or self.peer()
        while not condition(lines := watcher.table(table)):
            assert time.monotonic() < end, f"it did not come to pass; {table!r} is {lines}"

    def until_jobs(self, count: int) -> None:
        """Wait until the server has that many jobs."""
        self.until(b"show jobs", lambda lines: len(lines) == count)

    def close(self) -> None:
        for running in self._started:
            running.close()
        for peer in self._peers:
            peer.close()


class OnEach(Protocol):
    def __call__(self, scenario: Callable[[Place], T]) -> T:
        """Play it with each job server, require the same outcome, and return that."""


@pytest.fixture(scope="module")
def memory_servers() -> Iterator[MemoryServers]:
    servers = MemoryServers()
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client on libgearman."""
    return compiled("client", tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A worker on libgearman."""
    return compiled("worker", tmp_path_factory.mktemp("c"))


def played(scenario: Callable[[Place], T], place: Place) -> T:
    try:
        return scenario(place)
    except Exception as error:
        raise AssertionError(f"with {place.kind}: {error}") from error
    finally:
        place.close()


@pytest.fixture
def on_each(memory_servers: MemoryServers) -> Iterator[OnEach]:
    with Gearmand("--job-handle-prefix=H:memory") as gearmand, ThreadPoolExecutor(2) as pool:

        def play(scenario: Callable[[Place], T]) -> T:
            memory = memory_servers.start("--job-handle-prefix=H:memory")
            places = [Place("gearmand", gearmand.port), Place("MemoryJobServer", memory)]
            outcomes: list[T] = list(pool.map(played, [scenario, scenario], places))
            expected, found = outcomes
            assert found == expected, "MemoryJobServer (left) differs from gearmand (right)"
            return expected

        yield play


# gearman -f and gearman -w.


def start_upper(place: Place, count: int = 1) -> Running:
    """Start a gearman -w that makes letters large, for so many jobs."""
    return place.start("gearman", "-w", "-f", "up", "-c", str(count), "--", "tr", "a-z", "A-Z")


LINES: Final = b"one\ntwo\n"


@pytest.mark.parametrize(
    ("arguments", "data", "count", "out"),
    [
        pytest.param([], LINES, 1, b"ONE\nTWO\n", id="standard input is one job"),
        pytest.param(["x", "y", "z"], b"", 3, b"XYZ", id="each argument is a job"),
        pytest.param(["-n"], LINES, 2, b"ONE\nTWO\n", id="-n"),
        pytest.param(["-N"], LINES, 2, b"ONETWO", id="-N"),
        pytest.param(["-P"], LINES, 1, b"up: ONE\nTWO\n", id="-P"),
        pytest.param(["-P", "-n"], LINES, 2, b"up: ONE\nup: TWO\n", id="-P -n"),
        pytest.param(["-P", "-N"], LINES, 2, b"up: ONEup: TWO", id="-P -N"),
        pytest.param(["-I", "x"], b"", 1, b"X", id="-I"),
        pytest.param(["-L", "x"], b"", 1, b"X", id="-L"),
        pytest.param(["-u", "key", "x"], b"", 1, b"X", id="-u"),
        pytest.param(["-u", "-", "x"], b"", 1, b"X", id="-u -"),
        pytest.param(["-t", "9000", "x"], b"", 1, b"X", id="-t"),
        pytest.param(["-h", "localhost", "x"], b"", 1, b"X", id="-h localhost"),
    ],
)
def test_what_gearman_gets_for_its_jobs(
    on_each: OnEach, arguments: list[str], data: bytes, count: int, out: bytes
) -> None:
    """In the foreground, with each option."""

    def scenario(place: Place) -> tuple[Ran, Ran]:
        worker = start_upper(place, count)
        return place.run("gearman", "-f", "up", *arguments, data=data), worker.end()

    assert on_each(scenario) == ((0, out, b""), (0, b"", b""))


def test_gearman_without_input_sends_an_empty_job(on_each: OnEach) -> None:
    """-s does not read standard input."""

    def scenario(place: Place) -> Ran:
        place.start("gearman", "-w", "-f", "count", "-c", "1", "--", "wc", "-c")
        return place.run("gearman", "-s", "-f", "count", data=LINES)

    assert on_each(scenario) == (0, b"0\n", b"")


def test_gearman_tells_its_job_handles(on_each: OnEach) -> None:
    """-v names each task's handle, foreground and background, and the coalesced ones twice."""

    def scenario(place: Place) -> tuple[bytes, bytes, Ran]:
        background = place.run("gearman", "-v", "-b", "-u", "key", "-f", "up", "x")
        joined = place.run("gearman", "-v", "-b", "-u", "key", "-f", "up", "y")
        start_upper(place, 2)
        return background.out + background.err, joined.out + joined.err, place.run("gearman", "-v", "-f", "up", "z")

    first, joined, (code, out, err) = on_each(scenario)
    assert first == joined == b"Task created: H:memory:1\n"
    assert (code, sorted(out + err)) == (0, sorted(b"Task created: H:memory:2\nZ"))


def test_gearman_with_several_functions(on_each: OnEach) -> None:
    """Each job goes to every -f, and one worker does them all."""

    def scenario(place: Place) -> tuple[list[bytes], Ran]:
        worker = place.start("gearman", "-w", "-f", "f", "-f", "g", "-c", "4", "--", "cat")
        ran = place.run("gearman", "-P", "-n", "-f", "f", "-f", "g", data=LINES)
        return sorted(ran.out.splitlines()), worker.end()

    assert on_each(scenario) == ([b"f: one", b"f: two", b"g: one", b"g: two"], (0, b"", b""))


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [1, 60_000])
def test_gearman_gets_back_all_bytes(on_each: OnEach, size: int) -> None:
    """Whatever they are. (gearman's worker hangs when its command is given more than a pipe holds.)"""
    data = bytes(range(256)) * (size // 256) + b"\0\xff\n"

    def scenario(place: Place) -> Ran:
        place.start("gearman", "-w", "-f", "same", "-c", "1", "--", "cat")
        return place.run("gearman", "-f", "same", data=data)

    assert on_each(scenario) == (0, data, b"")


@pytest.mark.guarantee(number=15)
def test_many_bytes_each_way(on_each: OnEach) -> None:
    def scenario(place: Place) -> tuple[Ran, Ran]:
        place.start("gearman", "-w", "-f", "up", "-c", "1", "--", "wc", "-c")
        place.start("gearman", "-w", "-f", "down", "-c", "1", "--", "head", "-c", str(MANY), "/dev/zero")
        down = place.start("gearman", "-f", "down", "x")
        return place.run("gearman", "-f", "up", data=bytes(MANY)), down.end()

    assert on_each(scenario) == ((0, b"%d\n" % MANY, b""), (0, bytes(MANY), b""))


BACKGROUND: Final = [
    pytest.param([["x"], ["y"]], b"0\t2\t0", [b"UUID", b"UUID"], b"xy", id="normal"),
    pytest.param([["-L", "x"], ["y"], ["-I", "z"]], b"1\t1\t1", [b"UUID"] * 3, b"zyx", id="-I, -L"),
    pytest.param([["-u", "k", "x"], ["-u", "k", "y"]], b"0\t1\t0", [b"k"], b"x", id="-u coalesces"),
    pytest.param([["-u", "-", "x"], ["-u", "-", "x"]], b"0\t1\t0", [b"-"], b"x", id="-u - coalesces"),
    pytest.param([["-u", "-", "x"], ["-u", "-", "y"]], b"0\t2\t0", [b"-", b"-"], b"xy", id="-u - of others"),
    pytest.param([["x", "y", "z"]], b"0\t3\t0", [b"UUID"] * 3, None, id="several arguments"),
    pytest.param([["-n"]], b"0\t2\t0", [b"UUID"] * 2, None, id="-n"),
    pytest.param([["-N"]], b"0\t2\t0", [b"UUID"] * 2, None, id="-N"),
    pytest.param([["-s"]], b"0\t1\t0", [b"UUID"], b"", id="-s"),
]


@pytest.mark.parametrize(("calls", "queues", "uniques", "out"), BACKGROUND)
def test_what_gearman_queues(
    on_each: OnEach, calls: list[list[str]], queues: bytes, uniques: list[bytes], out: bytes | None
) -> None:
    """-b leaves jobs with the server, which a worker without a command prints in the order in which it gets them."""
    count = sum(map(int, queues.split()))

    def scenario(place: Place) -> tuple[list[Ran], list[bytes], list[bytes], Ran]:
        submitted = [place.run("gearman", "-b", "-f", "later", *call, data=LINES) for call in calls]
        tables = place.rows("--priority-status"), place.rows("--show-unique-jobs")
        return submitted, *tables, place.run("gearman", "-w", "-f", "later", "-c", str(count))

    submitted, queued, queued_uniques, worked = on_each(scenario)
    assert submitted == [(0, b"", b"")] * len(calls)
    assert queued == [b"later\t" + queues + b"\t0", b"."]
    assert queued_uniques == [*uniques, b"."]
    assert worked == (0, worked.out if out is None else out, b"")


def test_gearman_waits_in_the_order_of_priorities(on_each: OnEach) -> None:
    """-I and -L in the foreground, with a job of each before the worker comes."""

    def scenario(place: Place) -> tuple[Ran, list[Ran]]:
        waiting = []
        for arguments in ("-L", "low "), ("normal ",), ("-I", "high "):
            waiting.append(place.start("gearman", "-f", "f", *arguments))
            place.until_jobs(len(waiting))
        return place.run("gearman", "-w", "-f", "f", "-c", "3"), [running.end() for running in waiting]

    assert on_each(scenario) == ((0, b"high normal low ", b""), [(0, b"", b"")] * 3)


def until_shared(place: Place, unique: bytes) -> None:
    """Wait until two clients wait for the job with this unique."""
    end = time.monotonic() + PATIENCE
    peer = place.peer()
    while peer.ask(GET_STATUS_UNIQUE.request(unique))[1][-1] != b"2":
        assert time.monotonic() < end, "the second has not come"


@pytest.mark.guarantee(number=4)
def test_gearman_clients_share_a_job(on_each: OnEach) -> None:
    """Two with the same -u get the result of the first's job."""

    def scenario(place: Place) -> tuple[list[Ran], list[bytes]]:
        first = place.start("gearman", "-f", "up", "-u", "key", "x")
        place.until_jobs(1)
        second = place.start("gearman", "-f", "up", "-u", "key", "other")
        until_shared(place, b"key")
        worker = place.peer()
        worker.send(CAN_DO.request(b"up"))
        _, (handle, _, workload) = worker.ask(GRAB_JOB.request())
        worker.send(WORK_COMPLETE.request(handle, workload.upper()))
        return [first.end(), second.end()], place.rows("--show-jobs")

    assert on_each(scenario) == ([(0, b"X", b"")] * 2, [b"."])


def test_gearman_gives_up_and_its_job_is_dropped(on_each: OnEach) -> None:
    """-t ends a client; its job stays in the list, marked, and no worker gets it."""

    def scenario(place: Place) -> tuple[bytes, list[bytes], Ran, list[bytes]]:
        gave_up = place.run("gearman", "-t", "100", "-f", "up", "x")
        place.until(b"show jobs", lambda lines: lines == [b"H:memory:1\t0\t1\t0"])
        left = place.rows("--status")
        place.run("gearman", "-b", "-f", "up", "y")
        worked = place.run("gearman", "-w", "-f", "up", "-c", "1")
        place.until_jobs(0)
        return gave_up.err, left, worked, place.rows("--show-jobs")

    complaint, *rest = on_each(scenario)
    assert b"timeout reached" in complaint
    assert rest == [[b"up\t1\t0\t0", b"."], (0, b"y", b""), [b"."]]


@pytest.mark.parametrize("option", ["-n", "-N"])
def test_gearman_worker_sends_data_for_each_line(on_each: OnEach, option: str) -> None:
    """As a client sees it."""

    def scenario(place: Place) -> list[Packet]:
        peer = place.peer()
        peer.submit(SUBMIT_JOB.request(b"lines", b"", b"a\nb\n"))
        place.run("gearman", "-w", "-f", "lines", option, "-c", "1", "--", "cat")
        place.until_jobs(0)  # the worker has gone; what it said last may still be on its way
        return peer.so_far()

    packets = on_each(scenario)
    assert [packet_type for packet_type, _ in packets] == [WORK_DATA, WORK_DATA, WORK_COMPLETE]
    assert packets[0] == (WORK_DATA, [b"H:memory:1", b"a\n" if option == "-n" else b"a"])


def test_gearman_worker_whose_command_fails(on_each: OnEach) -> None:
    """Its output comes as data; then the job fails."""

    def scenario(place: Place) -> Ran:
        place.start("gearman", "-w", "-f", "f", "-c", "1", "--", "sh", "-c", "cat; exit 3")
        return place.run("gearman", "-f", "f", "x")

    assert on_each(scenario) == (1, b"x", b"Job failed\n")


def test_gearman_worker_that_dies_leaves_its_job_to_another(on_each: OnEach) -> None:
    """Its own command kills it."""

    def scenario(place: Place) -> tuple[int, Ran, Ran]:
        client = place.start("gearman", "-v", "-f", "up", "x")
        dead = place.run("gearman", "-w", "-f", "up", "--", "sh", "-c", "kill -9 $PPID")
        place.until(b"show jobs", lambda lines: lines == [b"H:memory:1\t1\t0\t0"])
        another = start_upper(place).end()
        return dead.code, another, client.end()

    code, another, (client_code, out, err) = on_each(scenario)
    assert (code, another, client_code) == (-9, (0, b"", b""), 0)
    assert sorted(out + err) == sorted(b"Task created: H:memory:1\nX")


def test_gearman_worker_that_has_waited_still_works(on_each: OnEach) -> None:
    """With -t it asks for a job again and again, without being told of one."""

    def scenario(place: Place) -> tuple[bool, Ran]:
        worker = place.start("gearman", "-w", "-t", "50", "-f", "f", "--", "cat")
        assert worker.process.stderr
        waited = [b"timeout reached" in worker.process.stderr.readline() for _ in range(2)]
        return all(waited), place.run("gearman", "-f", "f", "x")

    assert on_each(scenario) == (True, (0, b"x", b""))


def test_gearman_has_no_options_that_are_untested() -> None:
    """The others are help, a pid file, and TLS, which Debian's is built without."""
    ran = subprocess.run([require_program("gearman"), "-H"], capture_output=True, timeout=PATIENCE, check=False)
    options = re.findall(rb"^\t-(\w)", ran.stdout + ran.stderr, re.MULTILINE)
    assert set(b"".join(options).decode()) == set("bcfhILnNpPstuvw") | set("HiS")


# gearadmin.


def busy(place: Place) -> SocketPeer:
    """Jobs of every sort; return the connection of the client that is left.

    1 runs, 2 to 4 wait for a worker, 5 for its time, 6 has been with a worker that died, 7's client is gone.
    """
    client, worker, gone, dead = (place.peer() for _ in range(4))
    client.submit(SUBMIT_JOB_BG.request(b"f", b"runs", b""))
    worker.send(SET_CLIENT_ID.request(b"worker one"), CAN_DO.request(b"f"), CAN_DO.request(b"idle"))
    assert worker.ask(GRAB_JOB.request())[0] is JOB_ASSIGN
    client.submit(SUBMIT_JOB_HIGH.request(b"f", b"shared", b""))
    client.submit(SUBMIT_JOB_BG.request(b"f", b"shared", b""))
    client.submit(SUBMIT_JOB_LOW_BG.request(b"f", b"", b""))
    client.submit(SUBMIT_JOB.request(b"g", b"-", b"work"))
    client.submit(SUBMIT_JOB_EPOCH.request(b"g", b"in time", b"%d" % (time.time() + 1000), b""))
    client.submit(SUBMIT_JOB_BG.request(b"again", b"twice", b""))
    gone.submit(SUBMIT_JOB.request(b"g", b"gone", b""))
    dead.send(CAN_DO.request(b"again"))
    assert dead.ask(GRAB_JOB.request())[0] is JOB_ASSIGN
    gone.close()
    dead.close()
    place.until(b"show jobs", lambda lines: {b"H:memory:7\t0\t1\t0"} < {*lines} and b"H:memory:6\t1" in b"".join(lines))
    place.until(b"workers", lambda lines: len(lines) == 3)  # who watches is one of them
    return client


LISTINGS: Final[dict[str, list[bytes]]] = {
    "--status": [b"again\t1\t0\t0", b"f\t3\t1\t1", b"g\t3\t0\t0", b"idle\t0\t0\t1", b"."],
    "--priority-status": [b"again\t0\t1\t0\t0", b"f\t1\t0\t1\t1", b"g\t0\t3\t0\t0", b"idle\t0\t0\t0\t1", b"."],
    "--workers": [*[b"N 127.0.0.1 - :"] * 3, b"N 127.0.0.1 worker one : idle f", b"."],
    "--show-jobs": [
        b"H:memory:1\t0\t0\t1",
        b"H:memory:2\t0\t0\t0",
        b"H:memory:3\t0\t0\t1",
        b"H:memory:4\t0\t0\t0",
        b"H:memory:5\t0\t0\t1",
        b"H:memory:6\t1\t0\t1",
        b"H:memory:7\t0\t1\t0",
        b".",
    ],
    "--show-unique-jobs": [b"", b"-", b"gone", b"in time", b"runs", b"shared", b"twice", b"."],
    "--getpid": [b"PID"],
    "--server-version": [b"VERSION"],
    "--server-verbose": [b"ERROR"],
}
"""What each option prints for `busy`. The first column of workers is a number of the server's own."""

OWN: Final[dict[str, tuple[bytes, bytes]]] = {
    "--workers": (rb"^\d+ ", b"N "),
    "--getpid": (rb"^\d+$", b"PID"),
    "--server-version": (rb"^\d+\.\d+[\w.+-]*$", b"VERSION"),
}
"""What each server says in its own way."""

CHANGES: Final = ("--create-function", "--drop-function", "--cancel-job")
NOT_COMMANDS: Final = ("--help", "--host", "--port", "--ssl")


@pytest.mark.parametrize("option", LISTINGS)
def test_what_gearadmin_prints(on_each: OnEach, option: str) -> None:
    """Of a server with jobs of every sort."""

    def scenario(place: Place) -> list[bytes]:
        busy(place)
        pattern, replacement = OWN.get(option, (b"^$", b""))
        *lines, last = [re.sub(pattern, replacement, line) for line in place.rows(option)]
        return [*sorted(lines), last]

    assert on_each(scenario) == LISTINGS[option]


@pytest.mark.parametrize("option", [option for option in LISTINGS if option not in OWN])
def test_what_gearadmin_prints_of_an_idle_server(on_each: OnEach, option: str) -> None:
    assert on_each(lambda place: place.rows(option)) == LISTINGS[option][-1:]


OK: Final = (b"OK\n", b"")
NO_FUNCTION: Final = (b"", b"Error: function not found\r\n")
IN_USE: Final = (b"", b"Error: there are still connected workers or executing clients\r\n")
NO_JOB: Final = (b"", b"Error: UNKNOWN_JOB\r\n")

AFTERMATH: Final = ("--status", "--show-jobs", "--show-unique-jobs")


@pytest.mark.parametrize(
    ("command", "said", "told", "difference"),
    [
        pytest.param(["--create-function", "new"], OK, [], [b"+new\t0\t0\t0"], id="create a function"),
        pytest.param(["--create-function", "f"], OK, [], [], id="create a function that is there"),
        pytest.param(["--create-function", "n"], OK, [], [b"+n\t0\t0\t0"], id="create a short one"),
        pytest.param(["--drop-function", "again"], OK, [], [b"-again\t1\t0\t0"], id="drop a function"),
        pytest.param(["--drop-function", "g"], OK, [], [b"-g\t3\t0\t0"], id="drop a function, with clients"),
        pytest.param(["--drop-function", "f"], IN_USE, [], [], id="drop a function at work"),
        pytest.param(["--drop-function", "idle"], IN_USE, [], [], id="drop a function with a worker"),
        pytest.param(["--drop-function", "nothing"], NO_FUNCTION, [], [], id="drop nothing"),
        pytest.param(
            ["--cancel-job", "H:memory:2"],
            OK,
            [(WORK_FAIL, [b"H:memory:2"])],
            [b"+H:memory:2\t0\t1\t0", b"-H:memory:2\t0\t0\t0"],
            id="cancel a job",
        ),
        pytest.param(
            ["--cancel-job", "H:memory:3"],
            OK,
            [],
            [b"+H:memory:3\t0\t1\t0", b"-H:memory:3\t0\t0\t1"],
            id="cancel a background job",
        ),
        pytest.param(
            ["--cancel-job", "H:memory:1"],
            OK,
            [],
            [b"+H:memory:1\t0\t1\t0", b"-H:memory:1\t0\t0\t1"],
            id="cancel a running job",
        ),
        pytest.param(["--cancel-job", "H:memory:99"], NO_JOB, [], [], id="cancel nothing"),
    ],
)
def test_what_gearadmin_changes(
    on_each: OnEach, command: list[str], said: tuple[bytes, bytes], told: list[Packet], difference: list[bytes]
) -> None:
    """What it says, what the client is told, and which lines of the server's tables come (+) and go (-)."""

    def tables(place: Place) -> set[bytes]:
        return {line for option in AFTERMATH for line in place.rows(option)}

    def scenario(place: Place) -> tuple[Ran, list[Packet], list[bytes]]:
        client = busy(place)
        before = tables(place)
        ran = place.run("gearadmin", *command)
        after = tables(place)
        changed = [b"+" + line for line in after - before] + [b"-" + line for line in before - after]
        return ran, client.so_far(), sorted(changed)

    assert on_each(scenario) == ((0, *said), told, difference)


def test_gearadmin_has_no_commands_that_are_untested() -> None:
    """A newer one may have more."""
    ran = subprocess.run([require_program("gearadmin"), "--help"], capture_output=True, timeout=PATIENCE, check=False)
    options = re.findall(r"--[\w-]+", (ran.stdout + ran.stderr).decode())
    assert {*options} == {*LISTINGS, *CHANGES, *NOT_COMMANDS}


def test_the_server_for_development_serves_the_tools() -> None:
    """``python -m txgearman.testing``, as its users start it."""
    server = Running([sys.executable, "-m", "txgearman.testing", "-p", "0"])
    try:
        said = server.line().decode()
        assert said.startswith("a job server on 127.0.0.1:")
        place = Place("MemoryJobServer", int(said.rpartition(":")[2]))
        start_upper(place)
        assert place.run("gearman", "-f", "up", "x") == (0, b"X", b"")
        assert place.run("gearadmin", "--getpid") == (0, b"%d\n" % server.process.pid, b"")
        place.close()
    finally:
        server.close()


# libgearman.


def lines(ran: Ran) -> list[str]:
    """What it said; it must have gone well."""
    assert (ran.code, ran.err) == (0, b"")
    return ran.out.decode().splitlines()


CHATTER: Final = [
    "u created H:memory:1",
    "u status known 1 running 0 1/3",
    "u data [some]",
    "u warning [hot]",
    "u data []",
    "u status known 1 running 1 3/3",
    "u complete [done]",
    "GEARMAN_SUCCESS",
]
"""What its callbacks are told of "chatter"; where "running" comes from, libgearman knows."""

TOLD: Final = "H:memory:1|tell|u|w"
"""What the worker is told of the job."""

DONE: Final = "GEARMAN_SUCCESS"


FOREGROUND: Final = [
    (["do", "normal", "tell", "u", "w"], [f"{DONE} [{TOLD}]"]),
    (["do", "high", "tell", "u", "w"], [f"{DONE} [{TOLD}]"]),
    (["do", "low", "tell", "u", "w"], [f"{DONE} [{TOLD}]"]),
    (["do", "normal", "tell", "", "w"], [f"{DONE} [H:memory:1|tell|UUID|w]"]),
    (["do", "normal", "upper", "u", "w"], [f"{DONE} [W]"]),
    (["do", "normal", "chatter", "u", "w"], [f"{DONE} [somedone]"]),
    (["do", "normal", "fail", "u", "w"], ["GEARMAN_WORK_FAIL []"]),
    (["do", "normal", "fail by return", "u", "w"], ["GEARMAN_WORK_FAIL []"]),
    (["-e", "do", "normal", "raise", "u", "w"], ["GEARMAN_WORK_EXCEPTION []"]),
    (["tasks", "normal", "upper", "u", "w"], ["u created H:memory:1", "u complete [W]", DONE]),
    (["tasks", "high", "upper", "u", "w"], ["u created H:memory:1", "u complete [W]", DONE]),
    (["tasks", "low", "upper", "u", "w"], ["u created H:memory:1", "u complete [W]", DONE]),
    (["tasks", "normal", "chatter", "u", "w"], CHATTER),
    (["tasks", "normal", "fail", "u", "w"], ["u created H:memory:1", "u fail", DONE]),
    (
        ["-e", "tasks", "normal", "raise", "u", "w"],
        ["u created H:memory:1", "u data [so far]", "u exception [broken]", DONE],
    ),
    (
        ["-e", "tasks", "normal", "raise and go on", "u", "w"],
        ["u created H:memory:1", "u exception [broken]", DONE],
    ),
    (["execute", "normal", "tell", "u", "w"], ["H:memory:1 known 0 running 0", f"result [{TOLD}]", DONE]),
    (["execute", "high", "fail", "u", "w"], ["H:memory:1 known 0 running 0", "GEARMAN_WORK_FAIL"]),
]
"""What the client is called with, and what it says then."""


@pytest.mark.parametrize(("arguments", "expected"), FOREGROUND, ids=[" ".join(call) for call, _ in FOREGROUND])
def test_libgearman_gets_what_its_worker_sends(
    on_each: OnEach, client: Path, worker: Path, arguments: list[str], expected: list[str]
) -> None:
    """In the foreground, through each of its interfaces."""

    def scenario(place: Place) -> tuple[list[str], Ran]:
        working = place.start(worker, "work", "1")
        return lines(place.run(client, *arguments)), working.end()

    found, (code, _, err) = on_each(scenario)
    assert (found, code, err) == (expected, 0, b"")


@pytest.mark.guarantee(number=5)
def test_libgearman_1_1_does_not_know_a_failure_with_a_nul(on_each: OnEach, client: Path, worker: Path) -> None:
    """Which is what comes of an exception that it did not ask for; it waits on (M1). libgearman 2.0 knows it."""

    def scenario(place: Place) -> list[str]:
        place.start(worker, "work", "1")
        place.until(b"status", lambda lines: b"raise\t0\t0\t1" in lines)
        return lines(place.run(client, "-t", "200", "do", "normal", "raise", "u", "w"))

    knows = is_version(libgearman_version(), "2.0")
    assert on_each(scenario) == ["GEARMAN_WORK_FAIL []" if knows else "GEARMAN_TIMEOUT []"]


def test_libgearman_namespaces(on_each: OnEach, client: Path, worker: Path) -> None:
    """They are in front of the function's name, on both sides."""

    def scenario(place: Place) -> tuple[list[str], Ran]:
        working = place.start(worker, "-n", "space ", "work", "1")
        return lines(place.run(client, "-n", "space ", "do", "normal", "tell", "u", "w")), working.end()

    found, _ = on_each(scenario)
    assert found == [f"{DONE} [H:memory:1|space tell|u|w]"]


@pytest.mark.parametrize(
    ("calls", "queues", "told"),
    [
        pytest.param(
            [[f"background {kind}", kind] for kind in ("low", "normal", "high")],
            b"1\t1\t1",
            ["3|tell|high", "2|tell|normal", "1|tell|low"],
            id="gearman_client_do_background",
        ),
        pytest.param(
            [[f"tasks {kind}", kind] for kind in ("low_background", "background", "high_background")],
            b"1\t1\t1",
            ["3|tell|high_background", "2|tell|background", "1|tell|low_background"],
            id="gearman_client_add_task_background",
        ),
        pytest.param(
            [["execute low background", "low"], ["execute background", "normal"], ["execute past", "past"]],
            b"0\t2\t1",
            ["2|tell|normal", "3|tell|past", "1|tell|low"],
            id="gearman_execute",
        ),
        pytest.param(
            [["background normal", "same"], ["tasks high_background", "same"], ["execute background", "same"]],
            b"0\t1\t0",
            ["1|tell|same"],
            id="coalesced",
        ),
    ],
)
def test_what_libgearman_queues(
    on_each: OnEach, client: Path, worker: Path, calls: list[list[str]], queues: bytes, told: list[str]
) -> None:
    """Through each of its interfaces; and then a worker gets them in the order of their priorities."""

    def scenario(place: Place) -> tuple[list[list[str]], list[bytes], list[str]]:
        submitted = []
        for call, unique in calls:
            command, _, kind = call.partition(" ")
            submitted.append(lines(place.run(client, command, kind, "tell", unique, "w")))
        queued = place.rows("--priority-status")
        return submitted, queued, lines(place.run(worker, "work", str(len(told))))

    submitted, queued, worked = on_each(scenario)
    assert all(said[-1] == DONE for said in submitted)
    assert queued == [b"tell\t" + queues + b"\t0", b"."]
    assert [line for line in worked if line != DONE] == [f"H:memory:{text}|w" for text in told]


def test_libgearman_queues_for_later(on_each: OnEach, client: Path, worker: Path) -> None:
    """A job with a time (EPOCH) is queued, and no worker gets it before."""

    def scenario(place: Place) -> tuple[list[str], list[bytes], list[str], list[bytes]]:
        said = lines(place.run(client, "execute", "future", "tell", "later", "w"))
        tables = place.rows("--show-jobs")
        place.run(client, "background", "normal", "tell", "now", "w")
        return said, tables, lines(place.run(worker, "work", "1")), place.rows("--show-unique-jobs")

    assert on_each(scenario) == (
        ["H:memory:1 known 1 running 0", DONE],
        [b"H:memory:1\t0\t0\t1", b"."],
        ["H:memory:2|tell|now|w", DONE],
        [b"later", b"."],
    )


def test_libgearman_runs_many_tasks_at_once(on_each: OnEach, client: Path, worker: Path) -> None:
    """On one connection, of each priority. (Two with one unique would hang it, whatever the server does.)"""
    kinds = ["normal a", "high b", "low c"]

    def scenario(place: Place) -> list[str]:
        tasks = [word for kind in kinds for word in (kind[:-2], "upper", kind[-1], f"work {kind[-1]}")]
        asked = place.start(client, "tasks", *tasks)
        place.until_jobs(3)
        working = place.start(worker, "work", "3")
        return sorted(re.sub(r":\d$", ":N", line) for line in lines(asked.end()) + lines(working.end()))

    found = on_each(scenario)
    assert [line for line in found if "complete" in line] == [
        "a complete [WORK A]",
        "b complete [WORK B]",
        "c complete [WORK C]",
    ]
    assert found.count(DONE) == 4


def test_libgearman_maps_and_reduces(on_each: OnEach, client: Path, worker: Path) -> None:
    """SUBMIT_REDUCE_JOB and GRAB_JOB_ALL: the worker splits the job into jobs of its own, and joins their results."""

    def scenario(place: Place) -> tuple[list[str], list[bytes]]:
        place.start(worker, "partition", "1")
        place.start(worker, "work", "2")
        said = lines(place.run(client, "partition", "normal", "split", "upper", "u", "aa bb"))
        return [said[0], "".join(sorted(said[1])), said[2]], place.rows("--show-jobs")

    assert on_each(scenario) == (
        ["H:memory:1 known 0 running 0", "".join(sorted("result [AA+BB+]")), DONE],
        [b"."],
    )


def test_libgearman_asks_for_the_status(on_each: OnEach, client: Path) -> None:
    """By handle and by unique; of a job that waits, one that runs, and one that nobody knows."""

    def scenario(place: Place) -> list[list[str]]:
        peer = place.peer()
        for unique in b"runs", b"waits":
            peer.submit(SUBMIT_JOB_BG.request(b"f", unique, b""))
        peer.send(CAN_DO.request(b"f"))
        peer.ask(GRAB_JOB.request())
        peer.send(WORK_STATUS.request(b"H:memory:1", b"3", b"8"))
        assert peer.so_far() == []
        questions = [("status", f"H:memory:{number}") for number in (1, 2, 3)]
        questions += [("unique_status", unique) for unique in ("runs", "waits", "nothing")]
        both = lines(place.run(client, "statuses", "H:memory:1", "waits"))
        return [*(lines(place.run(client, *question)) for question in questions), both]

    running, waiting, unknown = ("known 1 running 1 3/8", "known 1 running 0 0/0", "known 0 running 0 0/0")
    *answers, (first, second, done) = on_each(scenario)
    assert answers == [[state, DONE] for state in (running, waiting, unknown)] * 2
    assert {first.partition("status ")[2], second.partition("status ")[2]} == {running, waiting}
    assert done == DONE


QUESTIONS: Final = [
    (["echo", "hello"], [DONE]),
    (["option", "exceptions"], ["1 GEARMAN_UNKNOWN_STATE", DONE]),
    (["option", "nonsense"], ["0 GEARMAN_UNKNOWN_OPTION", DONE]),
    (["cancel", "H:memory:1"], ["GEARMAN_JOB_NOT_FOUND"]),
]
"""What the client is called with, and what it says then."""


@pytest.mark.parametrize(("arguments", "expected"), QUESTIONS, ids=[" ".join(call) for call, _ in QUESTIONS])
def test_libgearman_asks_the_server(on_each: OnEach, client: Path, arguments: list[str], expected: list[str]) -> None:
    """After a refusal, the connection still works."""
    assert on_each(lambda place: lines(place.run(client, *arguments))) == expected


def test_libgearman_worker_hears_its_echo(on_each: OnEach, worker: Path) -> None:
    assert on_each(lambda place: lines(place.run(worker, "echo", "hello"))) == [DONE]


@pytest.mark.parametrize(("more", "unique"), [([], "u"), (["without a unique"], "")])
def test_libgearman_worker_grabs_one_job(
    on_each: OnEach, client: Path, worker: Path, more: list[str], unique: str
) -> None:
    """By hand, with GRAB_JOB_UNIQ or GRAB_JOB."""

    def scenario(place: Place) -> tuple[list[str], list[str]]:
        asked = place.start(client, "tasks", "normal", "f", "u", "w")
        place.until_jobs(1)
        grabbed = lines(place.run(worker, "grab", "f", *more))
        return grabbed, lines(asked.end())

    assert on_each(scenario) == (
        [f"H:memory:1|f|{unique}|w", DONE, DONE],
        ["u created H:memory:1", "u status known 1 running 0 1/2", "u complete [grabbed]", DONE],
    )


def test_libgearman_worker_tells_its_abilities(on_each: OnEach, worker: Path) -> None:
    """With its name: CAN_DO and CAN_DO_TIMEOUT, then CANT_DO, then RESET_ABILITIES; by `workers`."""

    def scenario(place: Place) -> list[tuple[bytes, bytes, bytes]]:
        working = place.start(worker, "abilities")
        found, row = [], b""
        for _ in range(3):
            said = working.line(), working.line()
            row = changed_row(place, row)
            found.append((*said, row.partition(b" ")[2]))
            working.step()
        working.end()
        return found

    name = b"127.0.0.1 libgearman :"
    assert on_each(scenario) == [
        (b"GEARMAN_SUCCESS\n", b"GEARMAN_NO_JOBS\n", name + b" first second third"),
        (b"GEARMAN_SUCCESS\n", b"GEARMAN_NO_JOBS\n", name + b" first third"),
        (b"GEARMAN_SUCCESS\n", b"GEARMAN_NO_REGISTERED_FUNCTIONS\n", name),
    ]


def changed_row(place: Place, before: bytes) -> bytes:
    """Wait until the worker's row is another than before."""
    rows: list[bytes] = []

    def changed(lines: list[bytes]) -> bool:
        rows[:] = [line for line in lines if b"libgearman" in line]
        return rows not in ([], [before])

    place.until(b"workers", changed)
    return rows[0]
