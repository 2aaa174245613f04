"""`PrometheusObserver` and `HealthResource`: the numbers, the pages, and that promtool has nothing to complain of."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from twisted.internet.defer import Deferred
from twisted.web.resource import getChildForRequest
from twisted.web.test.requesthelper import DummyRequest

from txgearman import GearmanAdmin, GearmanClient, GearmanWorker, Job, JobFailed
from txgearman.metrics import SERVER_INTERVAL, HealthResource, PrometheusObserver
from txgearman.testing import MemoryJobServer

from .file_values import restored_values
from .wire import outcome


def fails(job: Job) -> None:
    raise JobFailed("no colour")


class Measured:
    """A client and a worker with one observer, and a server in memory."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.observer = PrometheusObserver(registry=self.registry)
        self.server = MemoryJobServer()
        self.client = self.server.client(observers=[self.observer])
        self.worker = self.server.worker(observers=[self.observer])
        self.observer.watch(self.client, self.worker)
        self.later: Deferred[bytes] = Deferred()
        self.worker.register_function("resize", lambda job: b"done")
        self.worker.register_function("fail", fails)
        self.worker.register_function("later", lambda job: self.later)
        self.server.advance()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"txgearman_{name}", labels)

    def run(self) -> None:
        """Submit some tasks, some of which have no outcome yet."""
        for _ in range(3):
            outcome(self.client.add_task("resize"))
        outcome(self.client.add_task("fail", retries=1))
        outcome(self.client.add_tasks("resize", [b""] * 4))
        outcome(self.client.add_task("later"))
        self.server.advance()
        self.server.advance(0.25)

    def close(self) -> None:
        self.later.callback(b"")
        self.server.advance(2)
        self.server.close()


def test_numbers_are_those_of_tasks_and_jobs() -> None:
    measured = Measured()
    measured.run()
    assert measured.value("tasks_total", function="resize", outcome="completed") == 7
    assert measured.value("jobs_total", function="resize", outcome="done") == 7
    assert measured.value("task_duration_seconds_count", function="resize") == 3
    assert measured.value("job_duration_seconds_count", function="resize") == 7
    assert measured.value("tasks_in_flight", function="resize") == 0
    assert measured.value("task_retries_total", function="fail") == 1
    assert measured.value("tasks_in_flight", function="later") == 1
    assert measured.value("jobs_in_progress", function="later") == 1
    measured.close()
    assert measured.value("tasks_total", function="fail", outcome="failed") == 1
    assert measured.value("jobs_total", function="fail", outcome="failed") == 2
    assert measured.value("task_duration_seconds_sum", function="later") == 0.25
    assert [measured.value(f"{what}_in_{where}", function="later") for what, where in PLACES] == [0, 0]


def test_servers_are_written_in_multiprocess_mode(tmp_path: Path) -> None:
    """At each change and every second, while a service runs. A server that no service uses is not unready."""
    with restored_values() as patch:
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        patch.setattr(values, "ValueClass", values.MultiProcessValue(lambda: "1"))
        measured = Measured()
        others = MemoryJobServer(measured.server.clock)
        measured.run()
        measured.server.advance(SERVER_INTERVAL)
        read = CollectorRegistry()
        MultiProcessCollector(read, str(tmp_path))

        def value(name: str, server: str = "memory:1") -> float | None:
            return read.get_sample_value(f"txgearman_{name}", {"server": server})

        assert (value("server_ready"), value("server_tasks_in_flight")) == (1, 1)
        measured.client.job_servers = [others.endpoint()]
        measured.worker.job_servers = [others.endpoint()]
        measured.server.advance(SERVER_INTERVAL)
        assert [value(name) for name in ("server_ready", "server_tasks_in_flight")] == [1, 0]
        outage = others.go_down()
        measured.server.advance()
        assert value("server_ready", "memory:2") == 0
        measured.client.stopService()
        measured.worker.stopService()  # it still drains
        measured.server.advance(SERVER_INTERVAL)
        assert value("server_ready", "memory:2") == 1
        outage.end()
        measured.close()
        assert measured.server.clock.getDelayedCalls() == []


PLACES = [("tasks", "flight"), ("jobs", "progress")]


def test_servers_are_read_at_the_scrape() -> None:
    measured = Measured()
    measured.run()
    assert measured.value("connections_total", server="memory:1") == 2
    assert measured.value("server_ready", server="memory:1") == 1
    assert measured.value("server_tasks_in_flight", server="memory:1") == 1
    measured.server.advance(1)
    measured.worker.stopService()
    assert measured.value("server_ready", server="memory:1") == 0
    measured.close()
    assert measured.value("server_tasks_in_flight", server="memory:1") == 0


def test_names_can_not_break_the_text() -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry=registry)
    observer.batch_finished(b'a"\n\xff\x1b\\', {"completed": 1}, 0.0)
    lines = generate_latest(registry).decode().splitlines()
    [line] = [line for line in lines if line.startswith("txgearman_tasks_total")]
    assert line.endswith('outcome="completed"} 1.0')
    assert line.isprintable()


def test_registry_takes_one_observer() -> None:
    registry = CollectorRegistry()
    PrometheusObserver(registry=registry)
    with pytest.raises(ValueError, match="txgearman_tasks"):
        PrometheusObserver(registry=registry)


@pytest.mark.process("promtool")
def test_promtool_accepts_the_metrics() -> None:
    measured = Measured()
    measured.run()
    text = generate_latest(measured.registry)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    measured.close()


# The pages.


def get(resource: HealthResource, path: str) -> tuple[int, str, str]:
    """Return the status, the type and the text of a page."""
    request: Any = DummyRequest([path.encode()])
    request.method = b"GET"
    page: Any = getChildForRequest(resource, request).render(request)
    [content_type] = request.responseHeaders.getRawHeaders("Content-Type")
    return request.responseCode or 200, content_type, page.decode()


def test_pages_of_a_service_that_is_ready() -> None:
    measured = Measured()
    resource = HealthResource([measured.client, measured.worker], registry=measured.registry)
    assert get(resource, "healthz") == (200, "text/plain; charset=utf-8", "ok\n")
    assert get(resource, "readyz") == (200, "text/plain; charset=utf-8", "ok\n")
    status, content_type, text = get(resource, "metrics")
    assert (status, content_type.partition(";")[0]) == (200, "text/plain")
    assert 'txgearman_server_ready{server="memory:1"} 1.0' in text.splitlines()
    measured.close()


def test_pages_of_a_service_that_is_not_ready() -> None:
    measured = Measured()
    resource = HealthResource([measured.client, measured.worker], registry=measured.registry)
    outage = measured.server.go_down()
    measured.server.advance()
    measured.worker.stopService()
    status, _, text = get(resource, "readyz")
    lines = text.splitlines()
    assert (status, lines[1]) == (503, "GearmanWorker: not running")
    assert lines[0].startswith("GearmanClient: memory:1 is waiting: ")
    assert get(resource, "healthz")[0] == 200
    outage.end()
    measured.server.advance(2)
    measured.close()


def test_service_that_has_never_connected_is_not_ready() -> None:
    server = MemoryJobServer()
    client = GearmanClient([server.endpoint()], reactor=server.clock, heartbeat=None)
    client.startService()
    assert get(HealthResource([client]), "readyz")[2] == "GearmanClient: memory:1 is connecting\n"
    client.stopService()
    server.close()


@pytest.mark.guarantee(number=8)
def test_only_clients_and_workers_are_services() -> None:
    services: Any = [GearmanWorker(["h"]), GearmanAdmin(["h"])]
    for make in (lambda: HealthResource(services), lambda: PrometheusObserver(services, registry=CollectorRegistry())):
        with pytest.raises(TypeError, match="services must be clients and workers, not GearmanAdmin"):
            make()
