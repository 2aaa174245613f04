"""The client's half of the protocol on one connection: sends submits, and passes packets about jobs to their tasks.

A job has one handle, but may have several tasks of this client: those submitted with the same function and unique while
it existed. The server then sends each packet once for each foreground task, one copy directly after the other (D1);
`SharedJob` assigns the copies to the tasks. A cancelled task leaves a tombstone, since the server goes on sending its
copies. So does a task that got WORK_FAIL because an administrator cancelled its running job (D2), if another task joins
that job later: gearmand then sends one copy for each task that ever waited for the job on this connection.

A gearmand with a very long host name truncates handles, so that distinct jobs get the same handle, and sends the result
of one job to the client of another (H10). So two jobs of this client with one handle close the connection.

A job server may forget a job without notice (H1 to H3, H5, H9). So each connection periodically asks after the jobs
that have long been silent (guarantee 16): see `JobSweep`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ..connection.factory import ConnectionListener, GearmanFactory
from ..connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from ..connection.protocol import CLOSE_TIMEOUT, GearmanProtocol
from ..connection.reactor import Reactor
from ..errors import (
    ClientStopped,
    ProtocolError,
    TaskFailed,
    TaskLost,
)
from ..log_fields import task_fields
from ..models import JobHandle
from ..packets import (
    GET_STATUS,
    JOB_CREATED,
    JOBS_COMPLETED,
    JOBS_CREATED,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    PacketType,
)
from ..validation import MAX_REASON, quoted, short_text, whole_number
from .batches import Batch, CancelledPart, Part, Work
from .job_sweep import JobSweep
from .losses import Losses
from .shared_job import CancelledSubmit, SharedJob, StatusQuery, Tombstone, can_share
from .task import Task, TaskOwner, TaskResult
from .task_queue import TaskQueue, release_all, report_all

__all__ = [
    "ConnectionTasks",
    "GearmanClientFactory",
    "GearmanClientProtocol",
]

_log = Logger()

MAX_REMEMBERED_ENDS: Final = 1000  # failed jobs to remember for each connection, for tasks that join them afterwards
_MAX_REMEMBERED_UNIQUES: Final = 2  # for each of them; more have a handle in common only if it was truncated (H10)


class ConnectionTasks(TaskOwner):
    """The tasks on a connection: their holder, and the owner of those that were submitted to the connection itself."""

    def __init__(self, connection: GearmanClientProtocol) -> None:
        self._connection = connection

    def discard(self, task: Work) -> None:
        """Ignore what arrives for a task, or a part of a batch, that was cancelled or has timed out."""
        if isinstance(task, Task):
            self._connection._discard(task)
        else:
            self._connection._discard_part(task)

    def hold(self, task: Task) -> None:
        """Pause reading, since the caller of a task can take no more data for now.

        The task must have the connection to itself: see `StreamRouter`.
        """
        self._connection._hold(task)

    def release(self, task: Task) -> None:
        """Resume reading, if it was paused for this task: its caller can take more data."""
        self._connection._release(task)

    def reroute(self, task: Task) -> None:
        """Fail a task that was submitted to this connection: it has no other to go to."""
        task._lost(self._connection, self._connection.error or ClientStopped())


class GearmanClientProtocol(GearmanProtocol):
    """A client's connection to one job server. `GearmanClientFactory` makes them.

    :ivar in_flight: number of tasks, and of jobs of batches, that were written to the connection and have no outcome
        yet.
    """

    __slots__ = (
        "_backlog",
        "_held",
        "_job_sweep",
        "_jobs",
        "_part_answers",
        "_parts",
        "_remembered_ends",
        "_tasks",
        "_unanswered_parts",
        "_watched",
        "in_flight",
    )

    factory: GearmanClientFactory

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        super().__init__(reactor, connection_options)
        self._tasks = ConnectionTasks(self)
        # Tasks to write once the server has taken what was written before.
        self._backlog = TaskQueue()
        self._job_sweep = JobSweep(reactor, connection_options.job_check_interval, self)
        self._held: Task | None = None  # the task for which reading is paused
        self._jobs: dict[bytes, Task | Tombstone | SharedJob | Part] = {}
        self._parts: dict[Part, None] = {}  # those with jobs in flight
        self._watched: dict[Batch, None] = {}  # whose watchers are to be called after the data that is being handled
        self._unanswered_parts = 0
        self._part_answers = 0  # of parts that were not answered in whole
        # How many tasks, by handle and by leading arguments, got WORK_FAIL or WORK_EXCEPTION; the oldest handle first.
        self._remembered_ends: dict[bytes, dict[bytes, int]] = {}
        self.in_flight = 0

    def submit(self, task: Task) -> Deferred[TaskResult]:
        """Submit a task on this connection only.

        :return: fires with the result of a foreground task, or with the `JobHandle` of a background task. Fails with a
            `TaskError`, or with `ClientStopped` if the factory is stopped. If it is cancelled, nothing more is reported
            of the task, but its job may still run.
        :raises ValueError: the task was submitted before, or has ``timeout`` or ``retries``, which need a
            `GearmanClient`.
        """
        if task._timeout is not None or task.retries:
            raise ValueError("timeout and retries need a GearmanClient: a connection alone supports neither")
        deferred = task._begin(self._tasks)
        if self.error is None:
            self._send_task(task)
        else:
            task._lost(self, self.error)
        return deferred

    @property
    def _load(self) -> int:
        """Number of tasks and jobs on this connection, written or not."""
        return self.in_flight + len(self._backlog)

    def _send_task(self, task: Task) -> None:
        """Write a task that was begun, now or once the server has taken what was written before."""
        if self.writing_paused:
            self._backlog.append(task)
            return
        task._holder = self._tasks
        task._server = self.factory.name
        self.in_flight += 1
        leading_arguments, workload = task._leading_arguments, task._workload
        options = task._options
        at = options.at
        if at is not None:
            leading_arguments = b"%b%d\0" % (leading_arguments, at)
        # Not by PacketType.request(): the task has validated its arguments already.
        header = options.packet_type.request_header(len(leading_arguments) + len(workload))
        packet = header + leading_arguments + workload
        task._position = self._answered + len(self._outstanding)
        self._send(task, packet)
        if at is not None:
            self._send_fence()

    def _send_part(self, part: Part) -> None:
        """Write a part of a batch, now or once the server has taken what was written before."""
        if self.writing_paused:
            self._backlog.append(part)
            return
        while not self.writing_paused:
            count = part.fitting()
            if count == part._job_count:
                self._write_part(part)
                return
            self._write_part(part.split(count))
        self._backlog.prepend(part)

    def _write_part(self, part: Part) -> None:
        part._holder = self._tasks
        part._server = self.factory.name
        part._position = self._answered + len(self._outstanding)
        self.in_flight += part._job_count
        self._parts[part] = None
        self._unanswered_parts += 1
        self._decoder.joins_created = True
        self._decoder.joins_completed |= not part.background
        self._send(part, part.packets())

    def _send_work(self, work: Work) -> None:
        """Write a task or a part of a batch, now or once the server has taken what was written before."""
        if isinstance(work, Task):
            self._send_task(work)
        else:
            self._send_part(work)

    def _send_alone(self, task: Task, on_idle: Callable[[], object]) -> None:
        """Send a task on a connection that it has to itself.

        :param on_idle: called once no task and no answer is due, unless the connection is lost before.
        """
        self._on_idle = on_idle
        self._send_task(task)

    def resumeProducing(self) -> None:
        self.writing_paused = False
        self._cork()
        while not self.writing_paused and (work := self._backlog.pop()) is not None:
            if isinstance(work, Task):
                self._send_task(work)  # as _send_work() does, with a call less
            else:
                self._send_part(work)
        self._uncork()
        if not self.writing_paused:
            super().resumeProducing()

    def _discard(self, task: Task) -> None:
        """Replace a task that was cancelled by what handles the packets that still arrive for it."""
        if self.error is not None:
            return  # it is being lost: what fails the tasks in its tables skips those that have ended
        self.in_flight -= 1
        self._release(task)
        if not task._job_handle:
            self._outstanding[task._position - self._answered] = CancelledSubmit(task)
        else:
            job = self._jobs[task._job_handle]
            if isinstance(job, SharedJob):
                job.discard(task)
            else:
                self._jobs[task._job_handle] = Tombstone(task._leading_arguments)
            if task._drop is not None:
                task._drop(self._job_handle(task._job_handle))
        self._check_idle()

    def _discard_part(self, part: Part) -> None:
        """Replace the jobs of a part by what handles the packets that still arrive for them."""
        if self.error is not None:
            return
        self.in_flight -= part.in_flight
        self._part_removed(part)
        acknowledged = part.acknowledged()
        if part.unanswered:
            self._outstanding[part._position - self._answered] = CancelledPart(part)
        for handle, place in acknowledged:
            self._jobs[handle] = part.batch.tombstone(place)
        for handle, _ in acknowledged:
            part.batch.drop(self._job_handle(handle))
        self._check_idle()

    def _job_handle(self, handle: bytes) -> JobHandle:
        return JobHandle(self.factory.name, handle)

    # Flow control of received data.

    def _hold(self, task: Task) -> None:
        if self.error is None:
            self._held = task
            self._pause_reading()

    def _release(self, task: Task) -> None:
        if self._held is task:
            self._held = None
            self._resume_reading()

    # Idle and retiring.

    @property
    def _busy(self) -> bool:
        return self._has_outstanding or self.in_flight > 0 or len(self._backlog) > 0

    def _retire(self, on_idle: Callable[[], object]) -> None:
        report_all(self._backlog.pop_all(), _return_unsent)
        super()._retire(on_idle)

    # Answers to submits.

    def _job_created(self, arguments: list[bytes]) -> None:
        outstanding = self._outstanding
        task = outstanding[0] if outstanding else None
        handle = arguments[0]
        if not (isinstance(task, Task) and handle):  # an empty handle names no job
            self._answer_received(JOB_CREATED, arguments)
            return
        outstanding.popleft()
        self._answered += 1
        if task._background:
            self._task_removed(task)
        elif handle in self._jobs or self._remembered_ends or not self._job_sweep.on:
            self._join(handle, task)
        else:
            self._jobs[handle] = task
        task._answered(self, arguments)

    def _jobs_created(self, handles: list[bytes]) -> None:
        """Handle several JOB_CREATED in a row."""
        done = 0
        while done < len(handles) and self.error is None:
            oldest = self._outstanding[0] if self._outstanding else None
            if isinstance(oldest, (Part, CancelledPart)):
                answered = handles[done : done + oldest.unanswered]
                done += len(answered)
                self._take_answers(oldest, len(answered))
                oldest._answered(self, answered)
            else:
                self._job_created(handles[done : done + 1])
                done += 1

    def _take_oldest(self) -> None:
        oldest = self._outstanding[0]
        if isinstance(oldest, (Part, CancelledPart)):
            self._take_answers(oldest, 1)
        else:
            super()._take_oldest()

    def _take_answers(self, part: Part | CancelledPart, count: int) -> None:
        """Count answers to a part, the oldest request, and take it from the table with the last one."""
        self._part_answers += count
        if part.unanswered == count:
            super()._take_oldest()
            self._unanswered_parts -= 1
            self._decoder.joins_created = self._unanswered_parts > 0

    def _part_created(self, part: Part, handles: list[bytes]) -> None:
        """Handle JOB_CREATED for the next jobs of a part."""
        if part.background:
            part.background_created(self, handles)
        else:
            self._join_part(part, handles)

    @property
    def _progress(self) -> int:
        return super()._progress + self._part_answers

    def _join_part(self, part: Part, handles: list[bytes]) -> None:
        jobs = self._jobs
        joining = dict.fromkeys(handles, part)
        ends = self._remembered_ends
        known = not jobs.keys().isdisjoint(joining) or (ends and not ends.keys().isdisjoint(joining))
        if not known and len(joining) == len(handles):
            part.join(handles)
            jobs.update(joining)
            if not self._job_sweep.on:
                self._job_sweep.start(handles[0])
            return
        for handle in handles:
            if handle in jobs or handle in ends:
                self._join_job(part, handle)
            else:
                self._join_part(part, [handle])

    def _join_job(self, part: Part, handle: bytes) -> None:
        """Have the next job of a part share a handle."""
        task = part.take_next()
        self._job_taken(part, task)
        self._join(handle, task)
        task._answered(self, [handle])

    def _take_job(self, part: Part, handle: bytes) -> Task:
        """Return an acknowledged job of a part as a task, since the server says more about it than its result."""
        task = part.take_job(handle)
        self._job_taken(part, task)
        return task

    def _job_taken(self, part: Part, task: Task) -> None:
        task._holder = self._tasks
        if not part.in_flight:
            self._part_removed(part)

    def _part_removed(self, part: Part) -> None:
        """Note that no jobs of a part are in flight any longer, except those that have become tasks."""
        self._parts.pop(part, None)
        if not self._parts:
            self._decoder.joins_completed = False

    def _lose_outstanding(self, error: Exception) -> None:
        self._job_sweep.stop()
        self._held = None
        if not (self._outstanding or self._jobs or self._backlog):
            self._drained.fire(None)
            return
        jobs, self._jobs = self._jobs, {}
        parts, self._parts = self._parts, {}
        unwritten, self._backlog = self._backlog, TaskQueue()
        sent = TaskQueue()
        first = next((task for job in jobs.values() for task in _tasks_of(job)), None)
        for request in self._outstanding:
            if isinstance(request, Task):
                sent.append(request)
        for job in jobs.values():
            for task in _tasks_of(job):
                sent.append(task)
        self._outstanding = deque(request for request in self._outstanding if not isinstance(request, Task))
        lost, self.in_flight = self.in_flight, 0
        release_all(parts)
        losses = self.factory._losses
        losses.add(sent, lambda work: work._lost(self, error))
        stopped = isinstance(error, ClientStopped)  # a callback may have started the client again
        if lost and not stopped:
            self._log_lost(first, lost, error)
        losses.add(unwritten, _fail_stopped if stopped else _return_unsent)
        super()._lose_outstanding(error)
        report_all(parts, lambda part: part._lost(self, error))
        if stopped:
            losses.report_all()
        else:
            losses.report_some()

    def _log_lost(self, task: Task | None, count: int, error: Exception) -> None:
        """Log the tasks and jobs of batches that are lost with the connection: one event for all.

        :param task: one of them; None if there is none whose job the server had acknowledged.
        """
        text = "{count} tasks were lost with the connection to {server}: {reason}"
        fields = {} if task is None else {**task_fields(task), "task": str(task)}
        fields |= {"server": self.factory.name, "count": count}
        if task is not None:
            text = "{count} tasks were lost with the connection to {server}, {task} for one: {reason}"
        _log.warn(text, **fields, error=TaskLost.__name__, reason=short_text(str(error), MAX_REASON))

    def _join(self, handle: bytes, task: Task | Tombstone) -> None:
        if handle in self._jobs:
            self._share(handle, task)
            return
        self._jobs[handle] = task
        if not self._job_sweep.on:
            self._job_sweep.start(handle)
        if self._remembered_ends:
            self._join_remembered(handle, task)

    def _join_remembered(self, handle: bytes, task: Task | Tombstone) -> None:
        """Expect copies for the failed tasks of a job that another task has joined."""
        ends = self._remembered_ends.get(handle, {})
        for leading_arguments, count in list(ends.items()):
            tombstone = Tombstone(leading_arguments)
            if can_share(tombstone, task):
                del ends[leading_arguments]
                # After the task, not before it: if these copies never arrive, the task still gets its outcome.
                for _ in range(count):
                    self._shared(handle).join(tombstone)
        if not ends:
            self._remembered_ends.pop(handle, None)

    def _share(self, handle: bytes, task: Task | Tombstone) -> None:
        job = self._shared(handle)
        is_same = job.can_be_of(task)
        job.join(task)  # even if it is another job, so that the task is lost with the others
        if not is_same:
            if isinstance(task, Task):
                task._job_handle = handle
            raise ProtocolError(f"two jobs have the handle {quoted(handle)}; is the server's host name too long?")

    def _shared(self, handle: bytes) -> SharedJob:
        job = self._jobs[handle]
        if isinstance(job, Part):
            job = self._take_job(job, handle)
        if not isinstance(job, SharedJob):
            job = self._jobs[handle] = SharedJob(job)
        return job

    def _remember_end(self, handle: bytes, task: Task | Tombstone) -> None:
        """Remember a failed task whose job may still exist: if another task joins the job, copies for both arrive.

        Only a job with a unique can be joined. Its tasks may have the unique, or "-" and the unique as workload.
        """
        if not task._leading_arguments.endswith(b"\0\0"):
            ends = self._remembered_ends[handle] = self._remembered_ends.pop(handle, {})
            ends[task._leading_arguments] = ends.pop(task._leading_arguments, 0) + 1
            if len(ends) > _MAX_REMEMBERED_UNIQUES:
                del ends[next(iter(ends))]
            if len(self._remembered_ends) > MAX_REMEMBERED_ENDS:
                del self._remembered_ends[next(iter(self._remembered_ends))]

    def _task_removed(self, task: Task) -> None:
        """Note that the task has left the tables."""
        task._holder = None
        self.in_flight -= 1
        if self._held is not None:
            self._release(task)

    # Detection of forgotten jobs.

    def _query_jobs(self, handles: Collection[bytes], answered: Callable[[], object]) -> None:
        *others, last = handles
        self._cork()
        for handle in others:
            self._send(StatusQuery(handle), GET_STATUS.request(handle))
        self._send(StatusQuery(last, answered), GET_STATUS.request(last))
        self._uncork()

    def _wire_function_of(self, handle: bytes) -> bytes:
        job = self._jobs[handle]
        if isinstance(job, Part):
            return job.batch.wire_function
        return job._leading_arguments.partition(b"\0")[0]

    def _job_known(self, handle: bytes, running: bool) -> None:
        """Handle that the server has a silent job, which waits or runs."""
        if handle not in self._jobs:
            return  # it has ended since the question
        function = self._wire_function_of(handle)
        if running:
            self._job_sweep.untaken.job_runs(function)
        else:
            self._job_sweep.untaken.job_waits(function, handle, self.factory.name)

    def _job_forgotten(self, handle: bytes) -> None:
        """Fail the tasks of a job that the server does not have, and whose end it has not reported before."""
        job = self._jobs.pop(handle, None)
        tasks = [self._take_job(job, handle)] if isinstance(job, Part) else _tasks_of(job)
        for task in tasks:
            self._task_removed(task)
        report_all(tasks, lambda task: task._attempt_failed(TaskLost(task, acknowledged=True, forgotten=True)))

    # Packets about jobs. In a WORK_FAIL, a NUL and more may follow the handle (M1).

    def _work_data(self, arguments: list[bytes]) -> None:
        task = self._next_copy(arguments[0])
        if task is not None:
            task._data_received(arguments[1])

    def _work_warning(self, arguments: list[bytes]) -> None:
        task = self._next_copy(arguments[0])
        if task is not None:
            task._warning_received(arguments[1])

    def _work_status(self, arguments: list[bytes]) -> None:
        task = self._next_copy(arguments[0])
        if task is not None:
            task._status_received(whole_number(arguments[1]), whole_number(arguments[2]))

    def _work_complete(self, arguments: list[bytes]) -> None:
        handle, result = arguments
        task = self._jobs.pop(handle, None)
        if not isinstance(task, Task):
            if isinstance(task, Part):
                task.job_completed(self, handle, result)
                return
            task = self._next_end(handle, task)
            if not isinstance(task, Task):
                return
        self._task_removed(task)
        task._job_completed(result)

    def _jobs_completed(self, arguments: list[bytes]) -> None:
        """Handle several WORK_COMPLETE in a row: those for jobs of one part together."""
        handles, results = arguments[::2], arguments[1::2]
        start = 0
        while start < len(handles) and self.error is None:
            job = self._jobs.get(handles[start])
            if isinstance(job, Part):
                start += job.jobs_completed(self, handles, results, start)
            else:
                self._work_complete([handles[start], results[start]])
                start += 1

    def _watch(self, batch: Batch) -> None:
        """Have the watcher of a batch called after the data that is being handled."""
        self._watched[batch] = None
        self._after_read = self._notify_watchers

    def _notify_watchers(self) -> None:
        """Report the outcomes of this read. What is submitted meanwhile is sent together."""
        watched, self._watched = self._watched, {}
        if self._corks:
            self._cork()
        for batch in watched:
            batch.notify()
        self._uncork()

    def _work_exception(self, arguments: list[bytes]) -> None:
        task = self._next_failed(arguments[0])
        if task is not None:
            task._exception_received(arguments[1])

    def _work_fail(self, arguments: list[bytes]) -> None:
        task = self._next_failed(arguments[0].partition(b"\0")[0])
        if task is not None:
            task._attempt_failed(TaskFailed(task))

    _handlers: ClassVar[Mapping[PacketType, Callable[[GearmanClientProtocol, list[bytes]], None]]] = {
        JOB_CREATED: _job_created,
        JOBS_CREATED: _jobs_created,
        WORK_DATA: _work_data,
        WORK_WARNING: _work_warning,
        WORK_STATUS: _work_status,
        WORK_COMPLETE: _work_complete,
        JOBS_COMPLETED: _jobs_completed,
        WORK_EXCEPTION: _work_exception,
        WORK_FAIL: _work_fail,
    }

    def _next_copy(self, handle: bytes) -> Task | None:
        """Return the task that this packet is for; None if it has ended or was cancelled (guarantee 6)."""
        job = self._jobs.get(handle)
        if job is not None:
            self._job_sweep.heard_of.add(handle)
        if isinstance(job, SharedJob):
            job = job.next_copy()
        return job if isinstance(job, Task) else None

    def _next_end(self, handle: bytes, job: Task | Tombstone | SharedJob | Part | None) -> Task | Tombstone | None:
        """Return the task that this final packet is for; None if nobody waits for it.

        :param job: was removed from the table of jobs. It is put back unless this was the last copy.
        """
        if isinstance(job, Part):
            return self._take_job(job, handle)
        if not isinstance(job, SharedJob):
            return job
        task, last = job.next_end()
        if not last:
            self._jobs[handle] = job
        return task

    def _next_failed(self, handle: bytes) -> Task | None:
        """Return the task that this failure is for; None if nobody waits for it. The job may still exist."""
        task = self._next_end(handle, self._jobs.pop(handle, None))
        if task is not None:
            self._remember_end(handle, task)
        if not isinstance(task, Task):
            return None
        self._task_removed(task)
        return task


class GearmanClientFactory(GearmanFactory[GearmanClientProtocol]):
    """Keeps a client's connection to one job server, for programs that need a single connection and no `GearmanClient`.

    Pass it to ``reactor.connectTCP``, wait for ``when_ready()``, and call ``submit()`` of the protocol that it fires
    with.

    :param reactor: None for the global reactor.
    :param name: address of the server, for job handles.
    :param exceptions: whether to ask the server, on each connection, to forward WORK_EXCEPTION. If not, gearmand
        sends WORK_FAIL instead.
    :param listener: is notified when the connection becomes ready, and when it is lost.
    :param connection_options: time-outs and sizes.
    :param source: of the random numbers, for the jitter of delays; None for one of its own.
    """

    protocol = GearmanClientProtocol

    def __init__(
        self,
        reactor: Reactor | None = None,
        *,
        name: str = "",
        exceptions: bool = True,
        listener: ConnectionListener[GearmanClientProtocol] | None = None,
        connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS,
        source: random.Random | None = None,
    ) -> None:
        super().__init__(
            reactor,
            option_requests=(b"exceptions",) if exceptions else (),
            listener=listener,
            connection_options=connection_options,
            source=source,
        )
        self.name = name
        self._losses = Losses(self.reactor)

    def stop(self, error: Exception, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Close the connection as any factory does. Tasks of one that was lost before get their outcome as well."""
        stopped = super().stop(error, timeout)
        self._losses.report_all()
        return stopped


def _fail_stopped(work: Work) -> None:
    work._attempt_failed(ClientStopped())


def _return_unsent(work: Work) -> None:
    work._return_unsent()


def _tasks_of(job: Task | Tombstone | SharedJob | Part | None) -> list[Task]:
    """Return the tasks of a job that have no outcome. A job of a part has none."""
    if isinstance(job, SharedJob):
        return job.remaining()
    return [job] if isinstance(job, Task) else []
