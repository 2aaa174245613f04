"""All benchmarks, against the floor of the same run: ``python -m benchmarks``.

Each case is run several times, in turn with its floor, each time in a process and with a gearmand of its own; the
table has medians, and the median of the ratios of each turn. Absolute figures are the machine's; the ratios are ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import twisted

import txgearman


@dataclass(frozen=True)
class Case:
    """One row of the table.

    :ivar floor: whether there is one to compare with.
    """

    name: str
    workload: str
    jobs: int
    payload: int = 16
    style: str = "callbacks"
    module: str = "client"
    floor: bool = True


CASES = [
    Case("background", "background", 20_000),
    Case("all in flight", "flight", 20_000),
    Case("window of 100", "window", 20_000),
    Case("one at a time", "latency", 2_000),
    Case("4 KiB, window", "window", 10_000, 4096),
    Case("1 MiB, all in flight", "flight", 200, 1024 * 1024),
    Case("1,000 in flight", "flight", 1_000),
    Case("10,000 in flight", "flight", 10_000),
    Case("100,000 in flight", "flight", 100_000),
    Case("with timeout=", "flight", 20_000, style="timeout"),
    Case("async def", "flight", 20_000, style="async"),
    Case("inlineCallbacks", "flight", 20_000, style="inline"),
    Case("map()", "window", 20_000, style="map"),
    Case("worker", "window", 20_000, module="worker", floor=False),
    Case("server in memory", "window", 5_000, style="memory", floor=False),
]


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def job_server() -> Iterator[int]:
    """A gearmand with a worker; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    program = shutil.which("gearmand") or "/usr/sbin/gearmand"
    options = ["--listen=127.0.0.1", f"--port={port}", "--log-file=none", "--threads=1", "--hashtable-buckets=200003"]
    with running(program, *options):
        end = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            assert time.monotonic() < end, "gearmand does not listen"
            time.sleep(0.01)
        with running(sys.executable, "-m", "benchmarks.echo_worker", str(port)):
            yield port


def measure(case: Case, module: str) -> dict[str, float]:
    """Run it once."""
    with job_server() as port:
        command = [sys.executable, "-m", f"benchmarks.{module}", f"--port={port}", f"--workload={case.workload}"]
        command += [f"--jobs={case.jobs}", f"--payload={case.payload}"]
        if module == "client":
            command.append(f"--style={case.style}")
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(printed)
    return result


def run(case: Case, turns: int) -> dict[str, Any]:
    """Run it and its floor in turn; medians, and ratios to the floor."""
    pairs = [(measure(case, case.module), measure(case, "floor") if case.floor else {}) for _ in range(turns)]
    row: dict[str, Any] = {"case": case.name, "jobs": case.jobs, "payload": case.payload}
    for key in pairs[0][0]:
        row[key] = median(own[key] for own, _ in pairs)
    if case.floor:
        row["of_floor"] = median(own["jobs_per_second"] / floor["jobs_per_second"] for own, floor in pairs)
        row["cpu_of_floor"] = median(own["cpu_us"] / floor["cpu_us"] for own, floor in pairs if floor["cpu_us"])
    return row


def show(row: dict[str, Any]) -> None:
    ratio = f"{row['of_floor']:8.2f} {row['cpu_of_floor']:8.1f}" if "of_floor" in row else " " * 17
    latency = f"{row['median_us']:9.0f} µs" if "median_us" in row else ""
    figures = f"{row['jobs_per_second']:11,.0f} {row['cpu_us']:9.2f} {ratio} {row['bytes_per_job']:9,.0f}{latency}"
    print(f"{row['case']:22} {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--turns", type=int, default=5, help="how often each case is run")
    parser.add_argument("--only", default="", help="the cases whose names have this in them")
    parser.add_argument("--record", type=Path, help="a file to write the figures to, as JSON")
    options = parser.parse_args()
    print(f"{'case':22} {'jobs/s':>11} {'µs of CPU':>9} {'of floor':>8} {'CPU':>8} {'B per job':>9}")
    rows = []
    for case in CASES:
        if options.only in case.name:
            rows.append(run(case, options.turns))
            show(rows[-1])
    if options.record:
        versions = {
            "txgearman": txgearman.__version__,
            "twisted": twisted.__version__,
            "python": platform.python_version(),
        }
        machine = {"machine": platform.machine(), "system": platform.platform()}
        record = {"versions": versions, **machine, "turns": options.turns, "rows": rows}
        options.record.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
