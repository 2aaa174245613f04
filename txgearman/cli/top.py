"""``txgearman top``: servers and functions, kept up to date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.task import deferLater

from ..admin.admin import Answers
from ..admin.commands import FunctionStatus
from .admin import append_errors, live_screen, make_admin
from .exit_codes import ExitCode
from .options import Servers
from .tables import Table, print_table, rich_table
from .terminal import Terminal

__all__ = ["History", "top"]

COLUMNS: Final = ("function", "queued", "running", "workers", "change/s")


@dataclass
class _Totals:
    """A function's numbers, added up over all servers."""

    queued: int = 0
    running: int = 0
    workers: int = 0
    change: int = 0

    def add(self, status: FunctionStatus, previous: int) -> None:
        """Add the numbers of one server, which had `previous` jobs of the function at the last update."""
        self.queued += status.queued
        self.running += status.running
        self.workers += status.workers
        self.change += status.total - previous


@dataclass
class History:
    """Each function's number of jobs at the last update, from which rates of change are computed."""

    _jobs: dict[tuple[str, bytes], int] = field(default_factory=dict)
    _updated_at: float | None = None

    def update(self, answers: Answers[tuple[FunctionStatus, ...]], now: float) -> Table:
        """Return a table of functions, the busiest first. A server that did not answer does not affect the rates."""
        totals: dict[bytes, _Totals] = {}
        for address, functions in answers.results.items():
            for status in functions:
                key = (address, status.function)
                totals.setdefault(status.function, _Totals()).add(status, self._jobs.get(key, status.total))
                self._jobs[key] = status.total
        seconds = None if self._updated_at is None else now - self._updated_at
        self._updated_at = now
        return Table(COLUMNS, [(name, *_format_totals(totals[name], seconds)) for name in _sort_by_jobs(totals)])


def _sort_by_jobs(totals: Mapping[bytes, _Totals]) -> list[bytes]:
    return sorted(totals, key=lambda name: (-totals[name].queued - totals[name].running, name))


def _format_totals(totals: _Totals, seconds: float | None) -> tuple[int, int, int, str | None]:
    rate = f"{totals.change / seconds:+.1f}" if seconds else None
    return totals.queued, totals.running, totals.workers, rate


def server_table(answers: Answers[tuple[FunctionStatus, ...]]) -> Table:
    """Return a table of servers, with the numbers of all functions added up."""
    rows = [
        (
            address,
            sum(status.queued for status in functions),
            sum(status.running for status in functions),
            len(functions),
        )
        for address, functions in answers.results.items()
    ]
    return Table(("server", "queued", "running", "functions"), rows)


async def top(terminal: Terminal, servers: Servers, timeout: float, interval: float, count: int | None) -> ExitCode:
    """Update the display `count` times, or until a signal. If it is not a terminal, print a table at each update."""
    history = History()
    updates = 0
    async with make_admin(terminal, servers, timeout) as admin:
        with live_screen(terminal) as live:
            while True:
                answers = await admin.status()
                table = history.update(answers, terminal.reactor.seconds())
                if live is None:
                    await print_table(terminal, table, json=False)
                else:
                    live.update(_render(table, answers), refresh=True)
                updates += 1
                if updates == count:
                    return ExitCode.DONE
                await deferLater(terminal.reactor, interval)


def _render(table: Table, answers: Answers[tuple[FunctionStatus, ...]]) -> Any:
    from rich.console import Group

    return append_errors(Group(rich_table(server_table(answers)), rich_table(table)), answers.errors)
