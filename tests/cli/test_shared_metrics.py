"""Metrics of child processes: added up, kept over the ends of children, in a bounded number of files."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from txgearman.cli.shared_metrics import ChildMetrics, SharedMetrics
from txgearman.metrics import PrometheusObserver

from ..file_values import restored_values
from ..processes import ROOT


class Parent:
    """The metrics of a parent, whose children are in this process, one after the other."""

    def __init__(self) -> None:
        self.metrics = SharedMetrics()
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"txgearman_{name}", labels)

    def run_child(self, place: int, name: int, *, jobs: int = 0, tasks: int = 0) -> None:
        """Do what a child does that has ended some jobs, and still has tasks in flight."""
        with restored_values():
            ChildMetrics(self.metrics.directory, place, name, os.getppid())
            observer = PrometheusObserver(registry=CollectorRegistry())
            observer.batch_started("f", tasks + jobs)
            observer.batch_finished("f", {"completed": jobs}, 0.5)

    @property
    def files(self) -> list[str]:
        return sorted(os.listdir(self.metrics.directory))


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.metrics.close()


def test_metrics_of_children_are_added_up(parent: Parent) -> None:
    parent.run_child(1, 0, jobs=2, tasks=3)
    parent.run_child(2, 0, jobs=4, tasks=5)
    assert parent.value("tasks_total", function="f", outcome="completed") == 6
    assert parent.value("tasks_in_flight", function="f") == 8


def test_counters_outlive_children_and_gauges_do_not(parent: Parent) -> None:
    """However many children there are, there is a file of each kind for each name."""
    for number in range(6):
        parent.run_child(1, number % 2, jobs=2, tasks=1)
        assert parent.value("tasks_in_flight", function="f") == 1
        parent.metrics.child_ended(1, number % 2)
    assert parent.value("tasks_total", function="f", outcome="completed") == 12
    assert parent.value("tasks_in_flight", function="f") is None
    assert parent.files == ["counter_1-0.db", "counter_1-1.db"]


def test_files_of_other_processes_are_not_read(parent: Parent) -> None:
    """Such as those of a pool that a child has started; nor is a file that a child has just opened."""
    parent.run_child(1, 0, jobs=1)
    directory = Path(parent.metrics.directory)
    (directory / "counter_1234.db").write_bytes((directory / "counter_1-0.db").read_bytes())
    (directory / "counter_2-0.db").touch()
    assert parent.value("tasks_total", function="f", outcome="completed") == 1


def test_forked_process_writes_files_of_its_own(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    with restored_values():
        ChildMetrics(parent.metrics.directory, 1, 0, os.getppid())
        gauge = Gauge("g", "A gauge.", registry=CollectorRegistry(), multiprocess_mode="livesum")
        gauge.set(1)
        monkeypatch.setattr(os, "getpid", lambda: 1234)
        gauge.set(2)
    assert parent.files == ["gauge_livesum_1-0-1234.db", "gauge_livesum_1-0.db"]
    assert parent.registry.get_sample_value("g") == 1


def test_directory_is_removed() -> None:
    parent = Parent()
    parent.run_child(1, 0, jobs=1)
    parent.metrics.close()
    assert not os.path.exists(parent.metrics.directory)
    parent.metrics.close()  # nor is it an error if somebody else has removed it


@pytest.mark.parametrize("other", [False, True])
def test_children_whose_parent_was_killed_remove_their_files(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """The last one removes the directory."""
    ends: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", ends.append)
    parent.run_child(1, 0, jobs=1)
    parent.run_child(1, 1, jobs=1)
    if other:
        parent.run_child(2, 0, jobs=1)
    files = parent.files
    ends[1]()
    assert parent.files == files  # the parent lives
    monkeypatch.setattr(os, "getppid", lambda: 1)
    ends[1]()
    assert not other or parent.files == ["counter_2-0.db", "gauge_livesum_2-0.db"]
    assert os.path.exists(parent.metrics.directory) is other
    ends[0]()  # its files are gone already


CHILD = """
import os, sys
from txgearman.cli.shared_metrics import ChildMetrics
ChildMetrics(sys.argv[1], int(sys.argv[2]), 0, os.getppid())
from txgearman.metrics import PrometheusObserver
PrometheusObserver().batch_finished("f", {"completed": 1}, 0.5)
from prometheus_client import Histogram
Histogram("seconds", "Of a program.").observe(0.5)
"""


@pytest.mark.process
def test_metrics_of_processes_are_added_up(parent: Parent) -> None:
    for place in ("1", "2"):
        subprocess.run([sys.executable, "-c", CHILD, parent.metrics.directory, place], cwd=ROOT, check=True)
    assert parent.value("tasks_total", function="f", outcome="completed") == 2
    assert parent.registry.get_sample_value("seconds_count") == 2
