"""The policy: when a task is sent, to which server, and whether again.

From its submit to its outcome a task is in one of these places, which is its holder:

=============  =========================================================================================
the gate       as many tasks as may be in flight are (``max_in_flight``)
in the queue   the server that it should go to is just connecting
patient        no server can be reached; it waits for ``server_wait`` seconds that one comes back
resting        it has failed, and is submitted again after a while (``retries``)
on a link      written to a server, or about to be as soon as that takes what was written before
=============  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from ..connection.pool import JobServers
from ..connection.timers import Deadlines
from ..connection.waiters import Waiters
from ..errors import ClientStopped, NoServersAvailable, TaskFailed, TaskLost, TaskRejected, TaskTimedOut
from ..models import JobHandle
from .task import Task, TaskOwner
from .task_queue import TaskQueue

__all__ = ["Dispatcher", "is_retried", "rest_before"]

_log = Logger()

_FIRST_REST: Final = 0.5
_LONGEST_REST: Final = 30.0


def rest_before(attempt: int) -> float:
    """Seconds before a task is submitted again; 1 is the first retry. Half a second, and twice as long each time, up to
    half a minute; as between attempts to connect."""
    return min(_FIRST_REST * 2.0 ** (attempt - 1), _LONGEST_REST)


def is_retried(reason: Exception) -> bool:
    """Whether a task that failed so is submitted again, if it has retries left.

    ==================  ================================================================================
    TaskLost            yes: the job may run twice
    TaskFailed          yes, exceptions too: the next attempt goes to another server, if there is one
    TaskRejected        where the queue was full (``QUEUE_ERROR``); what else is refused, would be again
    NoServersAvailable  yes, though ``server_wait`` is the better way to wait for a server
    TaskTimedOut        no: the time is for all attempts together
    ClientStopped       no
    ==================  ================================================================================
    """
    if isinstance(reason, TaskRejected):
        return reason.code == "QUEUE_ERROR"
    return isinstance(reason, (TaskLost, TaskFailed, NoServersAvailable))


class Dispatcher(TaskOwner):
    """Sends tasks to job servers, and answers for each until it has its outcome."""

    def __init__(
        self,
        reactor: Any,
        servers: JobServers,
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
        self._gate = TaskQueue()
        self._admitting = False
        self._queue = TaskQueue()
        self._patient: Deadlines[Task] = Deadlines(reactor, self._out_of_patience)
        self._resting: Deadlines[Task] = Deadlines(reactor, self._place)
        self._timeouts: Deadlines[Task] = Deadlines(reactor, self._time_out)
        self._drained = Waiters()

    def submit(self, task: Task, prefix: bytes) -> Deferred[Any]:
        """Answer for a task from now on.

        :return: the task's Deferred.
        :raises ValueError: it can't begin.
        """
        deferred = task.begin(self, prefix)
        self._unfinished += 1
        timeout = task.timeout
        if timeout is not None:
            self._timeouts.add(task, timeout)
        if self._max_in_flight is not None and (self._gate or self._inside > self._max_in_flight):
            self._gate.append(task)
        else:
            self.place_again(task)
        return deferred

    def stop(self) -> Deferred[Any]:
        """Fail all tasks, and disconnect.

        :return: fires when no socket and no timer is left.
        """
        waiting = self._queue.clear() + self._patient.clear() + self._resting.clear() + self._gate.clear()
        stopped = self._servers.stop(ClientStopped())
        for task in waiting:
            task.end_failed(ClientStopped())
        return stopped

    def drain(self) -> Deferred[None]:
        """Await the outcome of every task."""
        return self._drained.wait() if self._unfinished else succeed(None)

    def servers_changed(self) -> None:
        """A server has become ready, or can't be reached, or there are others now."""
        for _ in range(len(self._queue)):
            task = self._queue.pop()
            if task is not None:  # else the outcome of another has cancelled those that were left
                self._place(task)
        if self._patient and self._servers.any_hope():
            for task in self._patient.clear():
                self._place(task)  # which ends none, since there is hope

    # Where a task goes.

    @property
    def _inside(self) -> int:
        """How many tasks are past the gate."""
        return self._unfinished - len(self._gate)

    def _admit(self) -> None:
        """Admit those that max_in_flight allows. It takes no call in a call, however many fail at once."""
        if not self._admitting and self._max_in_flight is not None:
            self._admitting = True
            while self._inside < self._max_in_flight and (task := self._gate.pop()) is not None:
                self.place_again(task)
            self._admitting = False

    def place_again(self, task: Task) -> None:
        """For the task, which is on no link now."""
        sole = self._servers.sole
        if sole is not None and sole.link is not None:
            sole.link.send_task(task)
        elif self._servers.started:
            self._place(task)
        else:
            task.end_failed(ClientStopped())

    def _place(self, task: Task) -> None:
        """Send the task, or let it wait for a server, or fail it."""
        try:
            link = self._choose(task)
        except NoServersAvailable as error:
            if self._server_wait:
                self._patient.add(task, self._server_wait)
                task.holder = self._patient
            else:
                task.end_failed(error)
            return
        if link is None:
            self._queue.append(task)
        else:
            link.send_task(task)

    def _choose(self, task: Task) -> Any:
        # gearmand takes the unique "-" to mean that the workload is the unique (docs/gearman.md §1).
        unique = task.unique
        return self._servers.choose(task.workload if unique == b"-" else unique, task.attempt, task.server)

    # What ends a wait.

    def _out_of_patience(self, task: Task) -> None:
        task.holder = None
        task.end_failed(self._servers.none_available())

    def _time_out(self, task: Task) -> None:
        task.give_up(TaskTimedOut(task))

    # For the task.

    def drop(self, handle: JobHandle) -> None:
        """For the task."""
        self._drop(handle)

    def retry(self, task: Task, reason: Exception) -> bool:
        """For the task."""
        if not (self._servers.started and is_retried(reason)):
            return False
        rest = rest_before(task.attempt + 1)
        _log.info("{reason}; again in {rest} seconds", reason=reason, rest=rest)
        # It has its place before the caller is told, who may cancel it or stop the client.
        self._resting.add(task, rest)
        task.holder = self._resting
        task.tell_retry()
        return True

    def task_ended(self, task: Task) -> None:
        """For the task."""
        self._unfinished -= 1
        if task.timeout is not None:
            self._timeouts.let_go(task)
        if not self._unfinished:
            self._drained.fire(None)
        elif self._max_in_flight is not None:
            self._admit()
