"""What is measured: groups of cases, which do the same jobs and are measured in turn. `measure` runs one of them once.

The first case of each group that has one is the floor: plain Python that packs its packets beforehand and only counts
what comes back. The others are this library in several styles, and what it is compared with.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from .programs import CPIPE, compiled
from .servers import amp_server, job_server, tls_before

__all__ = ["FLOOR", "GROUPS", "Case", "Group", "measure"]

MIB = 1024 * 1024

SIZES = (10_000, 20_000, 50_000)
"""Numbers of jobs: Python's garbage collector makes steps, and a single size may sit on one of them."""

_PEERBENCH = {"background": "w1", "flight": "w2", "latency": "w3", "window": "w4"}  # workloads, as cpipe names them


@dataclass(frozen=True)
class Case:
    """What does the jobs.

    :ivar style: one of `styles.STYLES`, or of `stalls.STALL_STYLES`.
    :ivar client: one of `client.CLIENTS`.
    :ivar module: what is run: ``client``, ``floor``, ``cpipe``, ``stalls`` or ``worker``.
    :ivar servers: job servers of the client.
    :ivar most_cpu: CPU time that a job may take, in times that of the floor's; None for no limit.
    """

    name: str
    style: str = "callbacks"
    client: str = "txgearman"
    module: str = "client"
    servers: int = 1
    most_cpu: float | None = None


@dataclass(frozen=True)
class Group:
    """Cases that do the same jobs.

    :ivar workload: one of `common.WORKLOADS`.
    :ivar sizes: numbers of jobs.
    :ivar payload: bytes of a workload.
    :ivar window: jobs in flight, for the workload ``window``.
    """

    name: str
    workload: str
    cases: tuple[Case, ...]
    sizes: tuple[int, ...] = (20_000,)
    payload: int = 16
    window: int = 100


FLOOR = Case("floor", module="floor")
_CPIPE = Case("cpipe", module="cpipe")
_BARE = Case("Twisted alone", client="bare")
_DEFERREDS = Case("a Deferred alone", client="deferreds")
_AMP = Case("AMP call", client="amp")

GROUPS = [
    Group(
        "background jobs",
        "background",
        (
            FLOOR,
            _CPIPE,
            _BARE,
            _DEFERREDS,
            Case("single tasks"),
            Case("add_tasks_bg, 1,000 each", "bulk", most_cpu=3.0),
        ),
        SIZES,
    ),
    Group(
        "all in flight at once",
        "flight",
        (FLOOR, _CPIPE, _BARE, _DEFERREDS, Case("single tasks"), Case("add_tasks", "bulk", most_cpu=3.0)),
        SIZES,
    ),
    Group(
        "100 in flight",
        "window",
        (
            FLOOR,
            _CPIPE,
            _BARE,
            _AMP,
            Case("single tasks", most_cpu=8.0),
            Case("map", "map", most_cpu=2.5),
            Case("as_completed", "as_completed"),
            Case("single tasks, TLS", client="tls"),
        ),
    ),
    Group(
        "1,000 in flight",
        "window",
        (FLOOR, _CPIPE, Case("single tasks"), Case("map", "map"), Case("as_completed", "as_completed")),
        window=1000,
    ),
    Group(
        "one after the other",
        "latency",
        (FLOOR, _CPIPE, _BARE, _AMP, Case("callbacks"), Case("await in a loop", "await")),
        (2_000,),
    ),
    Group(
        "options and styles, 100 in flight",
        "window",
        (
            FLOOR,
            Case("no option"),
            Case("timeout=", "timeout"),
            Case("on_complete=", "on_complete"),
            Case("unique=", "unique"),
        ),
    ),
    Group(
        "options and styles, all in flight",
        "flight",
        (
            FLOOR,
            Case("callbacks"),
            Case("timeout=", "timeout"),
            Case("on_complete=", "on_complete"),
            Case("async def", "async"),
            Case("inlineCallbacks", "inline"),
        ),
    ),
    Group(
        "background jobs to five servers",
        "background",
        (
            FLOOR,
            Case("single tasks, one server"),
            Case("single tasks", servers=5),
            Case("single tasks with unique=", "unique", servers=5),
            Case("add_tasks_bg", "bulk", servers=5),
            Case("add_tasks_bg with uniques=", "bulk_uniques", servers=5),
        ),
    ),
    Group(
        "4 KiB, 100 in flight",
        "window",
        (FLOOR, _CPIPE, Case("single tasks"), Case("map", "map")),
        (10_000,),
        payload=4096,
    ),
    Group(
        "1 MiB, all in flight, results kept",
        "flight",
        (FLOOR, Case("single tasks", "keep"), Case("add_tasks", "bulk")),
        (200,),
        payload=MIB,
    ),
    Group(
        "100,000 in flight: the longest pause of the reactor",
        "flight",
        (
            Case("single tasks", module="stalls"),
            Case("single tasks, gc.freeze()", "freeze", module="stalls"),
            Case("single tasks, gc.set_threshold()", "threshold", module="stalls"),
            Case("add_tasks", "bulk", module="stalls"),
        ),
        (100_000,),
    ),
    Group("a worker of 100 jobs at a time", "window", (Case("worker", module="worker"),)),
    Group("a server in memory", "window", (Case("single tasks", client="memory"),), (5_000,)),
]


def measure(group: Group, case: Case, jobs: int, python: str = sys.executable) -> dict[str, float] | None:
    """Run a case once, by this or another Python, in a process of its own and with servers of its own.

    :return: its figures; None if it needs a program that can't be compiled.
    """
    program = compiled(CPIPE) if case.module == "cpipe" else None
    if case.module == "cpipe" and program is None:
        return None
    of_jobs = [f"--jobs={jobs}", f"--payload={group.payload}"]
    with contextlib.ExitStack() as stack:
        ports = [str(port) for port in _ports(stack, group, case)]
        if program is not None:
            workload = [f"--workload={_PEERBENCH[group.workload]}", f"--window={group.window}"]
            printed = _output(str(program), f"--port={ports[0]}", f"--n={jobs}", of_jobs[1], *workload)
            return _figures_of_cpipe(json.loads(printed))
        options = [*of_jobs, f"--workload={group.workload}", f"--window={group.window}"]
        if case.module == "worker":
            _output(sys.executable, "-m", "benchmarks.floor", "--port", *ports, "--workload=background", *of_jobs)
        elif case.module != "floor":
            options.append(f"--style={case.style}")
        if case.module == "client":
            options.append(f"--client={case.client}")
        if case.client == "tls":
            port, roots = stack.enter_context(tls_before(int(ports[0])))
            ports = [str(port)]
            options.append(f"--roots={roots}")
        result: dict[str, float] = json.loads(
            _output(python, "-m", f"benchmarks.{case.module}", "--port", *ports, *options)
        )
    return result


def _ports(stack: contextlib.ExitStack, group: Group, case: Case) -> list[int]:
    """Start the servers of a case."""
    if case.client == "amp":
        return [stack.enter_context(amp_server())]
    if case.client in ("deferreds", "memory"):
        return [0]
    worker = case.module not in ("worker", "stalls") and group.workload != "background"
    width = 1 if group.workload == "latency" else 128
    return [stack.enter_context(job_server(worker, width)) for _ in range(case.servers)]


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _figures_of_cpipe(printed: dict[str, Any]) -> dict[str, float]:
    """The figures of cpipe, by the names of `Stopwatch`."""
    jobs = printed["n"]
    assert printed["ok"] == jobs
    figures = {
        "jobs_per_second": jobs / printed["wall_s"],
        "cpu_us": (printed["user_s"] + printed["sys_s"]) / jobs * 1e6,
        "wall_us": printed["wall_s"] / jobs * 1e6,
        "bytes_per_job": (printed["rss_peak_kb"] - printed["rss0_kb"]) * 1024 / jobs,
    }
    return {**figures, "median_us": printed["lat_p50_us"]} if "lat_p50_us" in printed else figures
