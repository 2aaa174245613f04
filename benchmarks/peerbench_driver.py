"""A driver for peerbench, which measures Gearman clients side by side.

    {"txgearman": {"argv": ["/path/to/python", "/path/to/benchmarks/peerbench_driver.py"]}}

in the file that ``PEERBENCH_CLIENTS`` names. ``PYTHONPATH`` has peerbench's folder ``drivers``, and the one that this
checkout is. ``--variant`` may be ``timeout``, ``bare``, which is Twisted without this library, and what ``twdrv.run``
knows. With ``bulk`` all jobs are one `add_tasks`, background jobs 1,000 of each `add_tasks_bg`, and those in a window a
`map`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import drv  # type: ignore[import-not-found]  # peerbench's own
import twdrv  # type: ignore[import-not-found]  # as well
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks import bare
from benchmarks.common import Stopwatch
from benchmarks.styles import STYLES, Work
from txgearman import GearmanClient, TaskOptions


class Submits:
    """What peerbench submits by."""

    def __init__(self, client: Any, function: str, options: TaskOptions) -> None:
        self.submit: Callable[[bytes], Deferred[bytes]] = partial(client.add_task, function, **options)
        self.submit_bg: Callable[[bytes], Deferred[Any]] = partial(client.add_task_bg, function)


async def bulk(options: Any, reactor: Any) -> None:
    """Do the jobs many at a time."""
    client = GearmanClient([f"127.0.0.1:{options.port}"])
    await client.echo()
    report = drv.Report("txgearman-bulk", options)
    watch = Stopwatch()
    workload = {"w1": "background", "w2": "flight", "w4": "window"}[options.workload]
    work = Work(client, workload, drv.payloads(options), options.window, watch)
    report.start()
    await STYLES["map" if workload == "window" else "bulk"](work)
    report.stop()
    report.emit(options.n)  # all: each result was checked
    await client.stopService()


def main() -> None:
    options = drv.options()
    variants = options.variant.split(",")
    if "bulk" in variants:
        react(lambda reactor: Deferred.fromCoroutine(bulk(options, reactor)))

    def connect() -> Deferred[Submits]:
        if "bare" in variants:
            return bare.connect(reactor, options.port).addCallback(Submits, options.func, {})
        client = GearmanClient([f"127.0.0.1:{options.port}"])
        submits = Submits(client, options.func, {"timeout": 30.0} if "timeout" in variants else {})
        return client.echo().addCallback(lambda _: submits)

    style = next((style for style in ("async", "inline", "gather") if style in variants), "callback")
    twdrv.run("twisted-alone" if "bare" in variants else "txgearman", options, connect, style)


if __name__ == "__main__":
    main()
