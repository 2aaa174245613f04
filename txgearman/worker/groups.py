"""A worker's posts: sets of connections by which functions are offered.

A worker has one connection to each server, and for each function with a limit of its own (``max_jobs=``) one more: a
server gives a connection whatever job it has for it, and gearmand takes running jobs away from a connection that
unregisters their function (docs/gearman.md §7).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from ..connection.pool import ServerPool
from ..connection.protocol import CLOSE_TIMEOUT
from ..connection.waiters import Waiters
from ..errors import ClientStopped
from .functions import Function
from .job import Job
from .protocol import Assignment, GearmanWorkerProtocol

__all__ = ["Post", "Quota", "cancel_timer"]

_log = Logger()

TIMEOUT_MARGIN: Final = 5.0
"""Seconds that a server waits longer than the worker does for a job that takes too long. The worker ends such a job
itself, and tells why. A server's own time-out is for a worker that hangs; gearmand's is better left alone otherwise,
since it keeps one timer for a connection, may take the wrong job away, and stops it when the worker waits for another
job (docs/gearman.md §8)."""

MAX_WINDOW: Final = 1024  # requests for jobs that may be out at a connection

MAX_SPURIOUS_WAKEUPS: Final = (
    10  # times that a server may wake us for nothing, in close succession, and be asked at once
)
_CLOSE: Final = 1.0  # seconds
WAKEUP_BACKOFF: Final = 0.25  # seconds that it then has to wait


class Owner(Interface):
    """The worker, as its posts know it.

    :ivar drain_timeout: seconds that jobs and their results may take when the worker is stopped.
    :ivar busy: how many jobs run or are asked for, of all posts.
    """

    client_id: bytes
    drain_timeout: float
    busy: int

    def servers_for(self, post: Post) -> ServerPool[GearmanWorkerProtocol]:
        """The servers, with connections that are told to this post."""

    def fill(self) -> None:
        """Ask for as many jobs as may run."""

    def perform(self, post: Post, function: Function, job: Job) -> None:
        """Do a job."""

    def abandon(self, job: Job, why: str) -> None:
        """Nobody waits for its result any more."""


class GrabState:
    """Whether a connection should be asked for a job.

    :ivar hungry: whether its server may have one.
    :ivar window: how many may be asked for at a time. It doubles with each job, so that a busy server is not asked for
        one after the other, and an idle one not for ten in vain.
    :ivar asked: when it was asked last, as a number that grows.
    :ivar woken: whether the server has woken us, and nothing has come of it yet.
    :ivar vain: how often, in close succession, the server has woken us for nothing. That is so when others were
        faster; but gearmand 1.1 may do it without end (H8).
    """

    __slots__ = ("asked", "last_spurious", "may_have_job", "rest", "spurious_wakeups", "window", "woken")

    def __init__(self, may_have_job: bool) -> None:
        self.may_have_job = may_have_job
        self.window = 1
        self.asked = 0
        self.woken = False
        self.spurious_wakeups = 0
        self.last_spurious = 0.0
        self.rest: IDelayedCall | None = None

    def stop_backoff(self) -> None:
        cancel_timer(self.rest)
        self.rest = None


class Quota:
    """How many jobs of one function may run at a time, whatever post they came by.

    :ivar busy: how many run or are asked for.
    """

    __slots__ = ("busy", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.busy = 0


class Post:
    """A set of functions, and the connections by which they are offered: one to each server.

    :ivar functions: by their names on the wire.
    :ivar busy: how many of its jobs run or are asked for.
    :ivar turns: of its connections that are ready.
    """

    def __init__(self, worker: Owner, functions: Iterable[Function], quota: Quota | None = None) -> None:
        self._worker = worker
        self._retired = False
        self._stopping = False
        self._stopped: Waiters[None] = Waiters()
        self.quota = quota
        self.functions = {function.wire_name: function for function in functions}
        self.turns: dict[GearmanWorkerProtocol, GrabState] = {}
        self.busy = 0
        self.servers = worker.servers_for(self)

    # What the worker wants.

    def add(self, function: Function) -> None:
        """Offer one more function."""
        self.functions[function.wire_name] = function
        for connection, turn in self.turns.items():
            connection.can_do(function.wire_name, _can_do_timeout(function))
            turn.may_have_job = True  # nobody is woken for what was queued before (docs/gearman.md §7)

    def remove(self, function: Function) -> bool:
        """Offer a function no more.

        :return: False where that would take away a job that runs, or is just about to.
        """
        jobs = (job for connection in self.turns for job in connection.jobs.values())
        if any(connection.grabs for connection in self.turns) or any(job.function == function.name for job in jobs):
            return False
        del self.functions[function.wire_name]
        for connection in self.turns:
            connection.cant_do(function.wire_name)
        return True

    def may_be_asked(self, connection: GearmanWorkerProtocol, turn: GrabState) -> bool:
        """Whether this connection may be asked for one more job.

        Not while a large result goes out: the request would wait behind it, and the server seem to owe an answer.
        """
        within_quota = self.quota is None or self.quota.busy < self.quota.limit
        return (
            turn.may_have_job
            and connection.grabs < turn.window
            and within_quota
            and not (connection.retiring or connection.writing_paused)
        )

    def ask(self, connection: GearmanWorkerProtocol, number: int) -> None:
        """Ask it; the worker has a slot for the job.

        :param number: that of the request, of all that the worker has made.
        """
        self.turns[connection].asked = number
        self.busy += 1
        if self.quota is not None:
            self.quota.busy += 1
        connection.grab()

    def retire(self) -> Deferred[None]:
        """Ask for nothing more, and disconnect once all that runs is done.

        :return: as `when_stopped`.
        """
        self._retired = True
        stopped = self.when_stopped()
        for turn in self.turns.values():
            turn.may_have_job = False
            turn.stop_backoff()
        self._stop_if_done()
        return stopped

    def when_stopped(self) -> Deferred[None]:
        """
        :return: fires when no socket and no timer is left.
        """
        return self._stopped.wait()

    def stop(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Disconnect now. The servers give what runs to others.

        :param timeout: seconds that what was written may take to go out.
        """
        if not self._stopping:
            self._stopping = True
            self.servers.stop(ClientStopped("the worker was stopped"), timeout).addCallback(self._stopped.fire)

    def _stop_if_done(self) -> None:
        if self._retired and not self.busy:
            slow = any(
                connection.writing_paused for connection in self.turns
            )  # with large results that are still to go out
            self.stop(max(self._worker.drain_timeout, CLOSE_TIMEOUT) if slow else CLOSE_TIMEOUT)

    # What its connections tell.

    def registration(self) -> tuple[bytes, list[tuple[bytes, float | None]]]:
        offered = {} if self._retired else self.functions
        functions = [(name, _can_do_timeout(function)) for name, function in offered.items()]
        return self._worker.client_id, functions

    def connection_ready(self, connection: GearmanWorkerProtocol) -> None:
        self.turns[connection] = GrabState(may_have_job=bool(self.functions) and not self._retired)
        self._worker.fill()

    def drained(self, connection: GearmanWorkerProtocol) -> None:
        self._worker.fill()

    def woken(self, connection: GearmanWorkerProtocol) -> None:
        turn = self.turns[connection]
        turn.woken = True
        if turn.spurious_wakeups < MAX_SPURIOUS_WAKEUPS:
            self._look(turn)
        elif turn.rest is None:
            turn.rest = connection.factory.reactor.callLater(WAKEUP_BACKOFF, self._rested, turn)

    def _rested(self, turn: GrabState) -> None:
        turn.rest = None
        self._look(turn)

    def _look(self, turn: GrabState) -> None:
        if not self._retired:
            turn.may_have_job = True
            self._worker.fill()

    def look_at_sleeping(self) -> None:
        """Look whether there is a job that no server tells of: gearmand 1.1 wakes nobody for a job whose time has come
        (H7)."""
        for connection, turn in self.turns.items():
            turn.may_have_job = turn.may_have_job or connection.asleep

    def assigned(self, connection: GearmanWorkerProtocol, assignment: Assignment) -> None:
        turn = self.turns[connection]
        turn.woken = False
        turn.spurious_wakeups = 0
        turn.window = min(2 * turn.window, MAX_WINDOW)
        turn.may_have_job = not self._retired
        function = self.functions.get(assignment.function)
        if function is None:
            _log.error(
                "{address} gave a job of {function!r}, which is not registered",
                address=connection.factory.name,
                function=assignment.function,
            )
            connection.work_fail(assignment.handle)
            self.slot_free()
        else:
            taken_away = connection.jobs.get(assignment.handle)
            job = connection.jobs[assignment.handle] = Job(connection, function.name, assignment)
            if taken_away is not None:
                self._worker.abandon(taken_away, "its server took it away, and has given it out anew")
            self._worker.perform(self, function, job)
        self._worker.fill()

    def no_job(self, connection: GearmanWorkerProtocol) -> None:
        turn = self.turns[connection]
        if turn.woken:
            turn.woken = False
            now = connection.factory.reactor.seconds()
            turn.spurious_wakeups = turn.spurious_wakeups + 1 if now - turn.last_spurious < _CLOSE else 1
            turn.last_spurious = now
        turn.window = 1
        turn.may_have_job = False
        self.slot_free()
        if not (connection.grabs or self._retired):
            connection.sleep()
        self._worker.fill()

    def connection_closed(self, connection: GearmanWorkerProtocol, jobs: list[Job]) -> None:
        turn = self.turns.pop(connection, None)
        if turn is None:  # it was not ready
            return
        turn.stop_backoff()
        for _ in range(connection.grabs):
            self.slot_free()
        for job in jobs:
            self._worker.abandon(job, f"its connection was lost: {connection.error}")
        self._worker.fill()

    def job_done(self, connection: GearmanWorkerProtocol) -> None:
        """A job of this connection is done, and what is to be asked for in its place has been."""
        timed = connection.dialect.timer_outlives_job and any(function.timeout for function in self.functions.values())
        if timed and connection in self.turns and not (connection.grabs or connection.asleep or self._retired):
            connection.sleep()  # while there is no slot, too: it stops the server's timer

    def slot_free(self) -> None:
        """What was asked for has not come, or is done."""
        self.busy -= 1
        self._worker.busy -= 1
        if self.quota is not None:
            self.quota.busy -= 1
        self._stop_if_done()


def _can_do_timeout(function: Function) -> float | None:
    return None if function.timeout is None else function.timeout + TIMEOUT_MARGIN


def cancel_timer(call: IDelayedCall | None) -> None:
    """Cancel it, if there is one that waits."""
    if call is not None and call.active():
        call.cancel()
