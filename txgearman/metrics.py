"""Metrics of clients and workers for Prometheus, and health checks: `PrometheusObserver` and `HealthResource`.

It needs the extra ``metrics``. Import it by its name: ``from txgearman.metrics import PrometheusObserver``.
"""

from __future__ import annotations

import os
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IDelayedCall
from twisted.web.resource import Resource

from .client.client import GearmanClient
from .connection.pool import ServerInfo, ServerState
from .http_pages import MetricsPage, StatusPage
from .models import TaskInfo
from .observers import JobOutcome, ObservedJob, Observer, TaskOutcome
from .validation import MAX_NAME, MAX_REASON, short_text
from .worker.worker import GearmanWorker

__all__ = ["HealthResource", "PrometheusObserver"]

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Upper bounds of the histograms in seconds: from a job that is computed at once to one of half an hour."""

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that has prometheus_client keep all values in files, for another process that reads them."""

SERVER_INTERVAL: Final = 1.0
"""Seconds between two updates of the metrics of servers in that mode."""

Service: TypeAlias = GearmanClient | GearmanWorker


def _label(name: str | bytes) -> str:
    return short_text(name, MAX_NAME)


class _FunctionMetrics:
    """The metrics of one function's tasks or jobs, each looked up once: ``labels()`` takes longer than to count."""

    def __init__(self, function: str | bytes, ended: Counter, seconds: Histogram, going_on: Gauge) -> None:
        self._label = _label(function)
        self._ended = ended
        self._seconds = seconds
        self._outcomes: dict[str, Counter] = {}
        self._times: Histogram | None = None  # there may be none
        self.going_on = going_on.labels(self._label)

    def count(self, outcome: str, number: int = 1) -> None:
        """Count ends."""
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._ended.labels(self._label, outcome)
        counter.inc(number)

    def observe(self, seconds: float) -> None:
        """Add a time to the histogram."""
        if self._times is None:
            self._times = self._seconds.labels(self._label)
        self._times.observe(seconds)


class _Metrics(dict["str | bytes", _FunctionMetrics]):
    """Those of each function, by its name."""

    def __init__(self, ended: Counter, seconds: Histogram, going_on: Gauge) -> None:
        self._metrics = ended, seconds, going_on

    def __missing__(self, function: str | bytes) -> _FunctionMetrics:
        made = self[function] = _FunctionMetrics(function, *self._metrics)
        return made


class PrometheusObserver(Observer):
    """Observer that counts tasks, jobs and connections for Prometheus.

    ::

        metrics = PrometheusObserver()
        client = GearmanClient(["10.0.0.1"], observers=[metrics])
        metrics.watch(client)

    One observer may serve several clients and workers, whose numbers are then added up. A registry takes only one.

    ==========================================  ==========================================================
    ``txgearman_tasks_total``                   tasks that have ended, by ``function`` and ``outcome``
    ``txgearman_task_retries_total``            attempts that failed and are followed by another one
    ``txgearman_task_duration_seconds``         histogram of single tasks, from the submit to the outcome
    ``txgearman_tasks_in_flight``               tasks that were submitted and have no outcome
    ``txgearman_jobs_total``                    jobs that have ended, by ``function`` and ``outcome``
    ``txgearman_job_duration_seconds``          histogram of jobs, from the start of the function
    ``txgearman_jobs_in_progress``              jobs whose function runs
    ``txgearman_connections_total``             connections that were made and answered, by ``server``
    ``txgearman_server_ready``                  1 if all services in question are connected to the ``server``
    ``txgearman_server_tasks_in_flight``        tasks that were written to the ``server``, and have no outcome
    ==========================================  ==========================================================

    Jobs of a batch are counted as tasks, but are not in the histogram. The last two metrics are read when Prometheus
    asks, from the services that are watched.

    In the multiprocess mode of ``prometheus_client`` the numbers of all processes are added up; a server is ready
    unless a service that runs, in any of them, is not connected to it. The last two metrics are then written at each
    change of a server and every second: the observer must be one of ``observers`` of the services that it watches.

    :param services: clients and workers whose servers are reported: see `watch`.
    :param registry: where the metrics are registered; the default is the one that ``prometheus_client`` serves.
    :param buckets: upper bounds of the histograms, in seconds.
    :raises ValueError: the registry has such metrics already.
    """

    def __init__(
        self,
        services: Iterable[Service] = (),
        *,
        registry: CollectorRegistry = REGISTRY,
        buckets: Sequence[float] = BUCKETS,
    ) -> None:
        by_function, by_outcome = ["function"], ["function", "outcome"]

        def histogram(name: str, documentation: str) -> Histogram:
            return Histogram(name, documentation, by_function, buckets=buckets, registry=registry)

        def sum_gauge(name: str, documentation: str, labels: Sequence[str]) -> Gauge:
            return Gauge(name, documentation, labels, registry=registry, multiprocess_mode="livesum")

        self._tasks = _Metrics(
            Counter("txgearman_tasks", "Tasks that have ended.", by_outcome, registry=registry),
            histogram("txgearman_task_duration_seconds", "Seconds from the submit of a task to its outcome."),
            sum_gauge("txgearman_tasks_in_flight", "Tasks without an outcome.", by_function),
        )
        self._retries = Counter(
            "txgearman_task_retries", "Failed attempts that are followed by another.", by_function, registry=registry
        )
        self._jobs = _Metrics(
            Counter("txgearman_jobs", "Jobs that have ended.", by_outcome, registry=registry),
            histogram("txgearman_job_duration_seconds", "Seconds from the start of a job's function to its end."),
            sum_gauge("txgearman_jobs_in_progress", "Jobs whose function runs.", by_function),
        )
        self._connections = Counter(
            "txgearman_connections", "Connections that were made and answered.", ["server"], registry=registry
        )
        self._services: list[Service] = []
        self._server_gauges: _ServerGauges | None = None
        if MULTIPROCESS_VARIABLE in os.environ:
            self._server_gauges = _ServerGauges(self._services, registry)
        else:
            registry.register(_ServerCollector(self._services))
        self.watch(*services)

    def watch(self, *services: Service) -> None:
        """Report the servers of these clients and workers, too.

        :raises TypeError: one of them is neither.
        """
        for service in services:
            _check_service(service)
            self._services.append(service)
        if self._server_gauges is not None and any(service.running for service in services):
            self._server_gauges.update()

    def task_started(self, task: TaskInfo) -> None:
        self._tasks[task.function].going_on.inc()

    def task_retried(self, task: TaskInfo, attempt: int, reason: Exception) -> None:
        self._retries.labels(_label(task.function)).inc()

    def task_finished(self, task: TaskInfo, outcome: TaskOutcome, seconds: float) -> None:
        metrics = self._tasks[task.function]
        metrics.going_on.dec()
        metrics.count(outcome)
        metrics.observe(seconds)

    def batch_started(self, function: str | bytes, count: int) -> None:
        self._tasks[function].going_on.inc(count)

    def batch_finished(self, function: str | bytes, outcomes: Mapping[TaskOutcome, int], seconds: float) -> None:
        metrics = self._tasks[function]
        metrics.going_on.dec(sum(outcomes.values()))
        for outcome, count in outcomes.items():
            metrics.count(outcome, count)

    def job_started(self, job: ObservedJob) -> None:
        self._jobs[job.function].going_on.inc()

    def job_finished(self, job: ObservedJob, outcome: JobOutcome, seconds: float) -> None:
        metrics = self._jobs[job.function]
        metrics.going_on.dec()
        metrics.count(outcome)
        metrics.observe(seconds)

    def server_changed(self, info: ServerInfo) -> None:
        if info.state is ServerState.READY:
            self._connections.labels(_label(info.address)).inc()
        if self._server_gauges is not None:
            self._server_gauges.update()


_SERVER_READY: Final = "txgearman_server_ready", "Whether all services are connected to the server."
_SERVER_IN_FLIGHT: Final = (
    "txgearman_server_tasks_in_flight",
    "Tasks that were written to the server, and have no outcome.",
)


def _read_servers(services: Iterable[Service]) -> tuple[dict[str, bool], Counts[str]]:
    """Return whether all services are connected to each server, and the clients' tasks in flight there."""
    ready: dict[str, bool] = {}
    in_flight: Counts[str] = Counts()
    for service in services:
        for info in service.servers:
            address = _label(info.address)
            ready[address] = ready.get(address, True) and info.state is ServerState.READY
            if isinstance(service, GearmanClient):
                in_flight[address] += info.in_flight
    return ready, in_flight


class _ServerCollector(Collector):
    """Reads the state of the servers when it is asked for."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        ready, in_flight = _read_servers(self._services)
        yield _server_gauge(*_SERVER_READY, ready)
        yield _server_gauge(*_SERVER_IN_FLIGHT, in_flight)


def _server_gauge(name: str, documentation: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, documentation, labels=["server"])
    for address, value in values.items():
        gauge.add_metric([address], value)
    return gauge


class _ServerGauges:
    """Writes the state of the servers where another process reads it, at each change and every second.

    The timer runs while one of the services does: its stop is a change, too.
    """

    def __init__(self, services: Sequence[Service], registry: CollectorRegistry) -> None:
        self._services = services
        self._ready = Gauge(*_SERVER_READY, ["server"], registry=registry, multiprocess_mode="livemin")
        self._in_flight = Gauge(*_SERVER_IN_FLIGHT, ["server"], registry=registry, multiprocess_mode="livesum")
        self._written: set[str] = set()
        self._timer: IDelayedCall | None = None

    def update(self) -> None:
        """Write the state."""
        if self._timer is not None:
            self._timer.cancel()
        self._update()

    def _update(self) -> None:
        running = [service for service in self._services if service.running]
        ready, in_flight = _read_servers(running)
        self._written.update(ready)
        for address in self._written:
            # It counts as ready if no service misses it: a process that ends must not make it unready for all.
            self._ready.labels(address).set(ready.get(address, True))
            self._in_flight.labels(address).set(in_flight[address])
        self._timer = running[0]._reactor.callLater(SERVER_INTERVAL, self._update) if running else None


class HealthResource(Resource):
    """Resource of ``twisted.web`` with the pages ``metrics``, ``healthz`` and ``readyz``, to mount in a site.

    ::

        root = HealthResource([client, worker])
        reactor.listenTCP(8080, Site(root), interface="127.0.0.1")

    ``healthz`` is answered with 200 as long as the reactor runs. ``readyz`` is answered with 200 if each service runs
    and is connected to one server at least, or else with 503, and lines that say what is missing.

    :param services: clients and workers that ``readyz`` reports.
    :param registry: whose metrics ``metrics`` has.
    :raises TypeError: one of the services is neither a client nor a worker.
    """

    def __init__(self, services: Iterable[Service] = (), *, registry: CollectorRegistry = REGISTRY) -> None:
        super().__init__()
        checked = [_check_service(service) for service in services]
        self.putChild(b"metrics", MetricsPage(registry))
        self.putChild(b"healthz", StatusPage(tuple))
        self.putChild(b"readyz", StatusPage(lambda: [line for service in checked for line in _missing(service)]))


def _missing(service: Service) -> Iterator[str]:
    """Return lines that say why a service is not ready; none if it is."""
    kind = type(service).__name__
    if not service.running:
        yield f"{kind}: not running"
    elif not any(info.state is ServerState.READY for info in service.servers):
        for info in service.servers:
            reason = "" if info.last_error is None else f": {short_text(str(info.last_error), MAX_REASON)}"
            yield f"{kind}: {_label(info.address)} is {info.state.value}{reason}"


def _check_service(service: Service) -> Service:
    if not isinstance(service, (GearmanClient, GearmanWorker)):
        raise TypeError(f"services must be clients and workers, not {type(service).__name__}")
    return service
