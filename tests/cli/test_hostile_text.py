"""Text of others, in all output of the command: it controls no terminal, and forges no line, no row and no JSON."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from twisted.internet.task import deferLater

from txgearman import GearmanClient, GearmanWorker, Job, JobFailed
from txgearman.cli.exit_codes import ExitCode

from ..daemons import Gearmand
from .harness import reactor, run_command

CONTROLS: Final = "\x1b]0;title\x07\r\ntxgearman: forged\x7f\x9b31m\u202e"
"""Sets the title of a terminal, and begins a line."""

DATA: Final = CONTROLS.encode()

NAMES: Final = [DATA, b"\xff", b"\\xff", b"\x9b", "\x9b".encode(), b"[red]a[/red]"]
"""Functions, of which some would be shown alike."""

pytestmark = pytest.mark.daemon


@pytest.fixture(scope="module")
def server() -> Iterator[Gearmand]:
    """Run a gearmand for all tests of this module."""
    with Gearmand() as server:
        yield server


@asynccontextmanager
async def hostile_names(server: Gearmand) -> AsyncIterator[str]:
    """Have such names as functions, as a unique and as the ID of a worker; give the address of the server."""
    async with GearmanClient([server.address]) as client, GearmanWorker([server.address], client_id=DATA) as worker:
        for name in NAMES:
            await client.add_task_bg(name, unique=DATA)
        worker.register_function(b"idle", lambda job: b"")
        while not (await run_command("workers", "-s", server.address)).out:
            await deferLater(reactor, 0.01)
        yield server.address


def assert_harmless(out: bytes) -> None:
    """Check that there is no control character but those of rows."""
    assert all(line.replace("\t", "").isprintable() for line in out.decode().split("\n"))


@pytest.mark.parametrize("words", ["status", "status --priority", "workers", "workers --all", "jobs", "jobs --unique"])
async def test_lists_are_printable(server: Gearmand, words: str) -> None:
    async with hostile_names(server) as address:
        rows = await run_command(*words.split(), "-s", address)
        assert_harmless(rows.out)
        assert len({*rows.out.splitlines()}) >= (len(NAMES) if words.startswith("status") else 1)
        table = await run_command(*words.split(), "-s", address, terminal=True)
        assert_harmless(re.sub(rb"\x1b\[[0-9;]*m", b"", table.out.replace(b"\r\n", b"\n")))
        objects = await run_command(*words.split(), "--json", "-s", address)
        assert objects.out.decode().rstrip("\n").isprintable()
        assert len(json.loads(objects.out)) == len(rows.out.splitlines())


async def test_different_functions_are_different_rows(server: Gearmand) -> None:
    async with hostile_names(server) as address:
        rows = (await run_command("status", "-s", address)).rows
        assert {"\\xff", "\\\\xff", "\\x9b", "\\u009b"} <= {row[0] for row in rows}
        objects = json.loads((await run_command("status", "--json", "-s", address)).out)
        functions = [each["function"] for each in objects if each["function"] != "talk"]  # that of another test
        assert len(set(functions)) == len(functions) == len({*NAMES, b"idle"})
        assert CONTROLS in functions


async def test_screen_of_top_is_controlled_by_itself_alone(server: Gearmand) -> None:
    async with hostile_names(server) as address:
        shown = (await run_command("top", "-c", "1", "-s", address, terminal=True)).out
        assert b"\x1b]" not in shown
        assert b"\\x1b]0;title\\x07" in shown


class Talker:
    """A function that sends such text in each way that there is."""

    def __call__(self, job: Job) -> bytes:
        job.send_warning(DATA)
        if job.workload == b"exception":
            job.send_exception(DATA)
        elif job.workload == b"fail":
            raise JobFailed(CONTROLS)
        return b"done\n"


@pytest.mark.parametrize(("workload", "code"), [("", 0), ("exception", ExitCode.FAILED), ("fail", ExitCode.FAILED)])
@pytest.mark.parametrize("terminal", [False, True])
async def test_messages_of_workers_are_printable(server: Gearmand, workload: str, code: int, terminal: bool) -> None:
    async with GearmanWorker([server.address]) as worker:
        worker.register_function("talk", Talker())
        result = await run_command("submit", "talk", workload, "-s", server.address, terminal=terminal)
    assert result.code == code
    text = result.out.replace(b"\r\n", b"\n") + result.err.encode()
    assert_harmless(text)
    assert not [line for line in text.splitlines() if line.startswith(b"txgearman: forged")]
    assert b"talk: warning: \\x1b]0;title" in text


async def test_refusal_of_server_is_printable(server: Gearmand) -> None:
    async with hostile_names(server) as address:
        result = await run_command("drop", "\x1b]0;title\x07", "-s", address)
        assert result.code == ExitCode.REFUSED
        assert_harmless(result.err.encode())
