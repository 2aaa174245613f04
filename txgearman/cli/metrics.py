"""``txgearman metrics``: what the servers have to do, in Prometheus' text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import click
from twisted.internet.defer import gatherResults

from ..admin.admin import Answers, GearmanAdmin
from ..admin.commands import FunctionStatus, PriorityStatus
from .admin import admin_of, tell_errors
from .exit_codes import Exit
from .options import Servers
from .server import serve_pages
from .terminal import Terminal, printable

__all__ = ["metrics"]

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise click.UsageError("this needs the extra 'metrics': python -m pip install 'txgearman[metrics]'") from error


class _Answers(Collector):
    """What the servers have answered, as metrics."""

    def __init__(
        self,
        functions: Answers[tuple[FunctionStatus, ...]],
        queues: Answers[tuple[PriorityStatus, ...]],
    ) -> None:
        self._functions = functions
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        yield self._up()
        for name, documentation, field in (
            ("gearman_queued_jobs", "Jobs that wait for a worker.", "queued"),
            ("gearman_running_jobs", "Jobs that a worker has.", "running"),
            ("gearman_workers", "Workers that offer the function, busy ones too.", "workers"),
        ):
            yield _gauge(name, documentation, (), self._of_functions(field))
        documentation = "Jobs that wait for a worker, by priority. Only gearmand tells it."
        yield _gauge("gearman_queued_jobs_by_priority", documentation, ("priority",), self._by_priority())

    def _up(self) -> Metric:
        up = GaugeMetricFamily("gearman_up", "Whether the server answers.", labels=["server"])
        for address in self._functions.results:
            up.add_metric([address], 1)
        for address in self._functions.errors:
            up.add_metric([address], 0)
        return up

    def _of_functions(self, field: str) -> Iterable[tuple[list[str], int]]:
        for address, functions in self._functions.results.items():
            for each in functions:
                yield [address, printable(each.function)], getattr(each, field)

    def _by_priority(self) -> Iterable[tuple[list[str], int]]:
        for address, functions in self._queues.results.items():
            for each in functions:
                for priority in ("high", "normal", "low"):
                    yield [address, printable(each.function), priority], getattr(each, priority)


def _gauge(name: str, documentation: str, labels: tuple[str, ...], rows: Iterable[tuple[list[str], int]]) -> Metric:
    gauge = GaugeMetricFamily(name, documentation, labels=["server", "function", *labels])
    for values, value in rows:
        gauge.add_metric(values, value)
    return gauge


async def _measure(admin: GearmanAdmin) -> tuple[bytes, Answers[Any]]:
    """One look at all servers."""
    calls: list[Any] = [admin.status(), admin.priority_status()]
    functions, queues = await gatherResults(calls)
    registry = CollectorRegistry()
    registry.register(_Answers(functions, queues))
    return generate_latest(registry), functions


async def metrics(terminal: Terminal, servers: Servers, timeout: float, listen: str | None) -> Exit:
    """Print the metrics once, or serve them over HTTP."""
    async with admin_of(terminal, servers, timeout) as admin:
        if listen is None:
            text, answers = await _measure(admin)
            await terminal.write(text)
            return tell_errors(terminal, answers.errors)

        async def page() -> bytes:
            return (await _measure(admin))[0]

        return await serve_pages(terminal, listen, "/metrics", CONTENT_TYPE_LATEST, page)
