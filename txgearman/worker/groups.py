"""Function groups: functions offered together, over one connection to each server.

A worker has one group for its functions, and one more for each function with a limit of its own (``max_jobs=``): a
server assigns to a connection whatever job it has for it, and gearmand takes running jobs away from a connection that
unregisters their function (docs/gearman.md §7).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from ..connection.pool import JobServer, ServerPool
from ..connection.protocol import CLOSE_TIMEOUT
from ..connection.waiters import Waiters
from ..errors import ClientStopped
from .functions import Function
from .job import Job
from .protocol import GearmanWorkerProtocol, Registrar

__all__ = ["FunctionGroup", "FunctionLimit", "GrabQueue", "GrabState", "cancel_timer"]

TIMEOUT_MARGIN: Final = 5.0
"""Seconds that a server waits longer than the worker does for a job that takes too long. The worker ends such a job
itself, and says why. A server's own time-out is for a worker that hangs; gearmand's is better left alone otherwise,
since it keeps one timer for a connection, may take the wrong job away, and stops it when the worker waits for another
job (docs/gearman.md §8)."""

MAX_WINDOW: Final = 1024
"""Requests for jobs that may be unanswered at a connection."""

MAX_SPURIOUS_WAKEUPS: Final = 10
"""Spurious wake-ups in close succession after which a connection is not asked at once."""

SPURIOUS_WAKEUP_INTERVAL: Final = 1.0
"""Seconds within which one spurious wake-up follows another in close succession."""

WAKEUP_BACKOFF: Final = 0.25
"""Seconds after which a wake-up takes effect where there were too many spurious ones."""

_STALE: Final = 64  # numbers in the heap of a `GrabQueue` that may be stale, whatever there is besides


class FunctionLimit(NamedTuple):
    """How many jobs of one function may run at a time."""

    function: bytes
    """The function's name on the wire."""

    max_jobs: int


class GrabState:
    """Whether a connection should be asked for a job.

    :ivar server: the server that it leads to.
    :ivar may_have_job: whether its server may have one.
    :ivar window: how many requests may be unanswered at a time. It doubles with each job, so that a busy server is
        not asked for one job after the other, and an idle one not for ten at once.
    :ivar asked: when it was asked last, as a number that grows. Negative if it never was.
    :ivar woken: whether the server has woken the worker, and neither a job nor NO_JOB has come since.
    :ivar spurious_wakeups: how often, in close succession, the server has woken the worker and then had no job. This
        happens where other workers were faster; but gearmand 1.1 may do it without end (H8).
    :ivar withdrawn: whether it is asked for nothing more: its group was retired or is paused, or its server removed.
    :ivar ended_at_once: how many of the jobs that came together have ended while they were assigned. They hold their
        slots until all that came have been handled.
    :ivar backoff: the timer after which the server's last wake-up takes effect, where there were too many.
    :ivar queue: the queue that it is in.
    """

    __slots__ = (
        "_keep_registered",
        "asked",
        "backoff",
        "connection",
        "ended_at_once",
        "group",
        "last_spurious",
        "may_have_job",
        "queue",
        "server",
        "spurious_wakeups",
        "window",
        "withdrawn",
        "woken",
    )

    _unasked: Final = count(-sys.maxsize)  # those that were never asked come first, in the order of their connects

    def __init__(
        self,
        connection: GearmanWorkerProtocol,
        server: JobServer[GearmanWorkerProtocol],
        group: FunctionGroup,
    ) -> None:
        self.connection = connection
        self.server = server
        self.group = group
        self.withdrawn = group.withdrawn
        self.may_have_job = bool(group.functions) and not group.withdrawn
        self.window = 1
        self.asked = next(self._unasked)
        self.woken = False
        self.spurious_wakeups = 0
        self.last_spurious = 0.0
        self.ended_at_once = 0
        self.backoff: IDelayedCall | None = None
        self.queue: GrabQueue | None = None
        # While it is withdrawn: the functions that stay registered, by the names that their jobs have, each with its
        # name on the wire and how many of its jobs run here.
        self._keep_registered: dict[str | bytes, tuple[bytes, int]] = {}

    def record_job(self) -> None:
        """Record that the server had a job, so that it may have more."""
        self.woken = False
        self.spurious_wakeups = 0
        if self.window < MAX_WINDOW:
            self.window *= 2
        self.may_have_job = not self.withdrawn

    def record_no_job(self) -> None:
        """Record that the server had no job."""
        self.window = 1
        self.may_have_job = False

    def record_spurious_wakeup(self, now: float) -> None:
        """Record that the server has woken the worker, and had no job.

        :param now: the reactor's time.
        """
        self.woken = False
        in_succession = now - self.last_spurious < SPURIOUS_WAKEUP_INTERVAL
        self.spurious_wakeups = self.spurious_wakeups + 1 if in_succession else 1
        self.last_spurious = now

    def withdraw(self) -> None:
        """Have the connection asked for nothing more. Its functions are still registered."""
        self.withdrawn = True
        self.connection.reports_ends = True
        self._keep_registered = {}
        self.close()

    def unregister_idle(self) -> None:
        """Unregister the functions none of whose jobs runs on the withdrawn connection; the others by `job_ended`.

        gearmand would take running jobs away. No request for a job may be unanswered.
        """
        connection, functions = self.connection, self.group.functions
        running = Counter(job.function for job in connection.jobs.values())
        self._keep_registered = {}
        for wire_name in list(connection.registered):
            name = functions[wire_name].name
            if name in running:
                self._keep_registered[name] = wire_name, running[name]
            else:
                connection.cant_do(wire_name)

    def job_ended(self, job: Job) -> None:
        """Handle the end of a job of the withdrawn connection: unregister its function, if it was the last."""
        kept = self._keep_registered.pop(job.function, None)
        if kept is not None:  # else a request is unanswered, and `unregister_idle` comes later
            wire_name, running = kept
            if running > 1:
                self._keep_registered[job.function] = wire_name, running - 1
            else:
                self.connection.cant_do(wire_name)

    def restore(self) -> None:
        """Undo `withdraw`: register what is not registered, and have the connection asked."""
        connection = self.connection
        self.withdrawn = connection.reports_ends = False
        for wire_name, timeout in self.group.registration():
            if wire_name not in connection.registered:
                connection.can_do(wire_name, timeout)
        self.may_have_job = bool(self.group.functions)

    def close(self) -> None:
        """Record that the connection is not asked any more."""
        self.may_have_job = False
        cancel_timer(self.backoff)
        self.backoff = None
        if self.queue is not None:
            self.queue.discard(self)


class GrabQueue:
    """Connections in the order in which they were asked for a job, the least recently asked first.

    A connection is in one queue at most. To add, to pop or to discard one takes the same time (but for a logarithm)
    however many there are.

    :ivar states: those that are in it, by `GrabState.asked`.
    """

    __slots__ = ("_heap", "states")

    def __init__(self) -> None:
        self.states: dict[int, GrabState] = {}
        self._heap: list[int] = []  # with stale numbers in it: taking one out would take a search

    def add(self, state: GrabState) -> None:
        """Add a connection, unless it is in a queue. While it is, its number `GrabState.asked` must not change."""
        if state.queue is None:
            state.queue = self
            self.states[state.asked] = state
            heappush(self._heap, state.asked)

    def pop(self) -> GrabState:
        """Remove and return the first of the queue, which must not be empty."""
        state = None
        while state is None:
            state = self.states.pop(heappop(self._heap), None)
        state.queue = None
        return state

    def discard(self, state: GrabState) -> None:
        """Remove a connection, which must be in this queue."""
        state.queue = None
        del self.states[state.asked]
        if len(self._heap) > 2 * len(self.states) + _STALE:
            self._heap = sorted(self.states)


class FunctionGroup(Registrar):
    """Functions that are offered together, and their connections: one to each server.

    :ivar functions: by their names on the wire.
    :ivar limit: of its only function, if that has a limit of its own.
    :ivar states: of its connections that are ready.
    :ivar at_limit: those of its connections that would be asked for a job if the limit allowed it.
    :ivar timed: how many of its functions have a time-out.
    :ivar retired: whether nothing more is to be offered or requested, for good.
    :ivar withdrawn: whether nothing is offered or requested: it was retired, or is paused.
    :ivar draining: whether it was left by a stop, and its jobs have time to end.
    :ivar awaited: jobs in threads that are left at the end of its drain. It is disconnected when the last has ended.
    :param make_servers: makes the servers, with connections that register what this group offers.
    :param on_ready: called when a connection is ready.
    """

    def __init__(
        self,
        functions: Iterable[Function],
        limit: FunctionLimit | None,
        make_servers: Callable[[Registrar], ServerPool[GearmanWorkerProtocol]],
        on_ready: Callable[[GrabState], None],
        paused: bool = False,
    ) -> None:
        self.functions = {function.wire_name: function for function in functions}
        self.limit = limit
        self.states: dict[GearmanWorkerProtocol, GrabState] = {}
        self.at_limit = GrabQueue()
        self.timed = sum(function.timeout is not None for function in self.functions.values())
        self.retired = False
        self.withdrawn = paused
        self.draining = False
        self.awaited: set[Job] = set()
        self._on_ready = on_ready
        self._stopping = False
        self._stopped: Waiters[None] = Waiters()
        self.servers = make_servers(self)

    def add(self, function: Function) -> None:
        """Offer one more function."""
        self.functions[function.wire_name] = function
        self.timed += function.timeout is not None
        for connection, state in self.states.items():
            if not state.withdrawn:
                connection.can_do(function.wire_name, _can_do_timeout(function))
                state.may_have_job = True  # nobody is woken for what was queued before (docs/gearman.md §7)

    def remove(self, function: Function) -> bool:
        """Stop offering a function.

        :return: False where that would take away a job that runs, or may be assigned at any moment. Then nothing is
            changed.
        """
        jobs = (job for connection in self.states for job in connection.jobs.values())
        if any(connection.grabs for connection in self.states) or any(job.function == function.name for job in jobs):
            return False
        del self.functions[function.wire_name]
        self.timed -= function.timeout is not None
        for connection in self.states:
            if function.wire_name in connection.registered:
                connection.cant_do(function.wire_name)
        return True

    def retire(self) -> None:
        """Offer and request nothing more. The jobs that run go on."""
        self.retired = self.withdrawn = True
        for state in self.states.values():
            state.withdraw()

    def stop(self, drain_timeout: float = CLOSE_TIMEOUT) -> None:
        """Disconnect now. The servers give jobs that run to other workers.

        :param drain_timeout: seconds that large results may take to be sent.
        """
        if not self._stopping:
            self._stopping = True
            slow = any(connection.writing_paused for connection in self.states)
            timeout = max(drain_timeout, CLOSE_TIMEOUT) if slow else CLOSE_TIMEOUT
            self.servers.stop(ClientStopped("the worker was stopped"), timeout).addCallback(self._stopped.fire)

    def when_stopped(self) -> Deferred[None]:
        """Return a Deferred that fires when no socket and no timer is left."""
        return self._stopped.wait()

    def discard(self, state: GrabState) -> None:
        """Forget a connection that is closed."""
        del self.states[state.connection]
        state.close()

    def registration(self) -> Iterable[tuple[bytes, float | None]]:
        offered = {} if self.withdrawn else self.functions
        return [(name, _can_do_timeout(function)) for name, function in offered.items()]

    def connection_ready(self, connection: GearmanWorkerProtocol) -> None:
        server = self.servers.by_address(connection.factory.name)
        state = GrabState(connection, server, self)
        self.states[connection] = state
        self._on_ready(state)


def _can_do_timeout(function: Function) -> float | None:
    return None if function.timeout is None else function.timeout + TIMEOUT_MARGIN


def cancel_timer(call: IDelayedCall | None) -> None:
    """Cancel a timer, if there is one that has not fired."""
    if call is not None and call.active():
        call.cancel()
