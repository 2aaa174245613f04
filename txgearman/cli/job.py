"""``txgearman job``: the status of jobs, as their servers report it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from ..admin.admin import first_error
from ..client.client import GearmanClient
from ..connection.addresses import parse_address, takes_tls_options
from ..errors import GearmanError
from ..models import JobHandle, JobStatus
from ..validation import printable_name
from .exit_codes import ExitCode
from .options import Servers
from .reactor_loop import first_failure, usage_errors
from .screen import View, watch
from .server_errors import report_errors
from .tables import Progress, Table, print_table
from .terminal import Terminal

__all__ = ["job"]

COLUMNS: Final = ("job", "server", "known", "running", "progress", "clients")

Row: TypeAlias = "tuple[bytes, str | None, bool, bool, Progress | None, int | None]"


Query: TypeAlias = "Callable[[], Deferred[JobStatus]]"


@dataclass
class Job:
    """A job that the command line names.

    :ivar name: its handle, without the server, or its unique.
    :ivar queries: ask a server for its status, by the address of the server.
    :ivar is_missing: whether all servers have answered that they do not have it, and none has had it before.
    """

    name: bytes
    queries: dict[str, Query]
    is_missing: bool = field(default=False, init=False)
    _was_known: bool = field(default=False, init=False)

    def rows(self, answers: Sequence[JobStatus | GearmanError]) -> list[Row]:
        """Return a row for each server that has the job, or one that says that no server which answers has it.

        :param answers: those of the queries, in their order.
        """
        found = {
            server: answer
            for server, answer in zip(self.queries, answers, strict=True)
            if not isinstance(answer, GearmanError)
        }
        known = {server: status for server, status in found.items() if status.known}
        self._was_known = self._was_known or bool(known)
        self.is_missing = not self._was_known and len(found) == len(answers)
        if known:
            return [(self.name, server, *_cells(status)) for server, status in known.items()]
        server = next(iter(self.queries)) if len(self.queries) == 1 else None
        return [(self.name, server, False, False, None, None)] if found else []


def _cells(status: JobStatus) -> tuple[bool, bool, Progress | None, int | None]:
    progress = Progress(status.numerator, status.denominator) if status.denominator else None
    return status.known, status.running, progress, status.waiting_clients


class _Jobs:
    """The jobs of the command line, and the clients that ask for them: one for each server, so that each is asked.

    :param handles: those with a server are asked of it, others of all servers.
    :param unique: asked of all servers; None for none.
    :raises ValueError: a handle, the unique or an address is invalid.
    """

    def __init__(self, terminal: Terminal, servers: Servers, handles: Sequence[str], unique: bytes | None) -> None:
        self._terminal = terminal
        self._servers = servers
        parsed = {text: JobHandle.from_string(text) for text in handles if "//" in text}
        addresses = [handle.server for handle in parsed.values()]
        if unique is not None or len(parsed) < len(set(handles)):
            addresses += servers.addresses
        self._tls = replace(servers, addresses=addresses).tls_options()
        self._clients: dict[str, GearmanClient] = {}
        self.jobs = [self._job(text, parsed.get(text)) for text in handles]
        if unique is not None:
            self.jobs.append(self._job_of_unique(unique))

    def _job(self, text: str, handle: JobHandle | None) -> Job:
        name = os.fsencode(text) if handle is None else handle.handle
        addresses = self._servers.addresses if handle is None else [handle.server]
        handles = [JobHandle(server, name) for server in map(self._connect_to, addresses)]
        return Job(name, {each.server: partial(self._clients[each.server].get_status, each) for each in handles})

    def _job_of_unique(self, unique: bytes) -> Job:
        servers = map(self._connect_to, self._servers.addresses)
        return Job(unique, {server: partial(self._clients[server].get_status_unique, unique) for server in servers})

    def _connect_to(self, address: str) -> str:
        """Make the client for a server, unless there is one; return the name of the server."""
        tls = self._tls if takes_tls_options(address) else None
        name, _ = parse_address(address, self._terminal.reactor, tls=tls)
        if name not in self._clients:
            self._clients[name] = GearmanClient(
                [address],
                reactor=self._terminal.reactor,
                exceptions=False,
                connect_timeout=self._servers.connect_timeout,
                tls=tls,
            )
        return name

    async def start(self, opened: AsyncExitStack) -> None:
        """Connect the clients."""
        for client in self._clients.values():
            await opened.enter_async_context(client)

    async def view(self) -> View:
        """Ask the servers for all jobs."""
        asked = [gatherResults(map(_ask, job.queries.values()), consumeErrors=True) for job in self.jobs]
        answers = await gatherResults(asked, consumeErrors=True).addErrback(first_error)
        rows: list[Row] = []
        errors: dict[str, GearmanError] = {}
        for job, own in zip(self.jobs, answers, strict=True):
            rows += job.rows(own)
            given = zip(job.queries, own, strict=True)
            errors |= {server: answer for server, answer in given if isinstance(answer, GearmanError)}
        has_ended = not errors and not any(known for _, _, known, *_ in rows)
        return View("job", [Table(COLUMNS, rows)], errors, is_last=has_ended)

    def report_unknown(self) -> ExitCode:
        """Report the jobs that no server has had; return the exit code."""
        for job in self.jobs:
            if job.is_missing:
                self._terminal.write_error(f"txgearman: {printable_name(job.name)}: no server has this job")
        return ExitCode.REFUSED if any(job.is_missing for job in self.jobs) else ExitCode.DONE


def _ask(query: Query) -> Deferred[JobStatus | GearmanError]:
    with usage_errors():
        return query().addErrback(_as_answer)


def _as_answer(failure: Failure) -> GearmanError:
    """Return the error of a server as its answer; raise any other, which fails the command."""
    failure.trap(GearmanError)
    assert isinstance(failure.value, GearmanError)
    return failure.value


async def job(
    terminal: Terminal,
    servers: Servers,
    handles: Sequence[str],
    unique: bytes | None,
    *,
    json: bool,
    watch_interval: float | None,
) -> ExitCode:
    """Print the status of jobs.

    :param watch_interval: seconds between repeated queries, until no server has the jobs any more; None queries once.
    """
    with usage_errors():
        jobs = _Jobs(terminal, servers, handles, unique)
    async with AsyncExitStack() as opened:
        await jobs.start(opened)
        if watch_interval is not None:
            code = await watch(terminal, jobs.view, watch_interval, json=json)
            return first_failure([code, jobs.report_unknown()])
        view = await jobs.view()
        await print_table(terminal, view.tables[-1], json=json)
        return first_failure([report_errors(terminal, view.errors), jobs.report_unknown()])
