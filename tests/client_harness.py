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

LONGEST_BACK_OFF = 30.0

Events = list[tuple[Any, ...]]
"""Names of callbacks, each with its arguments after the task, in the order of the calls."""


def outcome(deferred: Deferred[Any]) -> Any:
    """Return the result or the exception of a Deferred; `NOTHING` if it has not fired."""
    if not deferred.called:
        return NOTHING
    result = deferred.result
    deferred.addErrback(lambda _: None)
    return getattr(result, "value", result)


def outcomes(deferreds: Iterable[Deferred[Any]]) -> list[Any]:
    return [outcome(deferred) for deferred in deferreds]


def ignore_errors(deferred: Deferred[Any]) -> None:
    deferred.addErrback(lambda _: None)


def names(events: Events) -> list[str]:
    return [event[0] for event in events]


def _record(events: Events, name: str, task: Task, *arguments: object) -> None:
    events.append((name, *arguments))


def recording(events: Events) -> dict[str, Any]:
    """Return options of a foreground task whose callbacks append to `events`."""
    names = ("created", "data", "warning", "status", "exception", "retry", "complete", "fail")
    return {f"on_{name}": partial(_record, events, name) for name in names}


def complete_all(harness: ClientHarness) -> list[bytes]:
    """Complete every job for `work`; return their workloads."""
    done = harness.server.queued("work")
    for _ in done:
        harness.server.take("work").complete(b"done")
    return done


def take_all(server: MemoryJobServer) -> list[bytes]:
    """Take every job for `work`; return their workloads."""
    taken: list[bytes] = []
    with suppress(AssertionError):
        while True:
            taken.append(server.take("work").workload)
    return taken


FINAL = ("complete", "fail")


class RecordedTask:
    """A task that records its callbacks and its outcome.

    :ivar cancelled: whether the test cancelled it.
    :ivar stopped: whether the client was stopped while it was in flight.
    :ivar react: is called with the name of each callback, after it was recorded.
    """

    def __init__(
        self,
        number: int,
        background: bool,
        unique: bytes,
        retries: int,
        timeout: float | None,
        drop_on_cancel: bool = False,
    ) -> None:
        self.number = number
        self.background = background
        self.unique = unique
        self.retries = retries
        self.timeout = timeout
        self.cancelled = False
        self.stopped = False
        self.events: Events = []
        self.outcomes: list[Any] = []
        self.handles: list[JobHandle | None] = []
        self.react: Callable[[str], object] = lambda name: None
        names = ["created", "fail"]
        if not background:
            names += ["data", "warning", "status", "exception", "complete", "retry"]
        options: dict[str, Any] = {f"on_{name}": self._recorder(name) for name in names}
        options["drop_on_cancel"] = drop_on_cancel
        if not background:
            options["retries"] = retries
        self.task = Task("work", self.workload, background=background, unique=unique, timeout=timeout, **options)

    @property
    def workload(self) -> bytes:
        return b"%d" % self.number

    def _recorder(self, name: str) -> Any:
        def record(task: Task, *arguments: Any) -> None:
            assert task is self.task
            assert not self.outcomes, f"{name} after the Deferred"
            self.events.append((name, *arguments))
            if name == "created":
                self.handles.append(task.handle)
            self.react(name)

        return record

    def watch(self, deferred: Deferred[Any]) -> None:
        self.deferred = deferred
        deferred.addCallbacks(self.outcomes.append, lambda failure: self.outcomes.append(failure.value))

    def check_order(self) -> None:
        """Check the order of the callbacks so far (guarantee 2)."""
        names = [event[0] for event in self.events]
        created = False
        for index, name in enumerate(names):
            assert not (set(names[:index]) & set(FINAL)), names
            if name == "created":
                assert not created, names
                created = True
            elif name in ("data", "warning", "status", "exception", "complete"):
                assert created, names
            elif name == "retry":
                created = False
        for index, name in enumerate(names[:-1]):
            if name == "exception":
                assert names[index + 1] in ("retry", "fail"), names
        retries = [event[1] for event in self.events if event[0] == "retry"]
        assert retries == list(range(1, len(retries) + 1))
        assert len(retries) <= self.retries

    def check_outcome(self) -> None:
        """Check the outcome, once all tasks have theirs (guarantee 1)."""
        self.check_order()
        assert len(self.outcomes) == 1
        last = self.events[-1] if self.events else ("nothing",)
        result = self.outcomes[0]
        if isinstance(result, bytes):
            assert last == ("complete", result)
        elif isinstance(result, JobHandle):
            assert (self.background, self.events, result) == (True, [("created",)], self.handles[0])
        elif isinstance(result, CancelledError):  # maybe by its last callback
            assert (self.cancelled, last[0] in FINAL) == (True, True)
        else:
            assert last == ("fail", result)
        if isinstance(result, TaskTimedOut):
            assert self.timeout is not None
        if isinstance(result, ClientStopped):
            assert self.stopped
        if isinstance(result, TaskError):
            assert result.task is self.task


class ClientHarness:
    """A client and its job servers, on one clock."""

    def __init__(self, servers: int = 1, clock: Clock | None = None, **options: Any) -> None:
        self.clock = clock or Clock()
        self.servers = [MemoryJobServer(self.clock) for _ in range(servers)]
        self.server = self.servers[0]
        options = {"heartbeat": None, **options}
        self.client = GearmanClient([server.endpoint() for server in self.servers], reactor=self.clock, **options)
        self.advance = self.server.advance

    def start(self) -> ClientHarness:
        """Start the client, and let it do all that takes no time."""
        self.client.startService()
        self.advance()
        return self

    def connected(self) -> list[int]:
        """How many connections each server has."""
        return [len(server.connections) for server in self.servers]

    def take_anywhere(self) -> int:
        """Take the jobs of the first server that has any; return its index."""
        self.advance()
        return next(index for index, server in enumerate(self.servers) if take_all(server))

    def check_that_it_works(self, index: int = 0) -> None:
        """Check that a task is completed by the server of this index."""
        task = self.client.add_task("work")
        self.servers[index].take("work").complete(b"done")
        assert outcome(task) == b"done"

    def check_that_nothing_was_done(self) -> None:
        assert self.clock.getDelayedCalls() == []
        assert self.connected() == [0] * len(self.servers)

    def stop(self) -> None:
        """Stop the client; check that nothing is left of it, and that every fault has happened."""
        stopped = self.client.stopService()
        self.advance()
        assert outcome(stopped) is not NOTHING
        assert self.clock.getDelayedCalls() == []
        assert self.connected() == [0] * len(self.servers)
        for server in self.servers:
            server.verify()
