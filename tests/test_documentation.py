"""What the pages in docs say is so: their pieces of code are run, against real job servers, and print what they say.

How the pages are built, with warnings as errors, is CI's to see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import FunctionType

import pytest
from twisted.internet.defer import CancelledError

import txgearman
import txgearman.worker
from benchmarks import pages
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
from txgearman.connection.states import ConnectionState
from txgearman.testing import MemoryJobServer

from .blocks import Pool, check, complete, pool, promises
from .certificates import Authority
from .daemons import Gearmand, Stunnel
from .diagrams import DOCS, arrows, drawn, explained, rows_of_table, written
from .processes import EXAMPLES, ROOT, TWISTD, Running, example_worker, output, run, run_alone
from .test_layers import MODULES

__all__ = ["pool"]

OTHERS = {"command-line.md", "deploy.md", "guide/run-workers.md", "recipes.md"}
"""Pages that have tests of their own."""

STATES = [("how-it-works.md", ServerState), ("how-it-works.md", ConnectionState), ("guide/servers.md", ServerState)]

FRAGMENT = "```{code-block} python\n:caption: Inside `async def main(reactor)`, with a `client`\n\n"
"""The head of a block that goes into a program."""

SOURCES = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}
PAGES = {name: source.replace(FRAGMENT, "```python\n") for name, source in SOURCES.items()}

BLOCK = re.compile(r"^ *```([^\n]+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)

PREPARED = (
    "TLSOptions(",
    "Application(",
    "Klein(",
    "crochet.",
    "import msgspec",
    "import sentry_sdk",
    "from apscheduler",
)
"""What the blocks have that need more around them, or a package, and are run by tests of their own: below, or in
tests/test_recipes.py."""


def needs_more(block: str) -> bool:
    """Return whether a test of its own runs the block."""
    return any(words in block for words in PREPARED)


SCRIPTS = [
    pytest.param(block, id=f"{name}-{number}")
    for name, page in PAGES.items()
    for number, (language, block) in enumerate(BLOCK.findall(page))
    if language == "python" and not needs_more(block)
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
    "python -m pip install 'txgearman[cli]'",
    "export GEARMAN_SERVERS=127.0.0.1:4730,127.0.0.1:4731",
    "python -m pip install 'txgearman[cli,metrics]'",
    "gearmand --ssl --ssl-ca-file=/etc/gearman/ca.pem --ssl-certificate=/etc/gearman/server.pem "
    "--ssl-key=/etc/gearman/server.key",
}
"""What the pages say to type, beside commands of txgearman itself, which tests/cli/test_docs.py parses. The first five
are run below, the benchmarks by tests/test_benchmarks.py, and the others by .ci/run in this or another form."""


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


@pytest.mark.process("crochet")
def test_code_with_crochet_does_what_it_says(pool: Pool) -> None:
    (block,) = blocks_with("import crochet")
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
            assert language in ("python", "sh", "ini") or language.startswith("{"), f"{name}: {language}"
            assert not language.startswith("{code-block}") or name == "start.md"
            if language == "sh":
                commands |= {line.strip() for line in block.splitlines() if not line.startswith("txgearman ")}
    assert commands == COMMANDS


def test_fragments_say_where_they_go() -> None:
    """And only they do."""
    for name, source in SOURCES.items():
        whole = [block for language, block in BLOCK.findall(source) if language == "python"]
        assert not [block for block in whole if is_fragment(block)], name
        fragments = [piece.partition("\n```")[0] for piece in source.split(FRAGMENT)[1:]]
        assert all(map(is_fragment, fragments)), name


def is_fragment(block: str) -> bool:
    return ("await " in block or "client." in block) and complete(block) != block and not needs_more(block)


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
    tests = run_alone("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", started, started / "test_client.py")
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
    assert included == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".tac")}


def test_changes_begins_with_the_version_of_the_package() -> None:
    first = re.search(r"^(\S+) \(.*\)\n=+$", (ROOT / "CHANGES").read_text("utf-8"), re.MULTILINE)
    assert first
    assert first[1] == txgearman.__version__


def table(page: str, head: str) -> list[list[str]]:
    """Return the rows of the table on this page whose head begins so."""
    return rows_of_table(PAGES[page], f"| {head} |")


FAILURES = table("guide/failures.md", "error | what has happened | is there a job? | submitted again with `retries=`?")


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


# The reference.

REFERENCE = PAGES["api.md"]


def listed_members(name: str) -> set[str]:
    """Return the members of a class that the reference lists by hand."""
    entry = re.search(
        rf"^\.\. auto(?:class|exception):: txgearman\.{name}\b.*\n((?:   .*\n|\n(?=   ))*)", REFERENCE, re.M
    )
    assert entry, name
    listed = re.search(r":members: ([\w,\s]*)\n", entry[1])
    attributes = re.findall(r"py:attribute:: (\w+)", entry[1])
    return {*(re.split(r",\s*", listed[1].strip()) if listed else ()), *attributes}


def documented_members(kind: type) -> set[str]:
    """Return the methods and properties of a class that have docstrings, but for those of an exported base class."""
    exported = {getattr(txgearman, name) for name in txgearman.__all__} - {kind}
    bases = [base for base in kind.__mro__ if base.__module__.startswith("txgearman.") and base not in exported]
    members = {name: member for base in bases for name, member in vars(base).items() if not name.startswith("_")}
    return {name for name, member in members.items() if isinstance(member, METHODS) and member.__doc__}


METHODS = (FunctionType, classmethod, property)
HOOKS = {"stopProducing"}
"""What only Twisted calls."""


def test_public_members_are_in_the_reference() -> None:
    for name in txgearman.__all__:
        kind = getattr(txgearman, name)
        if isinstance(kind, type):
            assert documented_members(kind) - HOOKS <= listed_members(name), name
    assert {"add_task", "startService", "job_servers"} <= documented_members(GearmanClient)


def test_public_values_are_in_the_reference() -> None:
    values = {name for name in txgearman.__all__ if not isinstance(getattr(txgearman, name), type)} - {"__version__"}
    assert values == set(re.findall(r"py:data:: txgearman\.(\w+)$", REFERENCE, re.MULTILINE))


# How it works.

PACKAGE = ROOT / "txgearman"


def functions_of(module: str) -> set[str]:
    """Return the names of all functions in a module."""
    source = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8")
    return set(re.findall(r"^ *def (\w+)\(", source, re.MULTILINE))


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_way_of_task_names_functions_that_modules_have() -> None:
    for module, *notes in table("how-it-works.md", "module | on the way down"):
        named = {name.removesuffix("()") for note in notes for name in names_in(note) if name.endswith("()")}
        assert named <= functions_of(*names_in(module))
    assert "no_such_function" not in functions_of("client.client")


def test_packages_and_modules_to_read_first_exist() -> None:
    rows = table("how-it-works.md", "package | what it does")
    packages = {name for row in rows for name in names_in(row[0])}
    assert packages == {name.partition(".")[0] for name in MODULES if "." in name}
    assert {name for row in rows for name in names_in(row[2])} <= set(MODULES)


@pytest.mark.parametrize(("page", "enum"), STATES)
def test_table_of_states_has_those_of_the_code(page: str, enum: type[Enum]) -> None:
    assert [state.name for state in enum] in tables_of_states(page)


def tables_of_states(page: str) -> list[list[str]]:
    """Return the states in each of the tables of states on a page."""
    tables = PAGES[page].split("\n| state | meaning |\n|---|---|\n")[1:]
    return [re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE) for table in tables]


def test_way_of_job_is_that_of_the_docstring() -> None:
    """tests/worker/test_walk.py compares that with what happens."""
    documented = re.findall(
        r"^``(\w+\.\w+)``  ", (txgearman.worker.__doc__ or "").partition("Once all")[0], re.MULTILINE
    )
    assert [names_in(row[0])[0] for row in table("how-it-works.md", "function | what it does")] == documented


@pytest.mark.parametrize("name", ["task", "server", "connection"])
def test_diagram_has_arrows_of_its_source_and_its_table(name: str) -> None:
    assert drawn(name) == written(name) == explained(name)


class ServerConnection:
    """A client's connection to an in-memory server, whose states are recorded."""

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


def test_client_takes_each_transition_of_server() -> None:
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
    assert connection.steps() == arrows("server")
    connection.server.result_of(connection.server.close())


# What was measured.

SPEED = DOCS / "speed"


@pytest.mark.parametrize("record", sorted(SPEED.glob("*.json")), ids=lambda path: path.stem)
def test_tables_and_chart_are_those_of_record(record: Path) -> None:
    """``python -m benchmarks.pages docs/speed/*.json`` writes them anew."""
    read = json.loads(record.read_text("utf-8"))
    assert record.with_suffix(".md").read_text("utf-8") == pages.page(read)
    if "peers" in read:
        assert record.with_suffix(".svg").read_text("utf-8") == pages.chart(read)


def test_pages_include_records_of_the_version() -> None:
    records = {f"speed/{txgearman.__version__}-{kind}" for kind in pages.KINDS}
    included = re.findall(
        r"(?:\{include\}|:file:) (speed/\S+)\.(?:md|svg)", PAGES["measurements.md"] + PAGES["speed.md"]
    )
    assert set(included) == records


def test_chart_has_bar_for_each_client() -> None:
    """With the library's own marked."""
    clients = [{"name": "txgearman", "jobs_per_second": 1500.0}, {"name": "a<b", "jobs_per_second": 80.0}]
    group = {"workload": "w1", "payload": 16, "clients": clients}
    svg = pages.chart({"peers": [group], "versions": {"txgearman": "1.0.0"}})
    assert re.findall(r'<rect class="(\w+)" .* width="([\d.]+)"', svg) == [("own", "281.2"), ("bar", "15.0")]
    assert re.findall(r">([^<>]+)</text>", svg) == [
        "background jobs, 16 bytes: jobs per second",
        *("0", "400", "800", "1,200", "1,600"),
        *("txgearman", "1,500", "a&lt;b", "80"),
    ]


def test_sizes_have_units() -> None:
    sizes = [pages.format_size(size) for size in (16, 4096, 1024 * 1024, 1500)]
    assert sizes == ["16 bytes", "4 KiB", "1 MiB", "1500 bytes"]
