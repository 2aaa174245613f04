"""``txgearman check``: a Nagios plugin, and a probe for containers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import click
from twisted.internet.defer import TimeoutError as DeferredTimeout

from ..admin.admin import GearmanAdmin
from ..admin.commands import FunctionStatus, WorkerInfo
from ..admin.reports import ServerReport, query_reports
from ..validation import printable_name
from .admin import make_admin
from .nagios import Range, State, performance, plain
from .options import Servers
from .server_errors import describe_error
from .terminal import Terminal

__all__ = ["Limits", "check", "check_worker"]

MAX_PROBLEMS: Final = 10
"""Problems that the line names; of the others it has the number."""

WORST: Final = (State.CRITICAL, State.WARNING, State.UNKNOWN, State.OK)
"""The worst state first: what is known to be wrong comes before what is unknown."""


@dataclass(frozen=True)
class Limits:
    """When there is an alert for a function.

    :ivar warning, critical: ranges of the number of waiting jobs.
    :ivar workers: fewest workers; None if there must be one only where jobs wait.
    """

    warning: Range | None = None
    critical: Range | None = None
    workers: int | None = None


@dataclass(frozen=True)
class _Problem:
    """Something that is not OK."""

    state: State
    text: str


async def check(
    terminal: Terminal, functions: Sequence[bytes], servers: Servers, timeout: float, limits: Limits
) -> State:
    """Check functions on all servers, and print one line.

    :param functions: their names, without the prefix; all functions if it is empty.
    """

    async def query(admin: GearmanAdmin) -> tuple[State, str]:
        reports = await query_reports(admin, timeout)
        return _judge(reports, [_with_prefix(servers, name) for name in functions], limits)

    return await _report(terminal, servers, timeout, query)


async def check_worker(
    terminal: Terminal, client_id: bytes, functions: Sequence[bytes], servers: Servers, timeout: float
) -> State:
    """Check that a worker is connected to a server and offers functions there, and print one line."""

    async def query(admin: GearmanAdmin) -> tuple[State, str]:
        answers = await admin.workers().addTimeout(2 * timeout, terminal.reactor)
        if not answers.results:
            reasons = [describe_error(address, error) for address, error in answers.errors.items()]
            return State.UNKNOWN, plain("; ".join(reasons))
        wanted = {_with_prefix(servers, name) for name in functions}
        return _judge_worker(client_id, wanted, answers.results)

    return await _report(terminal, servers, timeout, query)


async def _report(
    terminal: Terminal,
    servers: Servers,
    timeout: float,
    query: Callable[[GearmanAdmin], Awaitable[tuple[State, str]]],
) -> State:
    """Print the state and the text that a query returns. What can't be checked is unknown."""
    try:
        limited = replace(servers, connect_timeout=min(servers.connect_timeout, timeout))
        async with make_admin(terminal, limited, timeout) as admin:
            state, text = await query(admin)
    except click.UsageError as error:
        state, text = State.UNKNOWN, plain(error.format_message())
    except DeferredTimeout:
        state, text = State.UNKNOWN, f"no answer within {2 * timeout:g} s"
    await terminal.write(f"GEARMAN {state.name} - {text}\n".encode("utf-8", "backslashreplace"))
    return state


def _with_prefix(servers: Servers, name: bytes) -> bytes:
    return servers.prefix + b"\t" + name if servers.prefix else name


# Functions.


def _judge(reports: Sequence[ServerReport], wanted: Sequence[bytes], limits: Limits) -> tuple[State, str]:
    """Return the state and the text for what servers have reported."""
    up = [report for report in reports if report.error is None]
    problems = [
        _Problem(State.CRITICAL, plain(describe_error(report.address, report.error)))
        for report in reports
        if report.error is not None
    ]
    known = {name for report in up for name in report.functions}
    if up:
        problems += [
            _Problem(State.UNKNOWN, f"there is no function {plain(printable_name(name))}")
            for name in wanted
            if name not in known and not limits.workers
        ]
    data = []
    waiting = 0
    for report in up:
        where = f" on {report.address}" if len(reports) > 1 else ""
        for name in wanted or report.functions:
            status = report.functions.get(name, FunctionStatus(name, 0, 0, 0))
            problems += [replace(each, text=f"{each.text}{where}") for each in _problems(status, limits)]
            data += _performance(status, limits, f"{report.address} " if where else "")
            waiting += status.queued
    summary = f"{len(up)} of {len(reports)} servers, {waiting} waiting jobs"
    return _worst(problems), " | ".join(filter(None, [_text(problems) or summary, " ".join(data)]))


def _problems(status: FunctionStatus, limits: Limits) -> list[_Problem]:
    name = plain(printable_name(status.function))
    found = []
    if limits.workers is None and status.queued and not status.workers:
        found.append(_Problem(State.CRITICAL, f"{name}: {status.queued} waiting jobs and no worker"))
    elif status.workers < (limits.workers or 0):
        found.append(_Problem(State.CRITICAL, f"{name}: {status.workers} workers"))
    for state, limit in ((State.CRITICAL, limits.critical), (State.WARNING, limits.warning)):
        if limit is not None and limit.alerts(status.queued):
            return [*found, _Problem(state, f"{name}: {status.queued} waiting jobs")]
    return found


def _performance(status: FunctionStatus, limits: Limits, where: str) -> list[str]:
    label = f"{where}{printable_name(status.function)}"
    return [
        performance(f"{label} waiting", status.queued, limits.warning, limits.critical),
        performance(f"{label} running", status.running),
        performance(f"{label} workers", status.workers),
    ]


def _worst(problems: Sequence[_Problem]) -> State:
    states = {problem.state for problem in problems}
    return next((state for state in WORST if state in states), State.OK)


def _text(problems: list[_Problem]) -> str:
    """Return what is wrong, the worst first."""
    sorted_problems = sorted(problems, key=lambda problem: WORST.index(problem.state))
    texts = [problem.text for problem in sorted_problems[:MAX_PROBLEMS]]
    more = len(problems) - len(texts)
    return ", ".join([*texts, f"and {more} more"] if more else texts)


# A worker.


def _judge_worker(
    client_id: bytes, wanted: set[bytes], answers: Mapping[str, tuple[WorkerInfo, ...]]
) -> tuple[State, str]:
    name = plain(printable_name(client_id))
    found = [
        (address, set(worker.functions))
        for address, workers in answers.items()
        for worker in workers
        if worker.client_id == client_id and worker.functions
    ]
    complete = [address for address, functions in found if wanted <= functions]
    if complete:
        return State.OK, f"worker {name} is connected to {', '.join(dict.fromkeys(complete))}"
    if found:
        missing = sorted(set.intersection(*(wanted - functions for _, functions in found)))
        names = ", ".join(plain(printable_name(function)) for function in missing or wanted)
        return State.CRITICAL, f"worker {name} does not offer {names}"
    return State.CRITICAL, f"there is no worker {name}"
