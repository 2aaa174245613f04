"""``txgearman metrics``: the jobs and workers of servers in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import click
from twisted.internet.defer import gatherResults

from ..admin.admin import Answers, GearmanAdmin, first_error
from ..admin.commands import FunctionStatus, PriorityStatus
from .admin import make_admin, report_errors
from .exit_codes import ExitCode
from .names import display_name
from .options import Servers
from .server import serve_page
from .terminal import Terminal

__all__ = ["metrics"]

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise click.UsageError(
        "this command needs the extra 'metrics': python -m pip install 'txgearman[metrics]'"
    ) from error


class _AnswersCollector(Collector):
    """Collects metrics from the answers of the servers."""

    def __init__(
        self,
        functions: Answers[tuple[FunctionStatus, ...]],
        queues: Answers[tuple[PriorityStatus, ...]],
    ) -> None:
        self._functions = functions
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        yield self._collect_up()
        for name, documentation, field in (
            ("gearman_queued_jobs", "Jobs that wait for a worker.", "queued"),
            ("gearman_running_jobs", "Jobs that a worker has.", "running"),
            ("gearman_workers", "Workers that offer the function, busy ones too.", "workers"),
        ):
            yield _gauge(name, documentation, (), self._function_values(field))
        documentation = "Jobs that wait for a worker, by priority. gearmand only."
        yield _gauge("gearman_queued_jobs_by_priority", documentation, ("priority",), self._priority_values())

    def _collect_up(self) -> Metric:
        up = GaugeMetricFamily("gearman_up", "Whether the server answers.", labels=["server"])
        for address in self._functions.results:
            up.add_metric([address], 1)
        for address in self._functions.errors:
            up.add_metric([address], 0)
        return up

    def _function_values(self, field: str) -> Iterable[tuple[list[str], int]]:
        for address, functions in self._functions.results.items():
            for status in functions:
                yield [address, display_name(status.function)], getattr(status, field)

    def _priority_values(self) -> Iterable[tuple[list[str], int]]:
        for address, functions in self._queues.results.items():
            for status in functions:
                for priority in ("high", "normal", "low"):
                    yield [address, display_name(status.function), priority], getattr(status, priority)


def _gauge(name: str, documentation: str, labels: tuple[str, ...], values: Iterable[tuple[list[str], int]]) -> Metric:
    gauge = GaugeMetricFamily(name, documentation, labels=["server", "function", *labels])
    for label_values, value in values:
        gauge.add_metric(label_values, value)
    return gauge


async def _collect(admin: GearmanAdmin) -> tuple[bytes, Answers[Any]]:
    """Query all servers; return the metrics as text, and the answers to ``status``."""
    calls: list[Any] = [admin.status(), admin.priority_status()]
    # Both may fail: a cancel cancels both.
    functions, queues = await gatherResults(calls, consumeErrors=True).addErrback(first_error)
    registry = CollectorRegistry()
    registry.register(_AnswersCollector(functions, queues))
    return generate_latest(registry), functions


async def metrics(terminal: Terminal, servers: Servers, timeout: float, listen: str | None) -> ExitCode:
    """Print the metrics once, or serve them over HTTP until a signal."""
    async with make_admin(terminal, servers, timeout) as admin:
        if listen is None:
            text, answers = await _collect(admin)
            await terminal.write(text)
            return report_errors(terminal, answers.errors)

        async def render() -> bytes:
            return (await _collect(admin))[0]

        return await serve_page(terminal, listen, "/metrics", CONTENT_TYPE_LATEST, render)
