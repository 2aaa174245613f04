"""What the page for those who come from another library says of this one is so: each call in its tables is made.

Of the other libraries, the names are looked up where one is installed.
"""

from __future__ import annotations

import builtins
import inspect
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import gear
import pytest
from twisted.internet.defer import Deferred, gatherResults

import txgearman
from txgearman import (
    BackgroundOptions,
    GearmanAdmin,
    GearmanClient,
    GearmanWorker,
    JobHandle,
    Priority,
    TaskOptions,
    TLSOptions,
)
from txgearman.cli.main import cli
from txgearman.testing import MemoryJobServer

from .certificates import Authority
from .processes import ROOT

PAGE = (ROOT / "docs" / "coming-from.md").read_text("utf-8")


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [re.split(r" \| ", line.strip("| ")) for line in re.findall(r"^\| .* \|$", text, re.MULTILINE)][1:]


SECTIONS = ("AnyEvent::Gearman", "python-gearman", "gear", "libgearman", "pecl-gearman")
OURS = {code for section in SECTIONS for row in rows(section) for code in re.findall(r"`([^`]+)`", row[1])}
"""What is ours in the second column."""

CALLS = sorted(
    code for code in OURS if re.match(r"(await )?(client|worker|admin)\.\w+\(|[A-Z]\w+\(|gatherResults", code)
)
OF_JOBS = sorted(code for code in OURS if code.startswith("job."))
OPTIONS = sorted(code for code in OURS if re.match(r"[a-z_]+=", code))
ERRORS = sorted(code for code in OURS if re.fullmatch(r"[A-Z][a-z]\w+", code) and code != "GearmanAdmin")

WORDS = {"GearmanAdmin", "task.handle", "status.progress", "function", "function(job)", "(job)", '"-"'}
WORDS |= {".data", "code", "QUEUE_ERROR", ".encode()", ".decode()"}
WORDS |= {"fail()", "send_exception(data)", "send_warning(data)", "send_status(n, d)"}
"""Parts of what is in the same cell, or in the tests of callbacks and statuses below."""


def test_everything_is_looked_at_in_some_way() -> None:
    assert OURS - {*CALLS, *OF_JOBS, *OPTIONS, *ERRORS} == WORDS
    assert min(len(CALLS), len(OF_JOBS), len(OPTIONS), len(ERRORS)) > 7


@pytest.fixture
def server() -> Iterator[MemoryJobServer]:
    server = MemoryJobServer()
    yield server
    server.close(verify=False)  # of what the calls leave behind


@pytest.fixture
def names(server: MemoryJobServer, tmp_path: Path) -> dict[str, Any]:
    """What the calls speak of: a server, in memory, with a worker that reverses; and whatever may be given to them."""
    authority = Authority(tmp_path / "ca")
    key = authority.issue("client@example.com")
    worker = server.worker()
    for name in ("reverse", "another"):
        worker.register_function(name, lambda job: job.workload[::-1])
    client = server.client()
    submitted = client.add_task("reverse", b"abc")
    background = client.add_task_bg("nobody_does_this", b"abc", unique="background")
    return {
        **{name: here(server, getattr(txgearman, name)) for name in ("GearmanClient", "GearmanWorker", "GearmanAdmin")},
        "client": client,
        "worker": worker,
        "admin": GearmanAdmin([server.endpoint()], reactor=server.clock),
        "handle": server.result_of(background),
        "function": "reverse",
        "name": "another",
        "limit": 10,
        "workload": b"abc",
        "workloads": [b"abc", b"def"],
        "data": b"abc",
        "unique": "abc",
        "callbacks": {"on_complete": lambda task, result: None},
        "deferreds": [submitted],
        "TLSOptions": TLSOptions,
        **dict.fromkeys(("trust_roots", "ssl_ca"), authority.roots),
        **dict.fromkeys(("certificate", "private_key", "ssl_cert", "ssl_key"), key),
        "MemoryJobServer": MemoryJobServer,
        "gatherResults": gatherResults,
        "time": time,
    }


def here(server: MemoryJobServer, kind: Any) -> Any:
    """A class of ours whose objects live with this server, which is what ``...`` is for in a list."""

    def make(servers: list[Any], **options: Any) -> Any:
        addresses = [server.endpoint() if address is ... else address for address in servers]
        return kind(addresses, reactor=server.clock if ... in servers else None, **options)

    return make


async def everything(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


@pytest.mark.parametrize("call", CALLS)
def test_each_call_can_be_made(call: str, server: MemoryJobServer, names: dict[str, Any]) -> None:
    """And where it returns a Deferred, that fires with something."""
    if call.startswith("worker.register_function(name"):
        names.update(name="one_more", function=lambda job: b"")
    if call.startswith('worker.register_function("reverse"'):
        names["worker"].unregister_function("reverse")
        names["function"] = lambda job: b""
    made = eval(call.removeprefix("await "), names)
    if hasattr(made, "__aiter__"):
        made = Deferred.fromCoroutine(everything(made))
    if isinstance(made, Deferred):
        made = server.result_of(made)
    if "add_task(" in call:
        assert made == b"cba"
    elif "add_task_bg(" in call:
        assert isinstance(made, JobHandle)
    elif "add_tasks_bg(" in call:
        assert [type(handle) for handle in made] == [JobHandle, JobHandle]
    elif "add_tasks(" in call or call.startswith("client.map("):
        assert made == [b"cba", b"fed"]
    elif call.startswith("client.as_completed("):
        assert sorted(made) == [(0, b"cba"), (1, b"fed")]


@pytest.mark.parametrize("call", OF_JOBS)
def test_each_call_of_a_job_can_be_made(call: str, server: MemoryJobServer) -> None:
    """By a function that gets it."""
    outcomes: list[Any] = []

    def function(job: txgearman.Job) -> bytes:
        values = {"data": b"data", "result": b"data", "n": 1, "d": 2, "numerator": 1, "denominator": 2}
        outcomes.append(eval(call, {"job": job, **values}))
        return b"result"

    server.worker().register_function("reverse", function)
    task = txgearman.Task("reverse", b"abc", unique="u", on_exception=lambda task, data: outcomes.append(data))
    end: Any
    try:
        end = server.result_of(server.client().submit(task))
    except txgearman.TaskFailed as error:
        end = type(error).__name__
    expected = {
        "job.complete(data)": b"data",
        "job.complete(result)": b"data",
        "job.fail()": "TaskFailed",
        "job.send_exception(data)": "TaskException",
    }
    assert end == expected.get(call, b"result")
    fields = {"job.workload": b"abc", "job.function": "reverse", "job.unique": b"u"}
    if call in fields:
        assert outcomes == [fields[call]]
    elif call == "job.handle":
        assert outcomes == [task.handle]


def parameters(*callables: Any) -> set[str]:
    return {name for each in callables for name in inspect.signature(each).parameters}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_is_one(option: str, server: MemoryJobServer, names: dict[str, Any]) -> None:
    """Of a task, or else of a client or worker. One with a value is given."""
    name, _, value = option.partition("=")
    of_tasks = {*TaskOptions.__annotations__, *BackgroundOptions.__annotations__}
    assert name in of_tasks | parameters(GearmanClient, GearmanWorker)
    if value and name in of_tasks:
        options = eval(f"dict({option})", {**names, "Priority": Priority})
        assert server.result_of(names["client"].add_task("reverse", b"abc", **options)) == b"cba"
    elif value:
        assert eval(f"GearmanClient([...], {option})", names)


@pytest.mark.parametrize("error", ERRORS)
def test_each_error_is_one(error: str) -> None:
    """`test_client.py` has what leads to them."""
    if hasattr(txgearman, error):
        assert issubclass(getattr(txgearman, error), txgearman.GearmanError)
    else:
        assert issubclass(getattr(builtins, error), ValueError)


def test_callbacks_get_the_task_first(server: MemoryJobServer) -> None:
    """With what the tables say that each gets behind it."""
    told = []

    def function(job: txgearman.Job) -> None:
        job.send_data(b"data")
        job.send_warning(b"warning")
        job.send_status(1, 2)
        if job.workload == b"raise":
            job.send_exception(b"exception")

    server.worker().register_function("reverse", function)
    events = ("created", "data", "warning", "status", "complete", "exception", "fail")
    callbacks: Any = {f"on_{event}": lambda *all, event=event: told.append((event, *all)) for event in events}
    tasks = [txgearman.Task("reverse", workload, **callbacks) for workload in (b"", b"raise")]
    for task in tasks:
        server.result_of(server.client().submit(task).addErrback(lambda _: None))
    first, second = tasks
    both = [("data", b"data"), ("warning", b"warning"), ("status", 1, 2)]
    assert told[:5] == [("created", first), *((event, first, *rest) for event, *rest in both), ("complete", first, b"")]
    assert told[-2][:3] == ("exception", second, b"exception")
    assert [told[-1][0], told[-1][1], type(told[-1][2])] == ["fail", second, txgearman.TaskException]


def test_options_of_the_command_are_there() -> None:
    named = {option for row in rows("GearmanManager") for option in re.findall(r"`(--?\w[\w-]*)", row[1])}
    known = {option for parameter in cli.commands["work"].params for option in parameter.opts}
    assert {"--processes", "--drain", "-s"} <= named <= known | {"-vv"}


# The other libraries.


def theirs(section: str) -> set[str]:
    return {code for row in rows(section) for code in re.findall(r"`([^`]+)`", row[0])}


def test_names_of_gear_are_there() -> None:
    codes = " ".join(theirs("gear"))
    for name in re.findall(r"gear\.(\w+)", codes):
        assert hasattr(gear, name), name
    for name in re.findall(r"(?:client|worker|job|connection)\.(\w+)|(?:^| )(handle\w+|addServer|submitJob)", codes):
        known = (gear.Client, gear.Worker, gear.WorkerJob, gear.Connection, gear.Job("", b""))
        assert any(hasattr(each, "".join(name)) for each in known), name


def completed(end: str, name: str) -> str:
    """The name that is like this one, up to the word that this end begins with, or else but for as many words."""
    verb = end.split("_")[1]
    if f"_{verb}_" in f"{name}_":
        return name[: f"{name}_".index(f"_{verb}_")] + end
    return name.rsplit("_", end.count("_"))[0] + end


@pytest.mark.daemon("libgearman")
def test_names_of_libgearman_are_there(tmp_path: Path) -> None:
    """Those that are written in full, and those that differ in their ends alone, such as ``_do_high``."""
    full: list[str] = []
    for row in rows("libgearman"):
        for code in re.findall(r"`(\w+)(?:\(.*?\))?`", row[0]):
            full.append(completed(code, full[-1]) if code[0] == "_" else code)
    assert len(full) > 40
    source = tmp_path / "names.c"
    lines = [f"  (void) {name};" for name in full]
    source.write_text("\n".join(["#include <libgearman/gearman.h>", "int main(void) {", *lines, "  return 0;", "}"]))
    command = ["cc", "-Werror=implicit-function-declaration", str(source), "-lgearman", "-o", str(tmp_path / "names")]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
