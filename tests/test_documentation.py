"""What the pages in docs say is so: their pieces of code are run, against real job servers, and print what they say.

How the pages are built, with warnings as errors, is CI's to see.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import figures
import pictures
import pytest
import tables
from twisted.internet.defer import CancelledError

import txgearman
from txgearman import (
    ClientStopped,
    GearmanClient,
    NoServersAvailable,
    ResultInvalid,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.testing import MemoryJobServer

from .blocks import Pool, check, pool, promises
from .certificates import Authority
from .daemons import Gearmand, Stunnel
from .test_examples import EXAMPLES, ROOT, TWISTD, Running, example_worker, output, run

__all__ = ["pool"]

DOCS = ROOT / "docs"
OTHERS = {"command-line.md"}
"""Pages that have tests of their own."""

PAGES = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}

BLOCK = re.compile(r"^ *```([^\n]+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)

SCRIPTS = [
    pytest.param(block, id=f"{name}-{number}")
    for name, page in PAGES.items()
    for number, (language, block) in enumerate(BLOCK.findall(page))
    if language == "python" and not any(words in block for words in ("TLSOptions(", "Application(", "Klein("))
]


def blocks_with(words: str) -> list[str]:
    """Those that need more around them than others."""
    return [block for page in PAGES.values() for _, block in BLOCK.findall(page) if words in block]


COMMANDS = {
    "python -m pip install .",
    "python -m txgearman.testing",
    "python worker.py",
    "python client.py",
    "python -m pip install pytest && python -m pytest test_client.py",
    ".ci/run",
    "python -m pip install tox",
    "tox run -e lint",
    "tox run-parallel -e lowest,docs",
    "python -m pip install -e '.[test,lint,docs]'",
    "python -m pytest tests/client",
    "ruff check && ruff format --check && mypy",
    "python -m sphinx -W -n --keep-going docs build/docs",
    "python -m benchmarks",
    "python -m benchmarks.workers",
    "python -m benchmarks.pythons /path/to/pypy3",
    "python -m pip install build twine",
    "python -m build && python -m twine check --strict dist/* && python -m twine upload dist/*",
    "python -m pip install 'txgearman[cli,metrics]'",
    "txgearman metrics --listen -s 10.0.0.1 -s 10.0.0.2",
}
"""What the pages say to type. The first five are run below, the benchmarks by tests/test_benchmarks.py, the exporter by
tests/test_monitoring.py, and the others by .ci/run in this or another form."""


@pytest.mark.parametrize("block", SCRIPTS)
def test_code_does_what_it_says(block: str, pool: Pool) -> None:
    check(block, pool)


@pytest.mark.process
def test_code_with_tls_does_what_it_says(gearmand: Gearmand, tmp_path: Path) -> None:
    """Through a stunnel that wants a client certificate."""
    (block,) = blocks_with("TLSOptions(")
    authority = Authority(tmp_path / "ca")
    server, client = authority.issue("localhost"), authority.issue("client@example.com")
    wanted = [f"CAfile = {authority.roots}", "verifyChain = yes"]
    with example_worker(gearmand.address), Stunnel(gearmand.address, server, *wanted) as stunnel:
        script = block.replace("gearman.example.com:4730", f"localhost:{stunnel.port}")
        files = {"GEARMAN_CA": authority.roots, "GEARMAN_CERTIFICATE": client, "GEARMAN_KEY": client}
        printed = output(run("-c", script, **{name: str(path) for name, path in files.items()}))
    assert printed.splitlines() == promises(block)
    assert promises(block)


@pytest.mark.process("klein")
def test_code_with_klein_does_what_it_says(pool: Pool) -> None:
    (block,) = blocks_with("Klein(")
    check(block, pool)


@pytest.mark.process
def test_service_runs_under_twistd(gearmand: Gearmand, tmp_path: Path) -> None:
    """It connects to its server, and stops without a complaint."""
    (block,) = blocks_with("Application(")
    script = tmp_path / "service.tac"
    script.write_text(block.replace("127.0.0.1:4730", gearmand.address))
    with Running("-c", TWISTD, "--pidfile=", "-noy", script, cwd=tmp_path) as twistd:
        twistd.await_line(f"connected to {gearmand.address}")
        twistd.terminate()
        assert "Server Shut Down" in twistd.said
        assert "Traceback" not in twistd.said


def test_every_block_is_of_a_kind_that_is_looked_at() -> None:
    commands = set()
    for name in PAGES.keys() - OTHERS:
        for language, block in BLOCK.findall(PAGES[name]):
            assert language in ("python", "sh") or language.startswith("{"), f"{name}: {language}"
            assert not language.startswith("{code-block}") or name == "start.md"
            if language == "sh":
                commands |= {line.strip() for line in block.splitlines()}
    assert commands == COMMANDS


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Path]:
    """A directory with the files of the page Start here, and the job server that it starts."""
    arguments = ("-m", "txgearman.testing", "--port", "0")
    with Running(*arguments) as server:
        address = server.await_line(r"a job server on (\S+)")[1]
        for _, block in BLOCK.findall(PAGES["start.md"]):
            file = re.match(r":caption: (\S+)\n\n(.*)", block, re.DOTALL)
            if file:
                (tmp_path / file[1]).write_text(file[2].replace("127.0.0.1:4730", address))
        yield tmp_path


@pytest.mark.process
def test_start_here(started: Path) -> None:
    """A worker, a client and a test, as the page has them."""
    with Running(started / "worker.py") as worker:
        worker.await_line("^ready")
        assert output(run(started / "client.py")).splitlines() == promises((started / "client.py").read_text())
        assert worker.terminate() == 0
    tests = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", started, started / "test_client.py")
    assert tests.returncode == 0, tests.stdout
    assert "3 passed" in tests.stdout


@pytest.mark.process
def test_start_here_names_what_happens_without_a_server(started: Path) -> None:
    script = (started / "client.py").read_text()
    client = started / "client.py"
    client.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", script))
    stopped = run(client)
    assert stopped.returncode == 1
    assert "NoServersAvailable: 127.0.0.1:1: " in stopped.stderr + stopped.stdout


def test_every_example_is_in_the_documentation() -> None:
    included = set(re.findall(r"literalinclude\} \.\./examples/(\S+)", PAGES["examples.md"]))
    assert included == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".tac", ".service")}


def test_changes_begins_with_the_version_of_the_package() -> None:
    first = re.search(r"^(\S+) \(.*\)\n=+$", tables.CHANGES.read_text("utf-8"), re.MULTILINE)
    assert first
    assert first[1] == txgearman.__version__


def table(page: str, head: str) -> list[list[str]]:
    """The rows of the table on this page whose head begins so."""
    _, found, rest = PAGES[page].partition(f"\n| {head} |")
    assert found
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


FAILURES = table("guide/failures.md", "error | what has happened | is there a job?")


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, txgearman.GearmanError)


def test_the_errors_on_the_page_are_all_that_there_are() -> None:
    others = table("guide/failures.md", "error | what has happened | where it is found")
    told = {name for row in FAILURES + others for name in re.findall(r"`(\w+)`", row[0])}
    errors = {name for name in txgearman.__all__ if is_error(getattr(txgearman, name))}
    of_workers = {"JobEnded", "JobFailed", "WorkloadInvalid"}
    assert told == (errors - {"GearmanError", "TaskError"} - of_workers) | {"CancelledError"}
    assert all(f"`{name}`" in PAGES["guide/failures.md"] for name in of_workers)


TASK_OF_FAILURES = Task("reverse")

EXCEPTIONS = {
    "TaskFailed": TaskFailed(TASK_OF_FAILURES),
    "TaskException": TaskException(TASK_OF_FAILURES, b""),
    "TaskLost": TaskLost(TASK_OF_FAILURES, acknowledged=True),
    "TaskTimedOut": TaskTimedOut(TASK_OF_FAILURES),
    "ResultInvalid": ResultInvalid(TASK_OF_FAILURES, b""),
    "NoServersAvailable": NoServersAvailable({}),
    "ClientStopped": ClientStopped(),
    "CancelledError": CancelledError(),
}


@pytest.mark.parametrize("row", FAILURES, ids=[row[0] for row in FAILURES])
def test_what_is_said_of_retries_is_what_the_code_does(row: list[str]) -> None:
    """`test_client.py` has the retries themselves."""
    error, *_, again = row
    name = error.split("`")[1]
    if name == "TaskRejected":
        assert "where the queue was full" in again
        assert TaskRejected(TASK_OF_FAILURES, "QUEUE_ERROR", "").retriable
        assert not TaskRejected(TASK_OF_FAILURES, "INVALID_FUNCTION_NAME", "").retriable
    else:
        assert again.startswith("yes" if getattr(EXCEPTIONS[name], "retriable", False) else "no")


@pytest.mark.process
def test_modules_are_listed_without_optional_requirements() -> None:
    """Whoever makes the pages need not have click or pytest."""
    script = """
import sys
sys.path.insert(0, "docs")
sys.modules["click"] = sys.modules["pytest"] = None
import tables
print(all(tables.modules(package).count("|") > 9 for package in ("", "testing", "cli")))
"""
    assert output(run("-c", script)) == "True\n"


def test_way_names_modules_and_functions_that_exist() -> None:
    modules = [(module, out + back) for module, out, back in pictures.WAY if module]
    assert {module for module, _ in modules} <= set(tables.module_names())
    for module, notes in modules:
        pictures.check_names(module, notes)
    with pytest.raises(ValueError, match="no_such_function"):
        pictures.check_names("client.client", ["no_such_function() does it"])


class ServerConnection:
    """A client's link to a server in memory, whose states are noted."""

    def __init__(self) -> None:
        self.server = MemoryJobServer()
        self.client = GearmanClient([self.server.endpoint()], reactor=self.server.clock, connect_timeout=10)
        self.states = [self.state]

    @property
    def state(self) -> ServerState:
        return self.client.servers[0].state

    def until(self, state: ServerState) -> None:
        """Let time pass until it is in this state, which it must reach in one step."""
        for _ in range(3000):
            if self.state is not self.states[-1]:
                break
            self.server.clock.advance(0.01)
        assert self.state is state
        self.states.append(state)

    def start(self) -> None:
        self.client.startService()
        self.until(ServerState.CONNECTING)

    def stop(self) -> None:
        self.client.stopService()
        self.until(ServerState.STOPPED)

    def steps(self) -> set[tuple[str, str]]:
        return {(before.name, after.name) for before, after in pairwise(self.states)}


def test_a_link_takes_each_step_of_its_picture() -> None:
    connection = ServerConnection()
    connection.start()
    connection.until(ServerState.READY)
    connection.stop()
    connection.start()
    connection.stop()
    connection.start()
    connection.until(ServerState.READY)
    with connection.server.black_hole_connections():
        connection.server.drop_connections()
        connection.until(ServerState.WAITING)
        connection.until(ServerState.CONNECTING)
        connection.until(ServerState.WAITING)  # after connect_timeout
        connection.stop()
    assert connection.steps() == {(step.start, step.end) for step in pictures.CONNECTION}
    connection.server.result_of(connection.server.close())


# What was measured.


def test_each_release_has_its_tables_and_its_plot() -> None:
    """Every client and case of the records is there, the fastest first, and the library's own bars stand out."""
    for release in figures.releases():
        peers = figures.record("peers", release)["peers"]
        names = [client["name"] for group in peers for client in group["clients"]]
        plot = figures.plot(release)
        assert all(f">{name}</text>" in plot for name in names)
        assert plot.count('<rect class="tip"') == sum(name.startswith(figures.OWN) for name in names)
        assert plot.count(" jobs/s</text>") == len(names)
        for kind, make in figures.FIGURES.items():
            table = make(release)
            rows = [row["case"] for row in figures.record("cases", release)["cases"]] if kind == "cases" else []
            assert all(f"| {name} |" in table for name in rows)
            assert re.fullmatch(
                r"Measured \d{4}-\d\d-\d\d with txgearman .*, Twisted .*, on .*\.", figures.surroundings(kind, release)
            )


def test_the_version_has_its_figures() -> None:
    assert figures.releases()[0] == txgearman.__version__


def test_sizes_are_told_in_words() -> None:
    assert [figures.size(number) for number in (16, 4096, 1024 * 1024, 1500)] == [
        "16 bytes",
        "4 KiB",
        "1 MiB",
        "1500 bytes",
    ]
