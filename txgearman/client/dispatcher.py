"""The policy: when a task is sent, to which server, and whether again.

From its submit to its outcome a task is in one of these places, which is its holder:

===================  ===================================================================================
admission queue      as many tasks as may be in flight are (``max_in_flight``)
awaiting connection  the server that it should go to is connecting
awaiting server      no server can be reached; it waits up to ``server_wait`` seconds until one can be
backing off          it has failed, and is submitted again after a delay (``retries``)
on a connection      written to a server, or about to be as soon as that takes what was written before
===================  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from ..connection.pool import ServerPool
from ..connection.reactor import Reactor
from ..connection.timers import DeadlineQueue
from ..connection.waiters import Waiters
from ..errors import ClientStopped, GearmanError, NoServersAvailable, TaskTimedOut
from ..models import JobHandle
from .protocol import GearmanClientProtocol
from .task import Task, TaskOwner
from .task_queue import TaskQueue

__all__ = ["Dispatcher", "retry_delay"]

_log = Logger()

MIN_RETRY_DELAY: Final = 0.5
MAX_RETRY_DELAY: Final = 30.0


def retry_delay(attempt: int) -> float:
    """Seconds before a task is submitted again; 1 is the first retry. Half a second, and twice as long each time, up to
    half a minute; as between attempts to connect."""
    return min(MIN_RETRY_DELAY * 2.0 ** (attempt - 1), MAX_RETRY_DELAY)


class Dispatcher(TaskOwner):
    """Sends tasks to job servers, and answers for each until it has its outcome."""

    def __init__(
        self,
        reactor: Reactor,
        servers: ServerPool[GearmanClientProtocol],
        drop: Callable[[JobHandle], None],
        server_wait: float,
        max_in_flight: int | None,
    ) -> None:
        """
        :param drop: asks a job's server to drop it.
        """
        self._drop = drop
        self._servers = servers
        self._server_wait = server_wait
        self._max_in_flight = max_in_flight
        self._unfinished = 0
        self._admission_queue = TaskQueue()
        self._admitting = False
        self._awaiting_connection = TaskQueue()
        self._awaiting_server: DeadlineQueue[Task] = DeadlineQueue(reactor, self._server_wait_over)
        self._backing_off: DeadlineQueue[Task] = DeadlineQueue(reactor, self._route)
        self._timeouts: DeadlineQueue[Task] = DeadlineQueue(reactor, self._time_out)
        self._drained: Waiters[None] = Waiters()

    def submit(self, task: Task, prefix: bytes) -> Deferred[Any]:
        """Answer for a task from now on.

        :return: the task's Deferred.
        :raises ValueError: it can't begin.
        """
        deferred = task._begin(self, prefix)
        self._unfinished += 1
        timeout = task._timeout
        if timeout is not None:
            self._timeouts.add(task, timeout)
        if self._max_in_flight is not None and (self._admission_queue or self._inside > self._max_in_flight):
            self._admission_queue.append(task)
        else:
            self.reroute(task)
        return deferred

    def stop(self) -> Deferred[Any]:
        """Fail all tasks, and disconnect.

        :return: fires when no socket and no timer is left.
        """
        waiting = (
            self._awaiting_connection.pop_all()
            + self._awaiting_server.pop_all()
            + self._backing_off.pop_all()
            + self._admission_queue.pop_all()
        )
        stopped = self._servers.stop(ClientStopped())
        for task in waiting:
            task._attempt_failed(ClientStopped())
        return stopped

    def drain(self) -> Deferred[None]:
        """Await the outcome of every task."""
        return self._drained.wait() if self._unfinished else succeed(None)

    def servers_changed(self) -> None:
        """A server has become ready, or can't be reached, or there are others now."""
        for _ in range(len(self._awaiting_connection)):
            task = self._awaiting_connection.pop()
            if task is not None:  # else the outcome of another has cancelled those that were left
                self._route(task)
        if self._awaiting_server and self._servers.any_reachable():
            for task in self._awaiting_server.pop_all():
                self._route(task)  # which ends none, since there is hope

    # Where a task goes.

    @property
    def _inside(self) -> int:
        """How many tasks are past the gate."""
        return self._unfinished - len(self._admission_queue)

    def _admit(self) -> None:
        """Admit those that max_in_flight allows. It takes no call in a call, however many fail at once."""
        if not self._admitting and self._max_in_flight is not None:
            self._admitting = True
            while self._inside < self._max_in_flight and (task := self._admission_queue.pop()) is not None:
                self.reroute(task)
            self._admitting = False

    def reroute(self, task: Task) -> None:
        """For the task, which is on no connection now."""
        only_server = self._servers.only_server
        if only_server is not None and only_server.connection is not None:
            only_server.connection.send_task(task)
        elif self._servers.started:
            self._route(task)
        else:
            task._attempt_failed(ClientStopped())

    def _route(self, task: Task) -> None:
        """Send the task, or let it wait for a server, or fail it."""
        try:
            connection = self._choose(task)
        except NoServersAvailable as error:
            if self._server_wait:
                self._awaiting_server.add(task, self._server_wait)
                task._holder = self._awaiting_server
            else:
                task._attempt_failed(error)
            return
        if connection is None:
            self._awaiting_connection.append(task)
        else:
            connection.send_task(task)

    def _choose(self, task: Task) -> GearmanClientProtocol | None:
        # gearmand takes the unique "-" to mean that the workload is the unique (docs/gearman.md §1).
        unique = task.unique
        return self._servers.choose(task._workload if unique == b"-" else unique, task._attempt, task._server)

    # What ends a wait.

    def _server_wait_over(self, task: Task) -> None:
        task._holder = None
        task._attempt_failed(self._servers.none_available())

    def _time_out(self, task: Task) -> None:
        task._abandon(TaskTimedOut(task))

    # For the task.

    def drop(self, handle: JobHandle) -> None:
        """For the task."""
        self._drop(handle)

    def retry(self, task: Task, reason: Exception) -> bool:
        """For the task."""
        if not (self._servers.started and isinstance(reason, GearmanError) and reason.retriable):
            return False
        rest = retry_delay(task._attempt + 1)
        _log.info("{reason}; again in {rest} seconds", reason=reason, rest=rest)
        # It has its place before the caller is told, who may cancel it or stop the client.
        self._backing_off.add(task, rest)
        task._holder = self._backing_off
        task._retry_scheduled()
        return True

    def task_ended(self, task: Task) -> None:
        """For the task."""
        self._unfinished -= 1
        if task._timeout is not None:
            self._timeouts.discard(task)
        if not self._unfinished:
            self._drained.fire(None)
        elif self._max_in_flight is not None:
            self._admit()
