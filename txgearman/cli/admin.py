"""The commands about servers: status, workers, jobs, ping, and those that have a server do something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ..admin.admin import Answers, GearmanAdmin
from ..client.client import GearmanClient
from ..connection.addresses import parse_address
from ..errors import GearmanError, NoServersAvailable, ServerError
from ..models import JobHandle
from .exit_codes import Exit, exit_of
from .options import Servers
from .reactor_loop import first_failure, usage
from .tables import Table, as_rich, print_table
from .terminal import Terminal

__all__ = ["Question", "admin_of", "ask", "cancel", "do", "ping", "screen", "tell_errors", "with_errors"]

Rows = Callable[[Any], Iterable[tuple[Any, ...]]]


class Question:
    """A question that is answered by a table.

    :ivar method: of `GearmanAdmin`.
    :ivar columns: their names.
    :ivar rows: makes rows of what a server answers.
    """

    def __init__(self, method: str, columns: tuple[str, ...], rows: Rows) -> None:
        self.method = method
        self.columns = columns
        self.rows = rows


def _fields(*names: str) -> Rows:
    return lambda records: (tuple(getattr(record, name) for name in names) for record in records)


def _with_functions(records: Any) -> Iterable[tuple[Any, ...]]:
    return _WORKERS(record for record in records if record.functions)


_WORKERS: Final = _fields("number", "address", "client_id", "functions")

QUESTIONS: Final[Mapping[str, Question]] = {
    "status": Question(
        "status",
        ("function", "total", "running", "workers"),
        _fields("function", "total", "running", "workers"),
    ),
    "priority-status": Question(
        "priority_status",
        ("function", "high", "normal", "low", "workers"),
        _fields("function", "high", "normal", "low", "workers"),
    ),
    "connections": Question("workers", ("connection", "address", "id", "functions"), _WORKERS),
    "workers": Question("workers", ("connection", "address", "id", "functions"), _with_functions),
    "jobs": Question(
        "jobs", ("handle", "retries", "ignored", "stored"), _fields("handle", "retries", "ignored", "stored")
    ),
    "unique-jobs": Question("unique_jobs", ("unique",), lambda uniques: ((unique,) for unique in uniques)),
    "version": Question("version", ("version",), lambda version: [(version,)]),
    "pid": Question("pid", ("pid",), lambda pid: [(pid,)]),
    "verbosity": Question("verbosity", ("verbosity",), lambda verbosity: [(verbosity,)]),
}


def admin_of(terminal: Terminal, servers: Servers, timeout: float) -> GearmanAdmin:
    """The admin client that a command uses."""
    with usage():
        return GearmanAdmin(
            servers.addresses,
            prefix=servers.prefix,
            reactor=terminal.reactor,
            server_timeout=timeout,
            connect_timeout=servers.connect_timeout,
        )


def table_of(question: Question, answers: Answers[Any]) -> Table:
    """All servers' answers in one table. Where there are several, its first column is the server."""
    several = len(answers.results) + len(answers.errors) > 1
    rows = [
        (address, *row) if several else row
        for address, answer in answers.results.items()
        for row in question.rows(answer)
    ]
    return Table(("server", *question.columns) if several else question.columns, rows)


def tell_errors(terminal: Terminal, errors: Mapping[str, GearmanError]) -> Exit:
    """Say which servers have not answered, and why; return the exit code for that."""
    for address, error in errors.items():
        terminal.say(f"txgearman: {_of_server(address, error)}")
    return first_failure([exit_of(error) or Exit.REFUSED for error in errors.values()])


def _of_server(address: str, error: GearmanError) -> str:
    return str(error) if isinstance(error, NoServersAvailable) else f"{address}: {error}"


async def ask(terminal: Terminal, name: str, servers: Servers, timeout: float, json: bool, watch: float | None) -> Exit:
    """Ask all servers, and print what they answer; with `watch`, until a signal."""
    question = QUESTIONS[name]
    async with admin_of(terminal, servers, timeout) as admin:
        call: Callable[[], Deferred[Answers[Any]]] = getattr(admin, question.method)
        if watch is None:
            answers = await call()
            await print_table(terminal, table_of(question, answers), json)
            return tell_errors(terminal, answers.errors)
        return await _watch(terminal, question, call, json, watch)


async def _watch(
    terminal: Terminal, question: Question, call: Callable[[], Deferred[Answers[Any]]], json: bool, seconds: float
) -> Exit:
    with screen(terminal, wanted=not json) as live:
        while True:
            answers = await call()
            table = table_of(question, answers)
            if live is not None:
                live.update(with_errors(as_rich(table), answers.errors), refresh=True)
            else:
                await print_table(terminal, table, json)
                tell_errors(terminal, answers.errors)
            await deferLater(terminal.reactor, seconds)


def screen(terminal: Terminal, wanted: bool = True) -> Any:
    """A `rich.live.Live` that has the whole terminal while it is entered; None if the output is shown on none."""
    if not (wanted and terminal.shows_output):
        return nullcontext()
    from rich.live import Live

    return Live(console=terminal.rich(), auto_refresh=False, screen=True)


def with_errors(drawn: Any, errors: Mapping[str, GearmanError]) -> Any:
    """What is drawn, and below it the servers that have not answered."""
    from rich.console import Group
    from rich.text import Text

    return Group(drawn, *(Text(_of_server(address, error), style="red") for address, error in errors.items()))


async def do(
    terminal: Terminal, servers: Servers, timeout: float, method: str, *arguments: Any, **options: Any
) -> Exit:
    """Have all servers do something. It is silent, unless one does not."""
    async with admin_of(terminal, servers, timeout) as admin:
        with usage():
            done = getattr(admin, method)(*arguments, **options)
        return tell_errors(terminal, (await done).errors)


# Cancelling.


async def cancel(terminal: Terminal, servers: Servers, timeout: float, handles: tuple[str, ...]) -> Exit:
    """Cancel jobs, one after the other."""
    codes = []
    for text in handles:
        for_one, asked = _handles(terminal, servers, text)
        async with admin_of(terminal, for_one, timeout) as admin:
            codes.append(await _cancel(terminal, admin, text, asked))
    return first_failure(codes)


def _handles(terminal: Terminal, servers: Servers, text: str) -> tuple[Servers, list[JobHandle]]:
    """Which servers to ask about a handle: the one that it names, or else all."""
    with usage():
        if "//" in text:
            handle = JobHandle.from_string(text)
            return Servers([handle.server], servers.prefix, servers.connect_timeout), [handle]
        names = [parse_address(address, terminal.reactor)[0] for address in servers.addresses]
        return servers, [JobHandle(name, text.encode()) for name in names]


async def _cancel(terminal: Terminal, admin: GearmanAdmin, text: str, handles: list[JobHandle]) -> Exit:
    errors: dict[str, GearmanError] = {}
    with usage():
        cancelled = [(handle.server, admin.cancel_job(handle)) for handle in handles]
    for server, deferred in cancelled:
        try:
            await deferred
        except (NoServersAvailable, ServerError) as error:
            errors[server] = error
    if len(errors) < len(handles):
        return Exit.DONE
    terminal.say(f"txgearman: {text} was not cancelled")
    return tell_errors(terminal, errors)


# Round trips.


async def ping(terminal: Terminal, servers: Servers, count: int, interval: float) -> Exit:
    """Make round trips to all servers."""
    with usage():
        client = GearmanClient(
            servers.addresses, reactor=terminal.reactor, exceptions=False, connect_timeout=servers.connect_timeout
        )
    codes = []
    async with client:
        for number in range(count):
            if number:
                await deferLater(terminal.reactor, interval)
            codes.append(await _ping(terminal, client))
    return first_failure(codes)


async def _ping(terminal: Terminal, client: GearmanClient) -> Exit:
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
            terminal.say(f"txgearman: {address}: {reasons.get(address, 'no answer')}")
    return Exit.DONE if len(seconds) == len(client.servers) else Exit.NO_SERVER
