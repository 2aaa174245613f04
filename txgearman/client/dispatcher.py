"""The policy: when a task is sent, to which server, and whether it is sent again.

From its submit to its outcome a task has one of these holders:

===================  ===================================================================================
admission queue      ``max_in_flight`` tasks are in flight already
awaiting connection  the server that the task should go to is connecting, or a stream's own connection to it is
awaiting server      no server can be reached; the task waits up to ``server_wait`` seconds for one
backing off          an attempt failed, and the task is resubmitted after a delay (``retries``)
on a connection      written, or about to be as soon as the server has taken what was written before
===================  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, succeed

from ..connection.pool import JobServer, ServerPool
from ..connection.reactor import Reactor
from ..connection.timers import DeadlineQueue
from ..connection.waiters import Waiters
from ..errors import ClientStopped, GearmanError, TaskTimedOut
from ..models import JobHandle
from .awaiting import AwaitingConnection
from .protocol import GearmanClientProtocol
from .retry_log import RetryLog
from .stream_router import StreamRouter
from .task import Task, TaskOwner, TaskResult
from .task_queue import TaskQueue, release_all, report_all

__all__ = ["Dispatcher", "retry_delay"]

MIN_RETRY_DELAY: Final = 0.5
MAX_RETRY_DELAY: Final = 30.0


def retry_delay(attempt: int) -> float:
    """Return the seconds to wait before retry number `attempt`, of which 1 is the first.

    The delay doubles with each retry, from half a second up to half a minute.
    """
    return min(MIN_RETRY_DELAY * 2.0 ** (attempt - 1), MAX_RETRY_DELAY)


class _Run(TaskOwner):
    """Owner of the tasks that are submitted before the next stop of the client.

    A callback may stop the client and start it again while an event is reported to several tasks, which nobody holds
    meanwhile. Those of the ended run are neither retried nor sent in the next one.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._stopped = False
        # Bound here, not called through another method: it is called for each task.
        self.task_ended = dispatcher.task_ended  # type: ignore[method-assign]  # with the same signature

    def stop(self) -> None:
        """End the run."""
        self._stopped = True

    def drop(self, handle: JobHandle) -> None:
        self._dispatcher.drop(handle)

    def reroute(self, task: Task) -> None:
        if self._stopped:
            task._attempt_failed(ClientStopped())
        else:
            self._dispatcher.reroute(task)

    def retry(self, task: Task, reason: Exception) -> bool:
        return not self._stopped and self._dispatcher.retry(task, reason)


class Dispatcher:
    """Sends tasks to job servers, from the submit of each of them to its outcome."""

    def __init__(
        self,
        reactor: Reactor,
        servers: ServerPool[GearmanClientProtocol],
        streams: StreamRouter,
        drop: Callable[[JobHandle], None],
        server_wait: float,
        max_in_flight: int | None,
    ) -> None:
        """
        :param streams: sends the tasks of streams.
        :param drop: asks the server of a job to drop it.
        """
        self.drop = drop
        self._run = _Run(self)
        self._servers = servers
        self._streams = streams
        self._server_wait = server_wait
        self._max_in_flight = max_in_flight
        self._unfinished = 0
        self._admission_queue = TaskQueue()
        self._admitting = False
        self._awaiting_connection = AwaitingConnection(reactor, servers, self._route)
        self._awaiting_server: DeadlineQueue[Task] = DeadlineQueue(reactor, self._server_wait_over)
        self._backing_off: DeadlineQueue[Task] = DeadlineQueue(reactor, self.reroute)
        self._timeouts: DeadlineQueue[Task] = DeadlineQueue(reactor, self._time_out)
        self._drained: Waiters[None] = Waiters()
        self._retry_log = RetryLog(reactor)

    def submit(self, task: Task, prefix: bytes) -> Deferred[TaskResult]:
        """Begin a task, and send it as soon as it may be sent.

        :return: the task's Deferred.
        :raises ValueError: the task was submitted before, or its function's name becomes too long.
        """
        deferred = task._begin(self._run, prefix)
        self._unfinished += 1
        timeout = task._timeout
        if timeout is not None:
            self._timeouts.add(task, timeout)
        if self._max_in_flight is not None and (self._admission_queue or self._admitted > self._max_in_flight):
            self._admission_queue.append(task)
        elif (
            (only_server := self._servers.only_server) is not None
            and (connection := only_server.connection) is not None
            and not task._options.streamed
        ):
            connection._send_task(task)  # as reroute() does, in the usual case, with a call less
        else:
            self.reroute(task)
        return deferred

    def stop(self) -> Deferred[None]:
        """Fail all tasks with `ClientStopped`, and disconnect.

        :return: fires when no socket and no timer is left.
        """
        self._retry_log.flush()
        self._run.stop()
        self._run = _Run(self)
        waiting = (
            self._awaiting_connection.pop_all()
            + self._awaiting_server.pop_all()
            + self._backing_off.pop_all()
            + self._admission_queue.pop_all()
            + self._streams.pop_unsent()
        )
        release_all(waiting)
        stopped = self._servers.stop(ClientStopped(), others=self._streams.release_factories())
        report_all(waiting, lambda task: task._attempt_failed(ClientStopped()))
        return stopped

    def drain(self) -> Deferred[None]:
        """Wait until every task has its outcome."""
        return self._drained.wait() if self._unfinished else succeed(None)

    def servers_changed(self, server: JobServer[GearmanClientProtocol] | None) -> None:
        """Reroute waiting tasks.

        :param server: the one that has become ready or unreachable; None if any task may have another server now.
        """
        if self._awaiting_server:
            self._serve_waiting()
        self._awaiting_connection.servers_changed(server)
        self._streams.servers_changed()

    def _serve_waiting(self) -> None:
        """Reroute the tasks that wait for a server, or have the next attempts to connect start soon."""
        if not self._servers.any_reachable():
            self._servers.bring_forward()
            return
        self._servers.expect_all()
        for task in self._awaiting_server.pop_all():
            if task._routing_key:
                self._route(task)
            else:
                self._awaiting_connection.add(task, None)

    # Admission and routing.

    @property
    def _admitted(self) -> int:
        """Number of unfinished tasks outside the admission queue."""
        return self._unfinished - len(self._admission_queue)

    def _admit(self) -> None:
        """Admit as many tasks as ``max_in_flight`` allows.

        Not re-entrant, so that many simultaneous failures do not recurse.
        """
        if not self._admitting and self._max_in_flight is not None:
            self._admitting = True
            while self._admitted < self._max_in_flight and (task := self._admission_queue.pop()) is not None:
                self.reroute(task)
            self._admitting = False

    def reroute(self, task: Task) -> None:
        """Send a task that no connection holds, or queue or fail it."""
        only_server = self._servers.only_server
        streamed = task._options.streamed
        if only_server is not None and only_server.connection is not None and not streamed:
            only_server.connection._send_task(task)
        elif not self._servers.started:
            task._attempt_failed(ClientStopped())
        elif streamed:
            self._streams.route(task)
        else:
            self._route(task)

    def _route(self, task: Task) -> None:
        """Send the task, have it wait for a server, or fail it."""
        unique = task._routing_key
        server = self._servers.choose(unique, task._attempt, task._server, task._background)
        if server is not None and server.connection is not None:
            server.connection._send_task(task)
        elif self._servers.any_reachable():
            self._awaiting_connection.add(task, server)
        else:
            self._await_server(task)

    def _await_server(self, task: Task) -> None:
        """Have the task wait for a server, or fail it: none can be reached."""
        self._servers.bring_forward()
        if self._server_wait:
            self._awaiting_server.add(task, self._server_wait)
            task._holder = self._awaiting_server
        else:
            task._attempt_failed(self._servers.none_available())

    # Time limits.

    def _server_wait_over(self, task: Task) -> None:
        task._holder = None
        task._attempt_failed(self._servers.none_available())

    def _time_out(self, task: Task) -> None:
        task._abandon(TaskTimedOut(task))

    # For the owner of the tasks.

    def retry(self, task: Task, reason: Exception) -> bool:
        """Schedule another attempt of a task that failed with `reason`; return whether there will be one."""
        if not (self._servers.started and isinstance(reason, GearmanError) and reason.retriable):
            return False
        delay = retry_delay(task._attempt + 1)
        self._retry_log.add(task, delay, reason)
        # Hold the task before on_retry is called, which may cancel it or stop the client.
        self._backing_off.add(task, delay)
        task._holder = self._backing_off
        task._retry_scheduled()
        return True

    def task_ended(self, task: Task) -> None:
        """Handle the end of a task, whose Deferred has fired."""
        self._unfinished -= 1
        if task._timeout is not None:
            self._timeouts.discard(task)
        if not self._unfinished:
            self._drained.fire(None)
        elif self._max_in_flight is not None:
            self._admit()
