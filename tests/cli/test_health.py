"""Pages of a parent: its children's metrics added up, and what is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from txgearman.cli.health import ParentHealthServer
from txgearman.cli.shared_metrics import ChildMetrics
from txgearman.cli.terminal import Terminal
from txgearman.metrics import PrometheusObserver

from ..file_values import restored_values
from ..watched_log import WatchedLog
from .harness import reactor
from .test_worker_app import get


class Children:
    """A collector of the parent's."""

    def collect(self) -> list[GaugeMetricFamily]:
        return [GaugeMetricFamily("children", "Children.", value=2)]


async def test_pages_of_a_parent() -> None:
    wrong: list[str] = []
    missing = ["child 1: connecting"]
    pages = ParentHealthServer("0")
    pages.registry.register(Children())
    with WatchedLog() as log:
        async with pages.serving(Terminal(reactor), lambda: wrong, lambda: missing) as metrics:
            with restored_values():
                ChildMetrics(metrics.directory, 1, 0, os.getppid())
                observer = PrometheusObserver(registry=CollectorRegistry())
                observer.batch_finished("f", {"completed": 3}, 0.5)
            (url,) = re.findall(r"http://[\d.:]+", log.texts()[0])
            status, text = await get(f"{url}/metrics")
            assert status == 200
            lines = ['txgearman_tasks_total{function="f",outcome="completed"} 3.0', "children 2.0"]
            assert set(lines) <= set(text.splitlines())
            assert "\nprocess_open_fds " in text
            assert await get(f"{url}/healthz") == (200, "ok\n")
            assert await get(f"{url}/readyz") == (503, "child 1: connecting\n")
            wrong.append("supervision has stopped")
            missing.clear()
            assert await get(f"{url}/healthz") == (503, "supervision has stopped\n")
            assert await get(f"{url}/readyz") == (200, "ok\n")
    assert not Path(metrics.directory).exists()
    assert os.path.basename(metrics.directory).startswith("txgearman-metrics-")
