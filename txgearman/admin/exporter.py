"""Metric families of what job servers report, for Prometheus. It needs the extra ``metrics``.

Names and labels are those of gearman-exporter, so that its dashboards and alerts apply, with the label ``server``
added. There is one series for each name of a function: names are shown as the command shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..validation import printable_name, printable_text
from .commands import FunctionStatus
from .reports import ServerReport

__all__ = ["encode_reports", "families"]

_Value = Callable[[FunctionStatus], int]

_FUNCTION_GAUGES: Sequence[tuple[str, str, _Value]] = (
    ("gearman_jobs", "Jobs of the function, waiting and running.", lambda status: status.total),
    ("gearman_jobs_running", "Jobs that a worker has.", lambda status: status.running),
    ("gearman_jobs_waiting", "Jobs that wait for a worker.", lambda status: status.queued),
    ("gearman_workers", "Workers that offer the function, busy ones too.", lambda status: status.workers),
)


def families(reports: Sequence[ServerReport]) -> Iterator[Metric]:
    """Return the metric families of some reports. A server that has not answered has ``gearman_up`` only."""
    up = GaugeMetricFamily("gearman_up", "Whether the server has answered.", labels=["server"])
    version = InfoMetricFamily("gearman_version", "Version of the server.", labels=["server"])
    for report in reports:
        up.add_metric([report.address], float(report.error is None))
        if report.version is not None:
            version.add_metric([report.address], {"version": printable_text(report.version)})
    yield up
    yield version
    for name, documentation, value in _FUNCTION_GAUGES:
        gauge = GaugeMetricFamily(name, documentation, labels=["server", "function"])
        for report in reports:
            for function, status in report.functions.items():
                gauge.add_metric([report.address, printable_name(function)], value(status))
        yield gauge
    yield _by_priority(reports)


def _by_priority(reports: Iterable[ServerReport]) -> Metric:
    gauge = GaugeMetricFamily(
        "gearman_jobs_waiting_by_priority",
        "Jobs that wait for a worker, by priority. gearmand only.",
        labels=["server", "function", "priority"],
    )
    for report in reports:
        for function, status in report.queues.items():
            for priority, value in (("high", status.high), ("normal", status.normal), ("low", status.low)):
                gauge.add_metric([report.address, printable_name(function), priority], value)
    return gauge


class _Reports(Collector):
    """A collector of what has been reported already."""

    def __init__(self, reports: Sequence[ServerReport]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        return families(self._reports)


def encode_reports(reports: Sequence[ServerReport], accept: str = "") -> tuple[bytes, str]:
    """Return reports as text, and its content type.

    :param accept: the Accept header of an HTTP request, which chooses the format.
    """
    encoder, content_type = choose_encoder(accept)
    return encoder(_Reports(reports)), content_type
