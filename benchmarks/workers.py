"""This library's worker beside others on the same load: ``python -m benchmarks.workers``.

Background jobs are queued first; then one worker after the other does as many, in turn, each with a gearmand of its
own. The function is empty, so that what a worker costs is what is seen. The floor is a worker in plain Python that
packs its packets beforehand: no worker in Python is faster. libgearman's takes a C compiler and headers; those of other
Python packages are found where they are installed, or by ``--python gear=/path/to/python``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from . import records
from .programs import LIBGEARMAN_WORKER, compiled
from .servers import job_server

__all__ = ["PEERS", "commands", "compare"]

OWN = "txgearman"
FLOOR = "floor"
PEERS = ("gear", "aiogear")
"""Python packages with a worker, each measured by the module of its name here."""

FEWER = {"gear": 100}
"""For one job of such a worker, the others do so many. gear's sends each result and the next GRAB_JOB in two pieces
without TCP_NODELAY, and so waits 40 ms each time for the server's kernel to acknowledge the first."""

Commands = dict[str, list[str]]


def commands(pythons: dict[str, str]) -> Commands:
    """What measures each worker that is here; what is missing is told.

    :param pythons: the interpreter of a peer, by its name, where it is not this one.
    """
    found: Commands = {
        OWN: [sys.executable, "-m", "benchmarks.worker"],
        FLOOR: [sys.executable, "-m", "benchmarks.worker_floor"],
    }
    for peer in PEERS:
        python = pythons.get(peer, sys.executable)
        if subprocess.run([python, "-c", f"import {peer}"], capture_output=True).returncode == 0:
            found[peer] = [python, "-m", f"benchmarks.{peer}_worker"]
        else:
            print(f"{peer} is not installed: pip install {peer}", file=sys.stderr)
    program = compiled(LIBGEARMAN_WORKER)
    if program is not None:
        found["libgearman"] = [str(program)]
    return found


def measure(command: list[str], jobs: int) -> dict[str, float]:
    """Have one worker do so many jobs."""
    with job_server(worker=False) as port:
        load = [sys.executable, "-m", "benchmarks.floor", f"--port={port}", "--workload=background", f"--jobs={jobs}"]
        subprocess.run(load, check=True, capture_output=True)
        of_python = "-m" in command
        arguments = [f"--port={port}", f"--jobs={jobs}"] if of_python else [str(port), str(jobs)]
        printed = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(printed)
    return result


def compare(found: Commands, jobs: int, turns: int) -> list[dict[str, Any]]:
    """A row for each worker: medians, and ratios turn by turn: to the floor, and of this library's jobs to its jobs."""
    counts = {name: max(1, jobs // FEWER.get(name, 1)) for name in found}
    results = [{name: measure(command, counts[name]) for name, command in found.items()} for _ in range(turns)]
    return [
        {
            "worker": name,
            "jobs": counts[name],
            "jobs_per_second": median(turn[name]["jobs_per_second"] for turn in results),
            "speed_to_floor": median(
                turn[name]["jobs_per_second"] / turn[FLOOR]["jobs_per_second"] for turn in results
            ),
            "cpu_us": median(turn[name]["cpu_us"] for turn in results),
            "cpu_to_floor": median(turn[name]["cpu_us"] / turn[FLOOR]["cpu_us"] for turn in results),
            "own_to_this": median(turn[OWN]["jobs_per_second"] / turn[name]["jobs_per_second"] for turn in results),
        }
        for name in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("--turns", type=int, default=5, help="how often each worker is run")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="a peer's interpreter")
    parser.add_argument("--record", type=Path, help="a file to write the figures to, as JSON")
    options = parser.parse_args()
    found = commands(dict(each.split("=", 1) for each in options.python))
    rows = compare(found, options.jobs, options.turns)
    print(f"{'worker':12} {'jobs/s':>10} {'to floor':>9} {'µs of CPU':>10} {'to floor':>9} {'this library':>13}")
    for row in rows:
        speed = f"{row['jobs_per_second']:10,.0f} {row['speed_to_floor']:8.2f}x"
        cpu = f"{row['cpu_us']:10.2f} {row['cpu_to_floor']:8.2f}x"
        print(f"{row['worker']:12} {speed} {cpu} {row['own_to_this']:12.2f}x")
    if options.record:
        records.write(options.record, {"turns": options.turns, "workers": rows})


if __name__ == "__main__":
    main()
