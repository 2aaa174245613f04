"""The library's client on this Python and on others, such as PyPy: ``python -m benchmarks.pythons pypy3``.

They take turns, with a fresh gearmand each time, and with the same worker on this Python. PyPy compiles what runs
often: what that costs shows in the runs of fewer jobs, each of which has a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from . import records
from .cases import Case, Group, measure

WORKLOADS = ("background", "window")

JOBS = (3_000, 30_000, 300_000)

VERSION = """
import platform, sys
version = getattr(sys, "pypy_version_info", sys.version_info)
print(platform.python_implementation(), ".".join(map(str, version[:3])))
"""


def group_of(workload: str) -> Group:
    """Return the group of single tasks that is measured."""
    return Group(workload, workload, (Case("single tasks"),))


def name_of(python: str) -> str:
    """Return the name and the version of an interpreter."""
    return subprocess.run([python, "-c", VERSION], check=True, capture_output=True, text=True).stdout.strip()


def compare(pythons: list[str], group: Group, jobs: int, turns: int) -> list[dict[str, Any]]:
    """Return a row for each Python: medians, and the medians of each turn's ratios to the first Python."""
    results = [[_measure(group, jobs, python) for python in pythons] for _ in range(turns)]
    return [
        {
            "python": name_of(python),
            "workload": group.workload,
            "jobs": jobs,
            "jobs_per_second": median(turn[place]["jobs_per_second"] for turn in results),
            "cpu_us": median(turn[place]["cpu_us"] for turn in results),
            "speed_to_first": median(turn[place]["jobs_per_second"] / turn[0]["jobs_per_second"] for turn in results),
            "cpu_to_first": median(turn[place]["cpu_us"] / turn[0]["cpu_us"] for turn in results if turn[0]["cpu_us"]),
        }
        for place, python in enumerate(pythons)
    ]


def _measure(group: Group, jobs: int, python: str) -> dict[str, float]:
    figures = measure(group, group.cases[0], jobs, python)
    assert figures is not None  # it needs no compiler
    return figures


def show(row: dict[str, Any]) -> None:
    """Print it."""
    figures = f"{row['jobs_per_second']:10,.0f} {row['cpu_us']:10.2f} {row['speed_to_first']:7.2f}"
    print(f"{row['python']:18} {row['workload']:11} {row['jobs']:8,} {figures} {row['cpu_to_first']:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pythons")
    parser.add_argument("pythons", nargs="+", help="interpreters of environments in which the library is installed")
    parser.add_argument("--turns", type=int, default=5, help="how often each is run")
    parser.add_argument("--jobs", type=int, nargs="+", default=JOBS, help="how many, in a process of its own each")
    parser.add_argument("--record", type=Path, help="a file to write the figures to, as JSON")
    options = parser.parse_args()
    print(f"{'python':18} {'workload':11} {'jobs':>8} {'jobs/s':>10} {'µs of CPU':>10}   speed    CPU")
    rows = []
    for workload in WORKLOADS:
        for jobs in options.jobs:
            for row in compare([sys.executable, *options.pythons], group_of(workload), jobs, options.turns):
                rows.append(row)
                show(row)
    if options.record:
        records.write(options.record, {"turns": options.turns, "pythons": rows})


if __name__ == "__main__":
    main()
