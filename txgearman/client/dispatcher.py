"""The policy: when a task is sent, to which server, and whether it is sent again.

From its submit to its outcome a task has one of these holders:

===================  ===================================================================================
admission queue      ``max_in_flight`` tasks are in flight already
awaiting connection  the server that the task should go to is connecting, or a stream's own connection to it is
awaiting server      no server can be reached; it waits ``server_wait`` seconds, or with retries for the next attempts
backing off          an attempt failed, and the task is resubmitted after a delay (``retries``)
on a connection      written, or about to be as soon as the server has taken what was written before
===================  ===================================================================================

The jobs of a batch have the same holders, except that a batch is not retried. They go there in parts.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from ..connection.pool import JobServer, ServerPool
from ..connection.reactor import Reactor
from ..connection.timers import DeadlineQueue
from ..connection.waiters import Waiters
from ..errors import ClientStopped, TaskTimedOut
from ..models import JobHandle
from ..observers import Observers
from ..retry import NO_RETRY, may_retry, retry_delay
from .awaiting import AwaitingConnection
from .batches import MAX_PART_JOBS, Batch, BatchResult, Part, Work
from .defaults import TaskDefaults
from .fresh_attempt import AwaitingAttempt
from .observation import TaskObservation
from .protocol import GearmanClientProtocol
from .retry_log import RetryLog
from .stream_router import StreamRouter
from .task import Task, TaskOwner, TaskResult
from .task_queue import TaskQueue, release_all, report_all

__all__ = ["Dispatcher"]

PIECES_PER_SERVER: Final = 4
"""Parts of a batch for each server that it is spread over. More of them make the shares more even, and cost more."""


class _Run(TaskOwner):
    """Owner of the tasks and batches that are submitted before the next stop of the client.

    A callback may stop the client and start it again while an event is reported to several tasks, which nobody holds
    meanwhile. Those of the ended run are neither retried nor sent in the next one.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._stopped = False
        # Bound here, not called through another method: it is called for each task.
        self.task_ended = dispatcher.task_ended  # type: ignore[method-assign]  # with the same signature
        self.jobs_ended = dispatcher.jobs_ended

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

    def reroute_part(self, part: Part) -> None:
        if self._stopped:
            part._attempt_failed(ClientStopped())
        else:
            self._dispatcher.reroute_part(part)

    def retry(self, task: Task, reason: Exception) -> bool:
        return not self._stopped and self._dispatcher.retry(task, reason)


class Dispatcher:
    """Sends tasks to job servers, from the submit of each of them to its outcome.

    :param streams: sends the tasks of streams.
    :param drop: asks the server of a job to drop it.
    :param source: of the random numbers, for the delays of retries.
    :param observers: get the events of tasks and batches; None for no observers.
    """

    def __init__(
        self,
        reactor: Reactor,
        servers: ServerPool[GearmanClientProtocol],
        streams: StreamRouter,
        drop: Callable[[JobHandle], None],
        server_wait: float,
        max_in_flight: int | None,
        defaults: TaskDefaults,
        source: random.Random,
        observers: Observers | None = None,
    ) -> None:
        self.drop = drop
        self.defaults = defaults
        self._random = source
        self._observation = None if observers is None else TaskObservation(reactor, observers)
        self._prepares = bool(defaults) or observers is not None
        self._reactor = reactor
        self._run = _Run(self)
        self._servers = servers
        self._streams = streams
        self._server_wait = server_wait
        self._max_in_flight = max_in_flight
        self._unfinished = 0
        self._admission_queue = TaskQueue()
        self._admitting = False
        self._admitting_late = False
        self._late_admission: IDelayedCall | None = None
        self._awaiting_connection = AwaitingConnection(reactor, servers, self._route_awaiting)
        self._awaiting_server: DeadlineQueue[Work] = DeadlineQueue(reactor, self._server_wait_over)
        self._awaiting_attempt = AwaitingAttempt(reactor, servers, self._route_after_attempt)
        self._backing_off: DeadlineQueue[Task] = DeadlineQueue(reactor, self.reroute)
        self._timeouts: DeadlineQueue[Task] = DeadlineQueue(reactor, self._time_out)
        self._batch_timeouts: DeadlineQueue[Batch] = DeadlineQueue(reactor, Batch.time_out)
        self._drained: Waiters[None] = Waiters()
        self._retry_log = RetryLog(reactor)

    def submit(self, task: Task, prefix: bytes) -> Deferred[TaskResult]:
        """Begin a task, and send it as soon as it may be sent.

        :return: the task's Deferred.
        :raises ValueError: the task was submitted before, or its function's name becomes too long.
        """
        deferred = task._begin(self._run, prefix)
        self._unfinished += 1
        if self._prepares and not self._prepare(task, deferred):
            return deferred
        if task._timeout is not None:
            self._timeouts.add(task, task._timeout)
        if self._max_in_flight is not None and (self._admission_queue or self._admitted > self._max_in_flight):
            self._admission_queue.append(task)
        elif (
            (only_server := self._servers.only_server) is not None
            and (connection := only_server.connection) is not None
            and not task._options.streamed
        ):
            connection._send_task(task)  # as reroute() does, in the usual cases, with a call less
        elif self._servers.started and not task._options.streamed:
            self._route(task)
        else:
            self.reroute(task)
        return deferred

    def _prepare(self, task: Task, deferred: Deferred[TaskResult]) -> bool:
        """Apply the client's defaults to a task that was begun, and report it to the observers.

        :return: whether it may be sent; if not, an observer has stopped the client, and the task has failed.
        """
        if self.defaults:
            self.defaults.apply(task)
        run = self._run
        if self._observation is not None:
            self._observation.task_started(task, deferred)
        if run is not self._run:
            task._attempt_failed(ClientStopped())
        return run is self._run

    def submit_batch(self, batch: Batch, prefix: bytes) -> Deferred[BatchResult]:
        """Begin a batch, and send its jobs as soon as they may be sent.

        :return: the batch's Deferred.
        :raises ValueError: the name of its function becomes too long.
        """
        deferred = batch.begin(self._run, prefix)
        if batch.ended:
            return deferred  # it is empty
        self._unfinished += len(batch)
        run = self._run
        if self._observation is not None:
            self._observation.batch_started(batch, deferred)
        if run is not self._run:  # an observer has stopped the client
            batch.whole()._attempt_failed(ClientStopped())
            return deferred
        if batch.timeout is not None:
            self._batch_timeouts.add(batch, batch.timeout)
        if self._max_in_flight is None:
            self.reroute_part(batch.whole())
        else:
            self._admission_queue.append(batch.whole())
            self._admit()
        return deferred

    def stop(self) -> Deferred[None]:
        """Fail all tasks with `ClientStopped`, and disconnect.

        :return: fires when no socket and no timer is left.
        """
        self._retry_log.flush()
        self._run.stop()
        self._run = _Run(self)
        self._cancel_late_admission()
        waiting: list[Work] = [
            *self._awaiting_connection.pop_all(),
            *self._awaiting_server.pop_all(),
            *self._awaiting_attempt.pop_all(),
            *self._backing_off.pop_all(),
            *self._admission_queue.pop_all(),
            *self._streams.pop_unsent(),
        ]
        release_all(waiting)
        stopped = self._servers.stop(ClientStopped(), others=self._streams.release_factories())
        self._awaiting_attempt.report_all()
        self._streams.report_all()
        report_all(waiting, lambda task: task._attempt_failed(ClientStopped()))
        return stopped

    def drain(self) -> Deferred[None]:
        """Wait until every task has its outcome."""
        return self._drained.wait() if self._unfinished else succeed(None)

    @property
    def waiting(self) -> int:
        """Number of unfinished tasks and jobs that are not in flight."""
        written = sum(connection.in_flight for connection in self._servers.connections())
        return self._unfinished - written - self._streams.all_in_flight()

    def servers_changed(self, server: JobServer[GearmanClientProtocol] | None) -> None:
        """Reroute waiting tasks.

        :param server: the one that has become ready or unreachable; None if any task may have another server now.
        """
        if self._awaiting_server or self._awaiting_attempt:
            self._serve_waiting()
        if server is not None and server.unreachable:
            self._awaiting_attempt.attempt_failed(server)
        self._awaiting_connection.servers_changed(server)
        self._streams.servers_changed(server)

    def _serve_waiting(self) -> None:
        """Reroute the tasks that wait for a server, or have the next attempts to connect start soon."""
        if not self._servers.any_reachable():
            self._servers.bring_forward()
            return
        self._servers.expect_all()
        for task in [*self._awaiting_server.pop_all(), *self._awaiting_attempt.pop_all()]:
            if task._routing_key:
                self._route_awaiting(task)
            else:
                self._awaiting_connection.add(task, None)

    # Admission and routing.

    @property
    def _admitted(self) -> int:
        """Number of unfinished tasks and jobs outside the admission queue."""
        return self._unfinished - len(self._admission_queue)

    def _admit(self) -> None:
        """Admit as many tasks as ``max_in_flight`` allows.

        Not re-entrant, so that many simultaneous failures do not recurse.
        """
        if not self._admitting and self._max_in_flight is not None:
            self._admitting = True
            while self._admitted < self._max_in_flight and (work := self._admission_queue.pop()) is not None:
                if isinstance(work, Task):
                    self.reroute(work)
                elif not self._admit_jobs(work, self._max_in_flight):
                    break
            self._admitting = False

    def _admit_jobs(self, part: Part, most: int) -> bool:
        """Admit as many jobs of a part as `most` allows; return whether any were.

        They are admitted many at once, since a part with many jobs costs no more than one with few: a quarter of those
        that may be in flight, or at the end of this turn of the reactor as many as there are.
        """
        waiting = part._job_count
        free = min(waiting, most - self._admitted + waiting)
        if free < min(waiting, most // 4) and not self._admitting_late:
            self._admission_queue.prepend(part)
            if self._late_admission is None:
                self._late_admission = self._reactor.callLater(0, self._admit_late)
            return False
        head = part
        if free < waiting:
            head = part.split(free)
            self._admission_queue.prepend(part)
        self.reroute_part(head)
        return True

    def _admit_late(self) -> None:
        self._late_admission = None
        self._admitting_late = True
        self._admit()
        self._admitting_late = False

    def _cancel_late_admission(self) -> None:
        if self._late_admission is not None:
            self._late_admission.cancel()
            self._late_admission = None

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

    def reroute_part(self, part: Part) -> None:
        """Send the jobs of a part that no connection holds, or queue or fail them."""
        if not self._servers.started:
            part._attempt_failed(ClientStopped())
        elif not self._servers.any_reachable():
            self._await_server(part)
        elif part.batch.has_keys and self._servers.only_server is None:
            self._route_by_keys(part)
        else:
            self._spread(part)

    def _route_by_keys(self, part: Part) -> None:
        """Send each job to the server that its unique chooses, and those without a unique to any."""
        jobs_of: defaultdict[JobServer[GearmanClientProtocol] | None, list[int]] = defaultdict(list)
        for place in part.places:
            key = part.batch.routing_key(place)
            jobs_of[self._servers.choose(key) if key else None].append(place)
        for server, share in zip(jobs_of, part.divide(jobs_of.values()), strict=True):
            if server is None:
                self._spread(share)
            elif server.connection is not None:
                server.connection._send_part(share)
            else:
                self._awaiting_connection.add(share, server)

    def _spread(self, part: Part) -> None:
        """Send the jobs to the servers that are ready, or have them wait until one is."""
        ready = len(self._servers.ready)
        if not ready:
            self._awaiting_connection.add(part, None)
            return
        size = part._job_count
        if ready > 1:
            size = min(MAX_PART_JOBS, -(-size // (PIECES_PER_SERVER * ready)))
        while part._job_count > size:
            self._send_anywhere(part.split(size))
        self._send_anywhere(part)

    def _send_anywhere(self, part: Part) -> None:
        server = self._servers.choose(b"", background=part.background)
        assert server is not None
        assert server.connection is not None
        if part.background:
            server.background += part._job_count - 1  # the choice has counted one
        server.connection._send_part(part)

    def _route_awaiting(self, work: Work) -> None:
        """Route a task or a part that has waited for a connection."""
        if isinstance(work, Task):
            self._route(work, has_waited=True)
        else:
            self.reroute_part(work)

    def _route(self, task: Task, has_waited: bool = False) -> None:
        """Send the task, have it wait for a server, or fail it.

        :param has_waited: whether it has waited for an attempt to connect.
        """
        unique = task._routing_key
        server = self._servers.choose(unique, task._attempt, task._server, task._background)
        if server is not None and server.connection is not None:
            server.connection._send_task(task)
        elif self._servers.any_reachable():
            self._awaiting_connection.add(task, server)
        elif self._server_wait or has_waited or not task.retries:
            self._await_server(task)
        else:
            self._servers.bring_forward()
            self._awaiting_attempt.add(task)

    def _await_server(self, task: Work) -> None:
        """Have the task or part wait for a server, or fail it: none can be reached."""
        self._servers.bring_forward()
        if self._server_wait:
            self._awaiting_server.add(task, self._server_wait)
            task._holder = self._awaiting_server
        else:
            task._attempt_failed(self._servers.none_available())

    def _route_after_attempt(self, task: Task) -> None:
        """Fail a task that has waited for an attempt to connect, unless a server can be reached meanwhile."""
        if self._servers.started:
            self._route(task, has_waited=True)
        else:
            task._attempt_failed(ClientStopped())

    # Time limits.

    def _server_wait_over(self, task: Work) -> None:
        task._holder = None
        task._attempt_failed(self._servers.none_available())

    def _time_out(self, task: Task) -> None:
        task._abandon(TaskTimedOut(task))

    # For the owner of the tasks.

    def retry(self, task: Task, reason: Exception) -> bool:
        """Schedule another attempt of a task that failed with `reason`; return whether there will be one."""
        retry = task._options.retry or NO_RETRY
        if not (self._servers.started and may_retry(retry, reason)):
            return False
        if task._ended or task._owner is not self._run:
            return False  # `when` of the policy has cancelled it, or stopped the client
        delay = retry_delay(retry, task._attempt + 1, self._random)
        self._retry_log.add(task, delay, reason)
        # Hold the task before on_retry is called, which may cancel it or stop the client.
        self._backing_off.add(task, delay)
        task._holder = self._backing_off
        observation = self._observation
        task._retry_scheduled(None if observation is None else lambda task: observation.task_retried(task, reason))
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

    def jobs_ended(self, batch: Batch, count: int) -> None:
        """Handle the end of `count` jobs of a batch. If no more are missing, its Deferred has fired."""
        self._unfinished -= count
        if not batch.missing and batch.timeout is not None:
            self._batch_timeouts.discard(batch)
        if not self._unfinished:
            self._drained.fire(None)
        elif self._max_in_flight is not None:
            self._admit()
