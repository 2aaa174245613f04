"""A client and its job servers in memory, for the tests of the upper rooms."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgearman import GearmanClient, Task
from txgearman.testing import MemoryJobServer

NOTHING = "nothing yet"


def outcome(deferred: Deferred[Any]) -> Any:
    """The result or the exception that it has fired with; `NOTHING` if it has not."""
    if not deferred.called:
        return NOTHING
    result = deferred.result
    deferred.addErrback(lambda _: None)
    return getattr(result, "value", result)


def outcomes(deferreds: Iterable[Deferred[Any]]) -> list[Any]:
    return [outcome(deferred) for deferred in deferreds]


def note(seen: list[tuple[Any, ...]], name: str, task: Task, *told: object) -> None:
    seen.append((name, *told))


def noting(seen: list[tuple[Any, ...]]) -> dict[str, Any]:
    """The options of a task that notes in `seen` what each callback is told."""
    names = ("created", "data", "warning", "status", "exception", "retry", "complete", "fail")
    return {f"on_{name}": partial(note, seen, name) for name in names}


def loads(server: MemoryJobServer) -> list[bytes]:
    """Take every job for `work`; return their workloads."""
    taken: list[bytes] = []
    with suppress(AssertionError):
        while True:
            taken.append(server.take("work").workload)
    return taken


class House:
    """A client and its job servers, on one clock."""

    def __init__(self, servers: int = 1, clock: Clock | None = None, **options: Any) -> None:
        self.clock = clock or Clock()
        self.servers = [MemoryJobServer(self.clock) for _ in range(servers)]
        self.server = self.servers[0]
        self.client = GearmanClient([server.endpoint() for server in self.servers], reactor=self.clock, **options)
        self.advance = self.server.advance

    def start(self) -> House:
        """Start the client; all that it does at once has then been done."""
        self.client.startService()
        self.advance()
        return self

    def connected(self) -> list[int]:
        """How many connections each server has."""
        return [len(server.connections) for server in self.servers]

    def place_of_work(self) -> int:
        """The first server that has a job, which is taken."""
        self.advance()
        return next(place for place, server in enumerate(self.servers) if loads(server))

    def check_that_it_works(self) -> None:
        task = self.client.add_task("work")
        self.server.take("work").complete(b"done")
        assert outcome(task) == b"done"

    def check_that_nothing_was_done(self) -> None:
        assert self.clock.getDelayedCalls() == []
        assert self.connected() == [0] * len(self.servers)

    def stop(self) -> None:
        """Stop the client; nothing may be left, and every fault must have happened."""
        stopped = self.client.stopService()
        self.advance()
        assert outcome(stopped) is not NOTHING
        assert self.clock.getDelayedCalls() == []
        assert self.connected() == [0] * len(self.servers)
        for server in self.servers:
            server.verify()
