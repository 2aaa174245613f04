"""``txgearman top``: servers and functions, kept up to date."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import gatherResults

from ..admin.admin import Answers, first_error
from ..admin.commands import FunctionStatus
from .admin import make_admin
from .exit_codes import ExitCode
from .options import Servers
from .screen import View, watch
from .tables import Table
from .terminal import Terminal

__all__ = ["History", "top"]

COLUMNS: Final = ("function", "queued", "running", "workers", "change/s")

SERVER_COLUMNS: Final = ("server", "state", "queued", "running", "answered", "version")

NOTE: Final = "change/s: more or fewer jobs, queued and running, a second"


@dataclass
class _Totals:
    """A function's numbers, added up over all servers."""

    queued: int = 0
    running: int = 0
    workers: int = 0
    change: int = 0

    @property
    def jobs(self) -> int:
        """Number of jobs, queued and running."""
        return self.queued + self.running

    @property
    def is_abandoned(self) -> bool:
        """Whether jobs wait for a worker, and there is none."""
        return self.queued > 0 and not self.workers

    def cells(self, seconds: float | None) -> tuple[int, int, int, float | None]:
        """Return the row of the function, without its name.

        :param seconds: time since the last update, if there was one.
        """
        return self.queued, self.running, self.workers, self.change / seconds if seconds else None

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
        """Return a table of functions, the busiest first. A server that did not answer does not affect the rates.

        Functions that have jobs and no worker are wrong, and come before the others.
        """
        totals: dict[bytes, _Totals] = {}
        for address, functions in answers.results.items():
            for status in functions:
                key = (address, status.function)
                totals.setdefault(status.function, _Totals()).add(status, self._jobs.get(key, status.total))
                self._jobs[key] = status.total
        seconds = None if self._updated_at is None else now - self._updated_at
        self._updated_at = now
        names = _sort_by_jobs(totals)
        rows = [(name, *totals[name].cells(seconds)) for name in names]
        return Table(COLUMNS, rows, range(sum(totals[name].is_abandoned for name in names)))


def _sort_by_jobs(totals: Mapping[bytes, _Totals]) -> list[bytes]:
    return sorted(totals, key=lambda name: (not totals[name].is_abandoned, -totals[name].jobs, name))


@dataclass
class ServerLog:
    """What is remembered of each server: when it has last answered, and its version."""

    _answered: dict[str, str] = field(default_factory=dict)
    _versions: dict[str, str] = field(default_factory=dict)

    def update(
        self, functions: Answers[tuple[FunctionStatus, ...]], versions: Answers[str], now: float, addresses: list[str]
    ) -> Table:
        """Return a table of all servers, those that have not answered first.

        :param now: time of the answers, in POSIX seconds.
        """
        clock = time.strftime("%H:%M:%S", time.localtime(now))
        self._answered |= dict.fromkeys(functions.results, clock)
        self._versions |= versions.results
        ordered = [*functions.errors, *(address for address in addresses if address in functions.results)]
        rows = [self._row(address, functions.results.get(address)) for address in ordered]
        return Table(SERVER_COLUMNS, rows, range(len(functions.errors)))

    def _row(self, address: str, functions: tuple[FunctionStatus, ...] | None) -> tuple[Any, ...]:
        answered, version = self._answered.get(address, "never"), self._versions.get(address)
        if functions is None:
            return address, "DOWN", None, None, answered, version
        queued, running = (sum(getattr(each, name) for each in functions) for name in ("queued", "running"))
        return address, "up", queued, running, answered, version


async def top(terminal: Terminal, servers: Servers, timeout: float, interval: float, count: int | None) -> ExitCode:
    """Update the display `count` times, or until the key q or a signal.

    Where there is no screen, a table of functions is printed at each update.
    """
    history, log = History(), ServerLog()
    async with make_admin(terminal, servers, timeout) as admin:

        async def query() -> View:
            calls: list[Any] = [admin.status(), admin.version()]
            # Both may fail: a cancel cancels both.
            functions, versions = await gatherResults(calls, consumeErrors=True).addErrback(first_error)
            addresses = [server.address for server in admin.servers]
            tables = [
                log.update(functions, versions, terminal.reactor.seconds(), addresses),
                history.update(functions, terminal.reactor.seconds()),
            ]
            return View("top", tables, functions.errors, NOTE)

        return await watch(terminal, query, interval, count=count)
