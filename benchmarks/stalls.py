"""The longest pause of the reactor while very many jobs come in flight: ``python -m benchmarks.stalls --port PORT``.

1,000 jobs are submitted in each turn of the reactor, and no worker does any, until all are in flight. Each turn is
measured: what else the program has to do waits for that long. The longest ones are those in which Python's garbage
collector looks at everything that is alive.

The styles are ``callbacks`` (single tasks), ``freeze`` (the same with `gc.freeze()` after every 10,000 of them),
``threshold`` (with a rarer collection) and ``bulk`` (`add_tasks`).
"""

from __future__ import annotations

import argparse
import gc
import json
from time import perf_counter, thread_time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from txgearman import GearmanClient

from .common import Stopwatch, add_arguments, payloads

__all__ = ["STALL_STYLES", "Turns"]

STALL_STYLES = ("callbacks", "freeze", "threshold", "bulk")

EACH_TURN = 1000
FREEZE_AFTER = 10_000


class Turns:
    """Measures the turns of the reactor, and the collections.

    :ivar longest: seconds of the longest turn.
    :ivar longest_cpu: seconds of CPU of the turn that took most of that: those of other processes do not count.
    :ivar longest_collection: seconds of CPU of the longest collection.
    """

    def __init__(self, reactor: Any) -> None:
        self.longest = self.longest_cpu = self.longest_collection = 0.0
        self._reactor = reactor
        self._collection_began = 0.0

    def start(self) -> None:
        gc.callbacks.append(self._collecting)
        self._begin_turn()

    def stop(self) -> None:
        self._end_turn()
        self._call.cancel()
        gc.callbacks.remove(self._collecting)

    def _begin_turn(self) -> None:
        self._began, self._began_cpu = perf_counter(), thread_time()
        self._call = self._reactor.callLater(0, self._turn)

    def _end_turn(self) -> None:
        self.longest = max(self.longest, perf_counter() - self._began)
        self.longest_cpu = max(self.longest_cpu, thread_time() - self._began_cpu)

    def _turn(self) -> None:
        self._end_turn()
        self._begin_turn()

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_began = thread_time()
        else:
            self.longest_collection = max(self.longest_collection, thread_time() - self._collection_began)


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.add_argument("--style", choices=STALL_STYLES, default="callbacks")
    options = parser.parse_args()
    client = GearmanClient([f"127.0.0.1:{options.port[0]}"])
    workloads = payloads(options.jobs, options.payload)
    watch, turns = Stopwatch(), Turns(reactor)
    if options.style == "threshold":
        gc.set_threshold(50_000, 20, 100)
    await client.echo()  # it is connected
    watch.start()
    turns.start()
    for first in range(0, options.jobs, EACH_TURN):
        submit(client, workloads[first : first + EACH_TURN], options.style)
        if options.style == "freeze" and first % FREEZE_AFTER == 0:
            gc.freeze()
        await deferLater(reactor, 0)
    await client.echo()  # all are acknowledged
    turns.stop()
    watch.stop()
    pauses = {"pause_ms": turns.longest, "pause_cpu_ms": turns.longest_cpu, "collection_ms": turns.longest_collection}
    print(json.dumps({**watch.figures(options.jobs), **{name: seconds * 1e3 for name, seconds in pauses.items()}}))
    await client.stopService()


def submit(client: GearmanClient, workloads: list[bytes], style: str) -> None:
    """Submit these, with callbacks for their outcomes: all fail when the client is stopped."""
    if style == "bulk":
        client.add_tasks("echo", workloads).addCallbacks(ignore, ignore)
    else:
        for workload in workloads:
            client.add_task("echo", workload).addCallback(ignore).addErrback(ignore)


def ignore(outcome: object) -> None:
    """Take an outcome."""


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
