"""A driver for peerbench, which measures Gearman clients side by side.

    {"txgearman": {"argv": ["/path/to/python", "/path/to/benchmarks/peerbench_driver.py"]}}

in the file that ``PEERBENCH_CLIENTS`` names. ``PYTHONPATH`` has peerbench's folder ``drivers``. ``--variant`` may be
``timeout``, and what ``twdrv.run`` knows.
"""

from __future__ import annotations

from typing import Any

import drv  # type: ignore[import-not-found]  # peerbench's own
import twdrv  # type: ignore[import-not-found]  # as well
from twisted.internet.defer import Deferred

from txgearman import GearmanClient


class Submits:
    """What peerbench submits by."""

    def __init__(self, client: GearmanClient, function: str, timeout: float | None) -> None:
        self._client = client
        self._function = function
        self._timeout = timeout

    def submit(self, data: bytes) -> Deferred[bytes]:
        return self._client.add_task(self._function, data, timeout=self._timeout)

    def submit_bg(self, data: bytes) -> Deferred[Any]:
        return self._client.add_task_bg(self._function, data)


def main() -> None:
    options = drv.options()
    variants = options.variant.split(",")

    def connect() -> Deferred[Submits]:
        client = GearmanClient([f"127.0.0.1:{options.port}"])
        submits = Submits(client, options.func, 30.0 if "timeout" in variants else None)
        return client.echo().addCallback(lambda _: submits)

    style = next((style for style in ("async", "inline", "gather") if style in variants), "callback")
    twdrv.run("txgearman", options, connect, style)


if __name__ == "__main__":
    main()
