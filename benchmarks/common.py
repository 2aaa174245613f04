"""What all benchmarks share: their arguments, their payloads, and the line that each process prints."""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from typing import Any

WORKLOADS = {
    "background": "background submits, until the last JOB_CREATED",
    "flight": "foreground jobs, all in flight at once",
    "window": "foreground jobs, so many in flight (--window)",
    "latency": "foreground jobs, one after the other",
}


def arguments(**more: Any) -> argparse.Namespace:
    """Read the arguments of a process that is measured.

    :param more: further options, with their defaults.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workload", choices=WORKLOADS, default="window")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--payload", type=int, default=16)
    parser.add_argument("--window", type=int, default=100)
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def payloads(jobs: int, size: int) -> list[bytes]:
    """So many payloads, each of its own, of so many bytes."""
    padding = b"x" * max(0, size - 16)
    return [(b"%016d" % number + padding)[:size] for number in range(jobs)]


class Stopwatch:
    """Wall and CPU time, and memory, from `start` to `stop`.

    :ivar seconds: for latencies: of each job.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def start(self) -> None:
        gc.collect()
        self._memory = _resident()
        self._cpu = _cpu()
        self._wall = time.perf_counter()

    def stop(self) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = _cpu() - self._cpu
        self.grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self._memory

    def report(self, jobs: int) -> None:
        """Print what was measured, as one line of JSON."""
        result = {
            "jobs_per_second": jobs / self.wall,
            "cpu_us": self.cpu / jobs * 1e6,
            "wall_us": self.wall / jobs * 1e6,
            "bytes_per_job": self.grown / jobs,
        }
        if self.seconds:
            result["median_us"] = sorted(self.seconds)[len(self.seconds) // 2] * 1e6
        print(json.dumps(result), flush=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
