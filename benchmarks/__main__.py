"""All benchmarks, against the floor of the same run: ``python -m benchmarks``.

Each case is run several times, in turn with its floor or with the case that it is compared with, each time in a process
and with a gearmand of its own; the table has medians, and the median of the ratios of each turn. Absolute figures are
the machine's; the ratios are ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from . import records
from .servers import job_server, tls_before

MIB = 1024 * 1024


@dataclass(frozen=True)
class Case:
    """One row of the table.

    :ivar beside: the case that it is compared with; empty for the floor.
    :ivar module: what is run; the worker and the server in memory are compared with nothing.
    """

    name: str
    workload: str
    jobs: int
    payload: int = 16
    style: str = "callbacks"
    beside: str = ""
    module: str = "client"

    @property
    def compared(self) -> bool:
        return self.module == "client" and self.style != "memory"


CASES = [
    Case("background", "background", 20_000),
    Case("all in flight", "flight", 20_000),
    Case("window of 100", "window", 20_000),
    Case("Twisted alone: background", "background", 20_000, style="bare", beside="background"),
    Case("Twisted alone: all in flight", "flight", 20_000, style="bare", beside="all in flight"),
    Case("Twisted alone: window of 100", "window", 20_000, style="bare", beside="window of 100"),
    Case("one at a time", "latency", 2_000),
    Case("4 KiB, window", "window", 10_000, 4096),
    Case("1 MiB, results kept", "flight", 200, MIB, style="keep"),
    Case("1,000 in flight", "flight", 1_000),
    Case("10,000 in flight", "flight", 10_000),
    Case("100,000 in flight", "flight", 100_000, beside="10,000 in flight"),
    Case("with timeout=", "flight", 20_000, style="timeout", beside="all in flight"),
    Case("async def", "flight", 20_000, style="async", beside="all in flight"),
    Case("inlineCallbacks", "flight", 20_000, style="inline", beside="all in flight"),
    Case("map()", "window", 20_000, style="map", beside="window of 100"),
    Case("TLS, window of 100", "window", 20_000, style="tls", beside="window of 100"),
    Case("worker", "window", 20_000, module="worker"),
    Case("server in memory", "window", 5_000, style="memory"),
]

BY_NAME = {case.name: case for case in CASES}


def measure(case: Case, module: str, python: str = sys.executable) -> dict[str, float]:
    """Run it once, by this or another Python."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(job_server(worker=module != "worker"))
        of_jobs = [f"--jobs={case.jobs}", f"--payload={case.payload}"]
        command = [python, "-m", f"benchmarks.{module}", *of_jobs, f"--workload={case.workload}"]
        if module == "worker":
            subprocess.run(
                [sys.executable, "-m", "benchmarks.floor", f"--port={port}", "--workload=background", *of_jobs],
                check=True,
                capture_output=True,
            )
        elif module == "client":
            command.append(f"--style={case.style}")
            if case.style == "tls":
                port, roots = stack.enter_context(tls_before(port))
                command.append(f"--roots={roots}")
        printed = subprocess.run([*command, f"--port={port}"], check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(printed)
    return result


def run(case: Case, turns: int) -> dict[str, Any]:
    """Run it in turn with what it is compared with; medians, and ratios of each turn.

    CPU time is compared job by job: with the 10,000 jobs beside it, 100,000 may take ten times theirs.
    """
    pairs = [(measure(case, case.module), _beside(case)) for _ in range(turns)]
    row: dict[str, Any] = {"case": case.name, "jobs": case.jobs, "payload": case.payload}
    for key in pairs[0][0]:
        row[key] = median(own[key] for own, _ in pairs)
    if case.style == "keep":
        row["memory_of_results"] = row["bytes_per_job"] / case.payload
    if case.compared:
        row["beside"] = case.beside or "floor"
        row["speed_ratio"] = median(own["jobs_per_second"] / other["jobs_per_second"] for own, other in pairs)
        row["cpu_ratio"] = median(own["cpu_us"] / other["cpu_us"] for own, other in pairs if other["cpu_us"])
    return row


def _beside(case: Case) -> dict[str, float]:
    if not case.compared:
        return {}
    return measure(BY_NAME[case.beside], "client") if case.beside else measure(case, "floor")


def show(row: dict[str, Any]) -> None:
    """Print it."""
    ratios = f"{row['speed_ratio']:6.2f} {row['cpu_ratio']:6.2f}  {row['beside']:17}" if "beside" in row else " " * 32
    more = f"{row['median_us']:.0f} µs each" if "median_us" in row else ""
    more += f"{row['memory_of_results']:.2f} of the results' size" if "memory_of_results" in row else ""
    figures = f"{row['jobs_per_second']:11,.0f} {row['cpu_us']:9.2f} {row['bytes_per_job']:10,.0f} {ratios}"
    print(f"{row['case']:28} {figures} {more}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--turns", type=int, default=5, help="how often each case is run")
    parser.add_argument("--only", default="", help="the cases whose names have this in them")
    parser.add_argument("--record", type=Path, help="a file to write the figures to, as JSON")
    options = parser.parse_args()
    print(f"{'case':28} {'jobs/s':>11} {'µs of CPU':>9} {'B per job':>10}  speed    CPU  beside")
    rows = []
    for case in CASES:
        if options.only in case.name:
            rows.append(run(case, options.turns))
            show(rows[-1])
    if options.record:
        records.write(options.record, {"turns": options.turns, "cases": rows})


if __name__ == "__main__":
    main()
