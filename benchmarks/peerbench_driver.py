"""A driver for peerbench, which measures Gearman clients side by side.

    {"txgearman": {"argv": ["/path/to/python", "/path/to/benchmarks/peerbench_driver.py"]}}

in the file that ``PEERBENCH_CLIENTS`` names. ``PYTHONPATH`` has peerbench's folder ``drivers``, and the one that this
checkout is. ``--variant`` may be ``timeout``, ``bare``, which is Twisted without this library, and what ``twdrv.run``
knows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import drv  # type: ignore[import-not-found]  # peerbench's own
import twdrv  # type: ignore[import-not-found]  # as well
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from benchmarks import bare
from txgearman import GearmanClient, TaskOptions


class Submits:
    """What peerbench submits by."""

    def __init__(self, client: Any, function: str, options: TaskOptions) -> None:
        self.submit: Callable[[bytes], Deferred[bytes]] = partial(client.add_task, function, **options)
        self.submit_bg: Callable[[bytes], Deferred[Any]] = partial(client.add_task_bg, function)


def main() -> None:
    options = drv.options()
    variants = options.variant.split(",")

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
