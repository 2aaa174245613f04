"""``txgearman top``: all servers' functions at a glance, live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.task import deferLater

from ..admin.admin import Answers
from ..admin.commands import FunctionStatus
from .admin import admin_of, screen, with_errors
from .exit_codes import Exit
from .options import Servers
from .tables import Table, as_rich, print_table
from .terminal import Terminal

__all__ = ["History", "top"]

COLUMNS = ("function", "queued", "running", "workers", "change/s")


@dataclass
class _Sum:
    """A function on all servers together."""

    queued: int = 0
    running: int = 0
    workers: int = 0


@dataclass
class History:
    """What functions had at the last look, to tell how fast their jobs become more or fewer."""

    _totals: dict[tuple[str, bytes], int] = field(default_factory=dict)
    _looked: float | None = None

    def table(self, answers: Answers[tuple[FunctionStatus, ...]], now: float) -> Table:
        """The busiest functions first. A server that has not answered changes no rate."""
        sums: dict[bytes, _Sum] = {}
        changes: dict[bytes, int] = {}
        for address, functions in answers.results.items():
            for each in functions:
                total = sums.setdefault(each.function, _Sum())
                total.queued += each.queued
                total.running += each.running
                total.workers += each.workers
                before = self._totals.get((address, each.function), each.total)
                changes[each.function] = changes.get(each.function, 0) + each.total - before
                self._totals[address, each.function] = each.total
        seconds = None if self._looked is None else now - self._looked
        self._looked = now
        return Table(COLUMNS, [(name, *_numbers(sums[name], changes[name], seconds)) for name in _busiest(sums)])


def _busiest(sums: Mapping[bytes, _Sum]) -> list[bytes]:
    return sorted(sums, key=lambda name: (-sums[name].queued - sums[name].running, name))


def _numbers(total: _Sum, change: int, seconds: float | None) -> tuple[int, int, int, str | None]:
    rate = f"{change / seconds:+.1f}" if seconds else None
    return total.queued, total.running, total.workers, rate


def server_rows(answers: Answers[tuple[FunctionStatus, ...]]) -> Table:
    """What each server has, all functions together."""
    rows = [
        (
            address,
            sum(each.queued for each in functions),
            sum(each.running for each in functions),
            len(functions),
        )
        for address, functions in answers.results.items()
    ]
    return Table(("server", "queued", "running", "functions"), rows)


async def top(terminal: Terminal, servers: Servers, timeout: float, seconds: float, count: int | None) -> Exit:
    """Show it again and again, `count` times or until a signal. To a program it is a table each time."""
    history = History()
    looks = 0
    async with admin_of(terminal, servers, timeout) as admin:
        with screen(terminal) as live:
            while True:
                answers = await admin.status()
                table = history.table(answers, terminal.reactor.seconds())
                if live is None:
                    await print_table(terminal, table, json=False)
                else:
                    live.update(_drawn(table, answers), refresh=True)
                looks += 1
                if looks == count:
                    return Exit.DONE
                await deferLater(terminal.reactor, seconds)


def _drawn(table: Table, answers: Answers[tuple[FunctionStatus, ...]]) -> Any:
    from rich.console import Group

    return with_errors(Group(as_rich(server_rows(answers)), as_rich(table)), answers.errors)
