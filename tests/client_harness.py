"""A client and its job servers in memory, for tests of the client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from txgearman import ClientStopped, GearmanClient, JobHandle, Task, TaskError, TaskTimedOut
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


FINAL = ("complete", "fail")


class Told:
    """A task, and what its caller was told, in order.

    :ivar cancelled: the test cancelled it.
    :ivar stopped: the client was stopped while it was out.
    :ivar react: is called with the name of each event, after it was noted.
    """

    def __init__(self, number: int, background: bool, unique: bytes, retries: int, timeout: float | None) -> None:
        self.number = number
        self.background = background
        self.unique = unique
        self.retries = retries
        self.timeout = timeout
        self.cancelled = False
        self.stopped = False
        self.events: list[tuple[Any, ...]] = []
        self.outcomes: list[Any] = []
        self.handles: list[JobHandle | None] = []
        self.react: Callable[[str], object] = lambda name: None
        names = ["created", "fail"]
        if not background:
            names += ["data", "warning", "status", "exception", "complete", "retry"]
        options: dict[str, Any] = {f"on_{name}": self._recorder(name) for name in names}
        if not background:
            options["retries"] = retries
        self.task = Task("work", self.workload, background=background, unique=unique, timeout=timeout, **options)

    @property
    def workload(self) -> bytes:
        return b"%d" % self.number

    def _recorder(self, name: str) -> Any:
        def record(task: Task, *told: Any) -> None:
            assert task is self.task
            assert not self.outcomes, f"{name} after the Deferred"
            self.events.append((name, *told))
            if name == "created":
                self.handles.append(task.handle)
            self.react(name)

        return record

    def watch(self, deferred: Deferred[Any]) -> None:
        self.deferred = deferred
        deferred.addCallbacks(self.outcomes.append, lambda failure: self.outcomes.append(failure.value))

    def check_order(self) -> None:
        """Check the order of what was reported so far (guarantee 2)."""
        names = [event[0] for event in self.events]
        created = False
        for place, name in enumerate(names):
            assert not (set(names[:place]) & set(FINAL)), names
            if name == "created":
                assert not created, names
                created = True
            elif name in ("data", "warning", "status", "exception", "complete"):
                assert created, names
            elif name == "retry":
                created = False
        for place, name in enumerate(names[:-1]):
            if name == "exception":
                assert names[place + 1] in ("retry", "fail"), names
        retries = [event[1] for event in self.events if event[0] == "retry"]
        assert retries == list(range(1, len(retries) + 1))
        assert len(retries) <= self.retries

    def check_outcome(self) -> None:
        """Check the outcome, once all is over (guarantee 1)."""
        self.check_order()
        assert len(self.outcomes) == 1
        last = self.events[-1] if self.events else ("nothing",)
        told = self.outcomes[0]
        if isinstance(told, bytes):
            assert last == ("complete", told)
        elif isinstance(told, JobHandle):
            assert (self.background, self.events, told) == (True, [("created",)], self.handles[0])
        elif isinstance(told, CancelledError):  # maybe by its last callback
            assert (self.cancelled, last[0] in FINAL) == (True, True)
        else:
            assert last == ("fail", told)
        if isinstance(told, TaskTimedOut):
            assert self.timeout is not None
        if isinstance(told, ClientStopped):
            assert self.stopped
        if isinstance(told, TaskError):
            assert told.task is self.task


class ClientHarness:
    """A client and its job servers, on one clock."""

    def __init__(self, servers: int = 1, clock: Clock | None = None, **options: Any) -> None:
        self.clock = clock or Clock()
        self.servers = [MemoryJobServer(self.clock) for _ in range(servers)]
        self.server = self.servers[0]
        self.client = GearmanClient([server.endpoint() for server in self.servers], reactor=self.clock, **options)
        self.advance = self.server.advance

    def start(self) -> ClientHarness:
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

    def check_that_it_works(self, place: int = 0) -> None:
        task = self.client.add_task("work")
        self.servers[place].take("work").complete(b"done")
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
