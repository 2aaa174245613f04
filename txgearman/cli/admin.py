"""Administration commands: queries such as ``status``, changes such as ``create`` and ``cancel``, and ``ping``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from twisted.internet.task import deferLater

from ..admin import commands
from ..admin.admin import Answers, GearmanAdmin
from ..admin.commands import Command, FunctionStatus
from ..admin.reports import query_within
from ..client.client import GearmanClient
from ..connection.addresses import parse_address
from ..errors import GearmanError, NoServersAvailable, ServerError
from ..models import JobHandle
from ..validation import printable_name
from .exit_codes import ExitCode
from .options import Servers
from .reactor_loop import first_failure, usage_errors
from .screen import View, answer_limit, watch
from .server_errors import report_errors
from .tables import Table, print_table
from .terminal import Terminal

__all__ = ["Query", "cancel", "execute", "make_admin", "ping", "report_errors", "show"]

Rows = Callable[[Any], Iterable[tuple[Any, ...]]]


class Query:
    """A command of the text protocol whose answers are printed as a table.

    :ivar columns: names of the columns.
    :ivar rows: converts the answer of one server to rows.
    """

    def __init__(self, command: Command[Any], columns: tuple[str, ...], rows: Rows) -> None:
        self.command = command
        self.columns = columns
        self.rows = rows


def _fields(*names: str) -> Rows:
    return lambda records: (tuple(getattr(record, name) for name in names) for record in records)


def _rows_with_functions(records: Any) -> Iterable[tuple[Any, ...]]:
    return _worker_rows(record for record in records if record.functions)


_worker_rows: Final = _fields("number", "address", "client_id", "functions")

QUERIES: Final[Mapping[str, Query]] = {
    "status": Query(
        commands.STATUS,
        ("function", "total", "running", "workers"),
        _fields("function", "total", "running", "workers"),
    ),
    "priority-status": Query(
        commands.PRIORITY_STATUS,
        ("function", "high", "normal", "low", "workers"),
        _fields("function", "high", "normal", "low", "workers"),
    ),
    "connections": Query(commands.WORKERS, ("connection", "address", "id", "functions"), _worker_rows),
    "workers": Query(commands.WORKERS, ("connection", "address", "id", "functions"), _rows_with_functions),
    "jobs": Query(
        commands.JOBS, ("handle", "retries", "ignored", "stored"), _fields("handle", "retries", "ignored", "stored")
    ),
    "unique-jobs": Query(commands.UNIQUE_JOBS, ("unique",), lambda uniques: ((unique,) for unique in uniques)),
    "version": Query(commands.VERSION, ("version",), lambda version: [(version,)]),
    "pid": Query(commands.PID, ("pid",), lambda pid: [(pid,)]),
    "verbosity": Query(commands.VERBOSITY, ("verbosity",), lambda verbosity: [(verbosity,)]),
}


def make_admin(terminal: Terminal, servers: Servers, timeout: float) -> GearmanAdmin:
    """Create the admin client of a command."""
    with usage_errors():
        return GearmanAdmin(
            servers.addresses,
            prefix=servers.prefix,
            reactor=terminal.reactor,
            server_timeout=timeout,
            connect_timeout=servers.connect_timeout,
            tls=servers.tls_options(),
        )


def make_table(query: Query, answers: Answers[Any]) -> Table:
    """Put the answers of all servers into one table. With several servers, its first column is the server."""
    several = len(answers.results) + len(answers.errors) > 1
    rows = [
        (address, *row) if several else row for address, answer in answers.results.items() for row in query.rows(answer)
    ]
    return Table(("server", *query.columns) if several else query.columns, rows)


async def show(
    terminal: Terminal, name: str, servers: Servers, timeout: float, *, json: bool, watch_interval: float | None
) -> ExitCode:
    """Query all servers and print their answers.

    :param watch_interval: seconds between repeated queries, until the key q or a signal; None queries once.
    """
    selected = QUERIES[name]
    async with make_admin(terminal, servers, timeout) as admin:
        limit = None if json or watch_interval is None else answer_limit(terminal, timeout, watch_interval)

        async def query() -> View:
            answers = await query_within(admin, selected.command, limit)
            return View(name, [make_table(selected, answers)], answers.errors)

        if watch_interval is not None:
            return await watch(terminal, query, watch_interval, json=json)
        view = await query()
        await print_table(terminal, view.tables[-1], json=json)
        return report_errors(terminal, view.errors)


async def execute(
    terminal: Terminal, servers: Servers, timeout: float, method: str, *arguments: Any, **options: Any
) -> ExitCode:
    """Call a method of `GearmanAdmin` for all servers. Only errors are printed."""
    async with make_admin(terminal, servers, timeout) as admin:
        with usage_errors():
            answers = getattr(admin, method)(*arguments, **options)
        return report_errors(terminal, (await answers).errors)


async def drop(terminal: Terminal, servers: Servers, timeout: float, function: bytes, *, with_jobs: bool) -> ExitCode:
    """Remove a function from all servers, and print how many jobs it had on each.

    :param with_jobs: whether it may have jobs. If not, and a server has some or does not answer, it remains on all.
    """
    name = b"%b\t%b" % (servers.prefix, function) if servers.prefix else function
    async with make_admin(terminal, servers, timeout) as admin:
        with usage_errors():
            commands.drop_function(name)  # checks it
        status = await admin.status()
        jobs = {address: _count_jobs(name, answer) for address, answer in status.results.items()}
        if not with_jobs and (status.errors or any(jobs.values())):
            return _report_not_dropped(terminal, name, jobs, status.errors)
        dropped = await admin.drop_function(function)
        query = Query(commands.STATUS, ("function", "jobs"), lambda count: [(name, count)])
        counts = Answers({address: jobs.get(address) for address in dropped.results}, dropped.errors)
        await print_table(terminal, make_table(query, counts), json=False)
        return report_errors(terminal, dropped.errors)


def _count_jobs(function: bytes, status: tuple[FunctionStatus, ...]) -> int:
    """Return how many jobs of a function a server has, queued and running."""
    return sum(each.total for each in status if each.function == function)


def _report_not_dropped(
    terminal: Terminal, function: bytes, jobs: Mapping[str, int], errors: Mapping[str, GearmanError]
) -> ExitCode:
    name = printable_name(function)
    for address, count in jobs.items():
        if count:
            terminal.write_error(f"txgearman: {address}: {name} has jobs: {count}")
    code = report_errors(terminal, errors)
    terminal.write_error(f"txgearman: {name} was not dropped from any server; --with-jobs would drop it and its jobs")
    return code or ExitCode.REFUSED


# Cancelling.


async def cancel(terminal: Terminal, servers: Servers, timeout: float, handles: tuple[str, ...]) -> ExitCode:
    """Cancel jobs, one after the other."""
    codes = []
    for text in handles:
        selected, job_handles = _parse_handle(terminal, servers, text)
        async with make_admin(terminal, selected, timeout) as admin:
            codes.append(await _cancel(terminal, admin, text, job_handles))
    return first_failure(codes)


def _parse_handle(terminal: Terminal, servers: Servers, text: str) -> tuple[Servers, list[JobHandle]]:
    """Return the servers to ask about a handle, and the handle on each. A handle without a server is asked of all."""
    with usage_errors():
        if "//" in text:
            handle = JobHandle.from_string(text)
            return replace(servers, addresses=[handle.server]), [handle]
        names = [parse_address(address, terminal.reactor)[0] for address in servers.addresses]
        return servers, [JobHandle(name, text.encode()) for name in names]


async def _cancel(terminal: Terminal, admin: GearmanAdmin, text: str, handles: list[JobHandle]) -> ExitCode:
    errors: dict[str, GearmanError] = {}
    with usage_errors():
        cancelled = [(handle.server, admin.cancel_job(handle)) for handle in handles]
    for server, deferred in cancelled:
        try:
            await deferred
        except (NoServersAvailable, ServerError) as error:
            errors[server] = error
    if len(errors) < len(handles):
        return ExitCode.DONE
    terminal.write_error(f"txgearman: {text} was not cancelled")
    return report_errors(terminal, errors)


# Round trips.


async def ping(terminal: Terminal, servers: Servers, count: int, interval: float) -> ExitCode:
    """Measure and print the round-trip time to each server, `count` times."""
    with usage_errors():
        client = GearmanClient(
            servers.addresses,
            reactor=terminal.reactor,
            exceptions=False,
            connect_timeout=servers.connect_timeout,
            tls=servers.tls_options(),
        )
    codes = []
    async with client:
        for number in range(count):
            if number:
                await deferLater(terminal.reactor, interval)
            codes.append(await _ping(terminal, client))
    return first_failure(codes)


async def _ping(terminal: Terminal, client: GearmanClient) -> ExitCode:
    try:
        seconds = await client.echo(b"txgearman")
    except NoServersAvailable as error:
        seconds = {}
        reasons: Mapping[str, BaseException] = error.reasons
    else:
        reasons = {each.address: each.last_error for each in client.servers if each.last_error is not None}
    for address in (server.address for server in client.servers):
        if address in seconds:
            await terminal.write(f"{address}\t{seconds[address] * 1000:.3f} ms\n".encode())
        else:
            terminal.write_error(f"txgearman: {address}: {reasons.get(address, 'no answer')}")
    return ExitCode.DONE if len(seconds) == len(client.servers) else ExitCode.NO_SERVER
