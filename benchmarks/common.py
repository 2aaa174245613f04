"""What all benchmarks share: their arguments, their payloads, and the line that each process prints."""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time

WORKLOADS = {
    "background": "background submits, until the last JOB_CREATED",
    "flight": "foreground jobs, all in flight at once",
    "window": "foreground jobs, so many in flight (--window)",
    "latency": "foreground jobs, one after the other",
}


def arguments() -> argparse.Namespace:
    """Read the arguments of a process that is measured."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all processes have which are measured."""
    parser.add_argument("--port", type=int, nargs="+", required=True)
    parser.add_argument("--workload", choices=WORKLOADS, default="window")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--payload", type=int, default=16)
    parser.add_argument("--window", type=int, default=100)


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
        with open("/proc/self/clear_refs", "w") as clear_refs:
            clear_refs.write("5")  # the peak begins anew: else it would be that of the imports, or of who started this
        self._memory = _memory("VmRSS")
        self._cpu = _cpu()
        self._wall = time.perf_counter()

    def stop(self) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = _cpu() - self._cpu
        self.grown = _memory("VmHWM") - self._memory

    def figures(self, jobs: int) -> dict[str, float]:
        """What was measured, for each job."""
        result = {
            "jobs_per_second": jobs / self.wall,
            "cpu_us": self.cpu / jobs * 1e6,
            "wall_us": self.wall / jobs * 1e6,
            "bytes_per_job": self.grown / jobs,
        }
        if self.seconds:
            result["median_us"] = sorted(self.seconds)[len(self.seconds) // 2] * 1e6
        return result

    def report(self, jobs: int) -> None:
        """Print what was measured, as one line of JSON."""
        print(json.dumps(self.figures(jobs)), flush=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory(key: str) -> int:
    """Return a number of bytes that the kernel reports of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{key}:"))
