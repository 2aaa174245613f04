"""A misspelt name on the way of a task, a job or an admin line is an error of mypy, and so is one of an error's task.

Each line below has one name between < and >. mypy is run over a file that has each line twice, as it stands and with
that name misspelt, each time in a function of its own: the first must be right, the second an error. A second file has
what typed functions take and refuse. mypy is run once, over both.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.process("mypy", "mypy_zope")

HEAD = """\
from __future__ import annotations

from typing import TypeVar

from txgearman import GearmanAdmin, GearmanClient, Job, RemoteFunction, Task, TaskError
from txgearman.admin.commands import STATUS
from txgearman.admin.protocol import AdminFactory, AdminProtocol
from txgearman.client.protocol import GearmanClientFactory, GearmanClientProtocol
from txgearman.connection.pool import JobServer
from txgearman.packets import PacketType
from txgearman.worker.functions import Function
from txgearman.worker.groups import GrabState
from txgearman.worker.job import Assignment
from txgearman.worker.protocol import GearmanWorkerFactory, GearmanWorkerProtocol
from txgearman.worker.scheduler import WorkerScheduler

T = TypeVar("T")

class Request:
    pass

class Image:
    width: int

def present(value: T | None) -> T:
    assert value is not None
    return value
"""

TASK = """\
client.<submit>(task)
client._dispatcher.<submit>(task, b"")
client._servers.<started>
client._dispatcher._servers.<choose>(b"")
client._dispatcher._servers.choose(task.<_routing_key>)
present(present(client._dispatcher._servers.choose(b"")).connection).<_send_task>(task)
present(present(client._servers.only_server).connection).<_send_task>(task)
present(present(client._servers.only_server)._factory).<_connection_ready>
client._servers.by_address("").<when_ready>()
client._servers.ranked(b"")[0].ask(packet_type, b"", answer=packet_type).<cancel>()
client_connection.<_send_task>(task)
client_connection.transport.<write>(b"")
client_connection.factory.<_connection_ready>(client_connection)
client_connection.factory.reactor.<callLater>(0.0, print)
client_connection._decoder.<packets>(b"")
client_connection.submit(task).<addCallback>(print)
present(client_factory.connection).<_send_task>(task)
client_factory.protocol.<_send_task>
(await client_factory.when_ready()).<submit>(task)
client_factory.buildProtocol(None).<submit>(task)
present(task._holder).<discard>(task)
present(task._owner).<task_ended>(task)
task.<handle>
present(task.handle).<server>
task._options.<packet_type>
"""

JOB = """\
job_connection.<grab>()
job_connection.<work_complete>(b"", b"")
job_connection.factory.<receiver>
job_connection.factory.receiver.<job_assigned>(job_connection, assignment)
job_connection.factory.receiver.<connection_closed>(job_connection, 0, [job])
job_connection.factory.registrar.<registration>()
job_connection.jobs[b""].<complete>(b"")
job_connection.transport.<write>(b"")
job_connection.factory.<_connection_ready>(job_connection)
present(job_factory.connection).<work_complete>(b"", b"")
(await job_factory.when_ready()).<grab>()
job_factory.buildProtocol(None).<grab>()
assignment.<workload>
job.handle.<handle>
job.<complete>(b"")
job._connection.<work_complete>(b"", b"")
job._connection.factory.reactor.<callLater>(0.0, print)
scheduler.<job_assigned>(job_connection, assignment)
scheduler.runner.<run_job>(job, function, state)
scheduler.runner._listener.<function_ended>(state)
scheduler.slots.<release>(state.group)
scheduler._allot().<items>()
state.connection.<grab>()
state.group.functions[b""].<start>(job, job._connection.factory.reactor)
state.group.servers.by_address("").<when_ready>()
function.<start>(job, job._connection.factory.reactor)
"""

ADMIN_LINE = """\
admin.<status>()
(await admin.status()).<one>()
(await admin.status()).one()[0].<function>
admin._servers.by_address("").use(lambda connection: connection.<ask>(b"status"))
admin._servers.by_address("").use(lambda connection: connection.ask(b"status")).<addCallback>(STATUS.parse)
(await admin._ask(STATUS, server))[0].<workers>
present(server.connection).<ask>(STATUS.line)
(await present(server.connection).ask(STATUS.line)).<decode>()
STATUS.<parse>(b"")
STATUS.parse(b"")[0].<running>
admin_connection.<ask>(b"status")
admin_connection.factory.<_connection_ready>(admin_connection)
present(admin_factory.connection).<ask>(b"status")
(await admin_factory.when_ready()).<ask>(b"status")
client._canceller.<cancel>(client._servers.by_address(""), b"")
"""

ERROR = """\
error.<task>
error.task.<function>
error.task.<workload>
error.task.<handle>
present(error.task.handle).<server>
"""

PARAMETERS = {
    "client": "GearmanClient",
    "task": "Task",
    "packet_type": "PacketType",
    "client_connection": "GearmanClientProtocol",
    "client_factory": "GearmanClientFactory",
    "job": "Job",
    "assignment": "Assignment",
    "job_connection": "GearmanWorkerProtocol",
    "job_factory": "GearmanWorkerFactory",
    "scheduler": "WorkerScheduler",
    "state": "GrabState",
    "function": "Function",
    "admin": "GearmanAdmin",
    "server": "JobServer[AdminProtocol]",
    "admin_connection": "AdminProtocol",
    "admin_factory": "AdminFactory",
    "error": "TaskError",
    "resize": "RemoteFunction[Request, Image]",
    "request": "Request",
}
"""What the lines are about: each function has all of them."""

TYPED = """\
resize(request).<addCallback>(print)
(await resize(request)).<width>
(await resize.background(request)).<handle>
async for image in resize.map([request]): print(image.<width>)
"""

LINES = [line for lines in (TASK, JOB, ADMIN_LINE, ERROR, TYPED) for line in lines.splitlines()]

NAME = re.compile(r"<(\w+)>")


def misspelt(line: str) -> str:
    """Return the line with the last two letters of its marked name in the wrong order."""
    return NAME.sub(lambda match: match[1][:-2] + match[1][:-3:-1], line)


def program() -> tuple[str, dict[int, str]]:
    """Return the file for mypy, and its lines that are checked by their numbers."""
    parameters = ", ".join(f"{name}: {kind}" for name, kind in PARAMETERS.items())
    text, checked = HEAD, {}
    for number, line in enumerate(LINES):
        for kind, code in (("right", NAME.sub(r"\1", line)), ("misspelt", misspelt(line))):
            text += f"\nasync def {kind}_{number}({parameters}) -> None:\n    {code}\n"
            checked[text.count("\n")] = code
    return text, checked


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What mypy prints about both files."""
    directory = tmp_path_factory.mktemp("types")
    files = {directory / "misspelt.py": program()[0], directory / "functions.py": functions_program()}
    for file, text in files.items():
        file.write_text(text)
    # In this directory, for its settings and its cache.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", *map(str, files)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def errors(output: str) -> dict[str, list[str]]:
    """What mypy says of each line."""
    _, checked = program()
    found: dict[str, list[str]] = {code: [] for code in checked.values()}
    for number, message in re.findall(r"misspelt\.py:(\d+): error: (.*)", output):
        found[checked[int(number)]].append(message)
    return found


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_right_as_it_stands(line: str, errors: dict[str, list[str]]) -> None:
    assert errors[NAME.sub(r"\1", line)] == []


@pytest.mark.parametrize("line", LINES)
def test_a_misspelt_name_is_an_error(line: str, errors: dict[str, list[str]]) -> None:
    assert [message for message in errors[misspelt(line)] if "has no attribute" in message]


# Typed functions: of client and worker, with the types of their requests and results.

FUNCTIONS = """\
from __future__ import annotations

from collections.abc import Generator

from twisted.internet.defer import Deferred

from txgearman import GearmanClient, GearmanWorker, Job, RemoteFunction

class Request:
    def to_bytes(self) -> bytes: return b""
    @classmethod
    def from_bytes(cls, data: bytes) -> Request: return cls()

class Image:
    def to_bytes(self) -> bytes: return b""
    @classmethod
    def from_bytes(cls, data: bytes) -> Image: return cls()

client = GearmanClient(["h"])
worker = GearmanWorker(["h"])
resize: RemoteFunction[Request, Image] = client.function(
    "resize", encode=Request.to_bytes, decode=Image.from_bytes, timeout=30
)
reverse: RemoteFunction[bytes, bytes] = client.function("reverse")
typed = worker.function("resize", decode=Request.from_bytes, encode=Image.to_bytes, timeout=30)

def sync(job: Job, request: Request) -> Image: return Image()
async def coroutine(job: Job, request: Request) -> Image: return Image()
def deferred(job: Job, request: Request) -> Deferred[Image]: return Deferred()
def generator(job: Job, request: Request) -> Generator[bytes, None, Image]:
    yield b""
    return Image()
def wrong_request(job: Job, request: int) -> Image: return Image()
async def wrong_result(job: Job, request: Request) -> int: return 1
def plain(job: Job) -> bytes: return b""
"""

RIGHT = [
    "resize(Request())",
    "resize.background(Request())",
    "resize.map([Request()])",
    "reverse(b'abc')",
    *(f"typed({name})" for name in ("sync", "coroutine", "deferred", "generator")),
    "worker.function('plain')(plain)(Job.__new__(Job)).decode()",
]

WRONG = [
    ("resize(b'abc')", 'has incompatible type "bytes"; expected "Request"'),
    ("resize.background(5)", 'has incompatible type "int"; expected "Request"'),
    ("resize.map([b'abc'])", 'has incompatible type "bytes"; expected "Request"'),
    ("reverse('abc')", 'has incompatible type "str"; expected "bytes"'),
    ("resize(Request(), colour=1)", 'Unexpected keyword argument "colour"'),
    ("resize(Request()).addCallback(bytes.upper)", "No overload variant"),
    ("typed(wrong_request)", "has incompatible type"),
    ("typed(wrong_result)", "has incompatible type"),
    ("typed(plain)", "has incompatible type"),
    ("worker.function('plain')(sync)", "cannot be"),
]


EXPRESSIONS = [*RIGHT, *(line for line, _ in WRONG)]


def functions_program() -> str:
    """Return the file for mypy with these expressions."""
    return FUNCTIONS + "\n".join(EXPRESSIONS) + "\n"


@pytest.fixture(scope="module")
def errors_of_functions(output: str) -> dict[str, list[str]]:
    """What mypy says of each of these expressions."""
    found: dict[str, list[str]] = {line: [] for line in EXPRESSIONS}
    first = FUNCTIONS.count("\n") + 1
    for number, message in re.findall(r"functions\.py:(\d+): error: (.*)", output):
        assert int(number) >= first, output
        found[EXPRESSIONS[int(number) - first]].append(message)
    return found


@pytest.mark.parametrize("line", RIGHT)
def test_typed_function_takes_what_it_is_for(line: str, errors_of_functions: dict[str, list[str]]) -> None:
    assert errors_of_functions[line] == []


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_wrong_type_at_a_typed_function_is_an_error(
    line: str, message: str, errors_of_functions: dict[str, list[str]]
) -> None:
    assert any(message in error for error in errors_of_functions[line]), errors_of_functions[line]
