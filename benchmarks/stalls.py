"""The longest pause of the reactor while very many jobs are in flight: ``python -m benchmarks.stalls --port PORT``.

All jobs are submitted at first. From the next turn of the reactor on, until the last result has come, each turn is
measured: what else the program has to do waits for that long. Most of the longest turns are those in which Python's
garbage collector looks at everything that is alive.

The styles are ``callbacks`` (single tasks), ``freeze`` (the same with `gc.freeze()` after the submit), ``threshold``
(with a rarer collection), ``bulk`` (one `add_tasks`) and ``map`` (1,000 in flight, of as many workloads).
"""

from __future__ import annotations

import argparse
import gc
import json
from time import perf_counter, thread_time
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from txgearman import GearmanClient

from .common import Stopwatch, add_arguments, payloads
from .styles import STYLES, Work

__all__ = ["STALL_STYLES", "Turns"]

STALL_STYLES = {"callbacks": "callbacks", "freeze": "callbacks", "threshold": "callbacks", "bulk": "bulk", "map": "map"}
"""What they are of `styles`."""


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
    watch, turns = Stopwatch(), Turns(reactor)
    workload = "window" if options.style == "map" else "flight"
    work = Work(client, workload, payloads(options.jobs, options.payload), options.window, watch)
    if options.style == "threshold":
        gc.set_threshold(50_000, 20, 100)
    await client.echo()  # it is connected
    watch.start()
    outcome: Deferred[Any] = ensureDeferred(_all(STYLES[STALL_STYLES[options.style]], work))
    if options.style == "freeze":
        gc.freeze()
    turns.start()
    await outcome
    turns.stop()
    watch.stop()
    pauses = {"pause_ms": turns.longest, "pause_cpu_ms": turns.longest_cpu, "collection_ms": turns.longest_collection}
    print(json.dumps({**watch.figures(options.jobs), **{name: seconds * 1e3 for name, seconds in pauses.items()}}))
    await client.stopService()


async def _all(style: Any, work: Work) -> None:
    await style(work)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
