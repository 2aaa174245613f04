"""``txgearman top``: servers and functions, kept up to date."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..admin.commands import FunctionStatus
from ..admin.reports import ServerReport, query_reports
from .admin import make_admin
from .exit_codes import ExitCode
from .options import Servers
from .screen import View, answer_limit, watch
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

    def update(self, reports: Iterable[ServerReport], now: float) -> Table:
        """Return a table of functions, the busiest first. A server that did not answer does not affect the rates.

        Functions that have jobs and no worker are wrong, and come before the others.
        """
        totals: dict[bytes, _Totals] = {}
        for report in reports:
            for status in report.functions.values():
                key = (report.address, status.function)
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

    def update(self, reports: Sequence[ServerReport], now: float) -> Table:
        """Return a table of all servers, those that have not answered first.

        :param now: time of the answers, in POSIX seconds.
        """
        clock = time.strftime("%H:%M:%S", time.localtime(now))
        self._answered |= {report.address: clock for report in reports if report.error is None}
        self._versions |= {report.address: report.version for report in reports if report.version is not None}
        ordered = sorted(reports, key=lambda report: report.error is None)
        return Table(
            SERVER_COLUMNS, list(map(self._row, ordered)), range(sum(each.error is not None for each in ordered))
        )

    def _row(self, report: ServerReport) -> tuple[Any, ...]:
        last = self._answered.get(report.address, "never"), self._versions.get(report.address)
        if report.error is not None:
            return report.address, "DOWN", None, None, *last
        queued, running = (
            sum(getattr(each, name) for each in report.functions.values()) for name in ("queued", "running")
        )
        return report.address, "up", queued, running, *last


async def top(terminal: Terminal, servers: Servers, timeout: float, interval: float, count: int | None) -> ExitCode:
    """Update the display `count` times, or until the key q or a signal.

    Where there is no screen, a table of functions is printed at each update.
    """
    history, log = History(), ServerLog()
    limit = answer_limit(terminal, timeout, interval) or timeout
    async with make_admin(terminal, servers, timeout) as admin:

        async def query() -> View:
            reports = await query_reports(admin, limit)
            now = terminal.reactor.seconds()
            errors = {report.address: report.error for report in reports if report.error is not None}
            return View("top", [log.update(reports, now), history.update(reports, now)], errors, NOTE)

        return await watch(terminal, query, interval, count=count)
