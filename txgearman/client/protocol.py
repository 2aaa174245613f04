"""The client's half of the protocol on one connection: tasks go out as submits, and what comes back goes to its task.

A job has one handle, but may have several tasks of ours: those submitted with the same function and unique while it was
there. The server then sends each packet once for each foreground one, one copy right behind the other (D1), and
`SharedJob` deals the copies out. A cancelled task leaves its place empty, since the server goes on sending its copies.
So does one that got WORK_FAIL because an administrator cancelled its running job (D2), if another task joins that job
later: gearmand then sends a copy for each that ever waited on this connection.

A gearmand whose host name is so long that the number of a job does not fit behind it gives distinct jobs one handle,
and sends the result of one to the client of another (H10). So two jobs of ours with one handle end the connection.

A job server may forget a job and say nothing (H1 to H3, H5, H9). So each connection asks from time to time, in one
sweep, after the jobs of which it has long heard nothing (guarantee 16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred

from ..connection.factory import ConnectionListener, GearmanFactory
from ..connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from ..connection.protocol import GearmanProtocol
from ..connection.reactor import Reactor
from ..connection.timers import PROBES_PER_PERIOD, PeriodicProbe
from ..errors import (
    ClientStopped,
    ProtocolError,
    RequestUnsupported,
    ServerError,
    TaskFailed,
    TaskLost,
    TaskRejected,
)
from ..models import JobHandle
from ..packets import (
    GET_STATUS,
    JOB_CREATED,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    PacketType,
)
from ..validation import MAX_HANDLE, whole_number
from .shared_job import SharedJob, StatusQuery, Tombstone
from .task import Task, TaskOwner
from .task_queue import TaskQueue

__all__ = [
    "GearmanClientFactory",
    "GearmanClientProtocol",
]

MAX_REMEMBERED_ENDS: Final = 1000  # failed jobs of a connection to remember, for those that join them after their end


class GearmanClientProtocol(GearmanProtocol, TaskOwner):
    """A client's connection to one job server. `GearmanClientFactory` makes them.

    :ivar in_flight: tasks that were written to it and have no outcome yet.
    """

    factory: GearmanClientFactory

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        super().__init__(reactor, connection_options)
        # Tasks that will be written as soon as the server takes what was written before.
        self._backlog = TaskQueue()
        self._job_probe = PeriodicProbe(reactor, connection_options.job_check_interval, self._probe_jobs)
        self._silent_probes_of: dict[bytes, int] = {}
        self._heard_of: set[bytes] = set()
        self._held: set[Task] = set()
        self._jobs: dict[bytes, Task | Tombstone | SharedJob] = {}
        # How many tasks of a handle and head got a WORK_FAIL or WORK_EXCEPTION; oldest first.
        self._ended: dict[tuple[bytes, bytes], int] = {}
        self.in_flight = 0

    def submit(self, task: Task) -> Deferred[Any]:
        """Submit a task on this connection, and on no other.

        :return: fires with the result of a foreground task, or the `JobHandle` of a background one. Fails with a
            `TaskError`. Cancelled, the task is forgotten here; the job may still run.
        :raises ValueError: the task was submitted before, or has ``timeout`` or ``retries``, which take a client.
        """
        if task._timeout is not None or task._options.retries:
            raise ValueError("timeout and retries are for tasks of a GearmanClient, not of one connection")
        deferred = task._begin(self)
        if self.error is None:
            self.send_task(task)
        else:
            task._attempt_failed(_lost(task, self.error))
        return deferred

    def reroute(self, task: Task) -> None:
        """For a task that was submitted here: it goes nowhere else."""
        task._attempt_failed(_lost(task, self.error or ClientStopped()))

    @property
    def load(self) -> int:
        """How many tasks it has, written or not."""
        return self.in_flight + len(self._backlog)

    def send_task(self, task: Task) -> None:
        """Write a task that was begun, now or as soon as the server takes what was written before."""
        if self.writing_paused:
            self._backlog.append(task)
            return
        task._holder = self
        task._server = self.factory.name
        self.in_flight += 1
        head, workload = task._leading_arguments, task._workload
        options = task._options
        if options.at is not None:
            head = b"%b%d\0" % (head, options.at)
        # Put together here, since the task has checked its parts.
        packet = options.packet_type.request_header(len(head) + len(workload)) + head + workload
        task._position = self._answered + len(self._outstanding)
        self.send(task, packet)
        if options.at is not None:
            self.send_fence()

    def resumeProducing(self) -> None:
        self.writing_paused = False
        self.cork()
        while not self.writing_paused and (task := self._backlog.pop()) is not None:
            self.send_task(task)
        self.uncork()
        if not self.writing_paused:
            super().resumeProducing()

    def discard(self, task: Task) -> None:
        """Forget a task that was cancelled."""
        if self.error is not None:
            return  # the tables are gone already
        self.in_flight -= 1
        self._held.discard(task)
        if not task._job_handle:
            self._outstanding[task._position - self._answered] = Tombstone(
                task._leading_arguments, task._background, task._drop
            )
        else:
            job = self._jobs[task._job_handle]
            if isinstance(job, SharedJob):
                job.discard(task)
            else:
                self._jobs[task._job_handle] = Tombstone(task._leading_arguments)
            if task._drop is not None:
                task._drop(JobHandle(self.factory.name, task._job_handle))
        self.check_idle()

    # Tasks whose caller can take no more data for now.

    def hold(self, task: Task) -> None:
        """The task's caller wants no more data for now. Nothing is read while all that is out is held: what anybody
        else waits for comes on the same connection. To be said again with each data, if it is still so."""
        self._held.add(task)
        if len(self._held) == self.in_flight and not self.has_outstanding and self.error is None:
            self.pause_reading()

    def release(self, task: Task) -> None:
        """The task's caller can take more, or the task is at its end."""
        self._held.discard(task)
        self.resume_reading()

    # Whether anything is out.

    @property
    def busy(self) -> bool:
        return self.has_outstanding or self.in_flight > 0 or len(self._backlog) > 0

    def retire(self, on_idle: Callable[[], object]) -> None:
        for task in self._backlog.pop_all():
            task._return_unsent()
        super().retire(on_idle)

    # Answers to submits.

    def answer_type(self, request: object) -> PacketType:
        return JOB_CREATED if isinstance(request, (Task, Tombstone)) else super().answer_type(request)

    def fits(self, request: object, arguments: list[bytes]) -> bool:
        if isinstance(request, (Task, Tombstone)):
            return bool(arguments[0])
        return super().fits(request, arguments)

    def _job_created(self, arguments: list[bytes]) -> None:
        outstanding = self._outstanding
        task = outstanding[0] if outstanding else None
        handle = arguments[0]
        if not (isinstance(task, Task) and handle):  # an empty handle names no job
            self.request_succeeded(self._take_answered(JOB_CREATED, arguments), arguments)
            return
        outstanding.popleft()
        self._answered += 1
        if task._background:
            self._released(task)
        elif handle in self._jobs or self._ended or not self._job_probe.on:
            self._join(handle, task)
        else:
            self._jobs[handle] = task
        task._job_created(handle)

    def request_succeeded(self, request: object, arguments: list[bytes]) -> None:
        if not isinstance(request, Tombstone):
            super().request_succeeded(request, arguments)
        else:
            if not request.background:
                self._join(arguments[0], request)
            if request.drop is not None:
                request.drop(JobHandle(self.factory.name, arguments[0]))

    def request_refused(self, request: object, error: ServerError) -> None:
        if isinstance(request, Task):
            self._released(request)
            rejected = TaskRejected(request, error.code, error.text)
            if isinstance(error, RequestUnsupported):
                rejected.__cause__ = error
            request._attempt_failed(rejected)
        elif not isinstance(request, Tombstone):
            super().request_refused(request, error)

    def request_lost(self, request: object, error: Exception) -> None:
        if isinstance(request, Task):
            request._attempt_failed(_lost(request, error))
        elif not isinstance(request, Tombstone):
            super().request_lost(request, error)

    def lose_outstanding(self, error: Exception) -> None:
        jobs, self._jobs = self._jobs, {}
        unwritten = self._backlog.pop_all()
        self._held.clear()
        self._job_probe.stop()
        self.in_flight = 0
        super().lose_outstanding(error)
        for job in jobs.values():
            for task in job.remaining() if isinstance(job, SharedJob) else [job]:
                if isinstance(task, Task):
                    task._attempt_failed(_lost(task, error))
        for task in unwritten:
            task._return_unsent()

    def _join(self, handle: bytes, task: Task | Tombstone) -> None:
        if handle in self._jobs:
            self._share(handle, task)
            return
        self._jobs[handle] = task
        if not self._job_probe.on:
            self._silent_probes_of = {handle: 0}
            self._job_probe.start()
        if self._ended:
            # Behind the task, not before it: should these copies never come, it gets its outcome all the same.
            for _ in range(self._ended.pop((handle, task._leading_arguments), 0)):
                self._shared(handle).join(Tombstone(task._leading_arguments))

    def _share(self, handle: bytes, task: Task | Tombstone) -> None:
        job = self._shared(handle)
        is_same = job.can_be_of(task)
        job.join(task)  # even so, that it is lost with the others
        if not is_same:
            if isinstance(task, Task):
                task._job_handle = handle
            raise ProtocolError(f"two jobs have the handle {handle!r}; is the server's host name too long?")

    def _shared(self, handle: bytes) -> SharedJob:
        job = self._jobs[handle]
        if not isinstance(job, SharedJob):
            job = self._jobs[handle] = SharedJob(job)
        return job

    def _remember_end(self, handle: bytes, task: Task | Tombstone) -> None:
        """The task's job may still be there, with its place in it. (Only jobs with a unique can be joined.)"""
        if not task._leading_arguments.endswith(b"\0\0"):
            self._ended[handle, task._leading_arguments] = self._ended.pop((handle, task._leading_arguments), 0) + 1
            if len(self._ended) > MAX_REMEMBERED_ENDS:
                del self._ended[next(iter(self._ended))]

    def _released(self, task: Task) -> None:
        """The task is no longer in any table here."""
        task._holder = None
        self.in_flight -= 1
        if self._held:
            self._held.discard(task)

    # Whether the server still has the jobs.

    def _probe_jobs(self) -> bool:
        silent, suspects = {}, []
        for handle in self._jobs:
            looks = -1 if handle in self._heard_of or self.reading_paused else self._silent_probes_of.get(handle, -1)
            silent[handle] = looks + 1
            if looks + 1 == PROBES_PER_PERIOD:
                silent[handle] = 0
                suspects.append(handle)
        self._silent_probes_of = silent
        self._heard_of.clear()
        for handle in suspects:
            if len(handle) <= MAX_HANDLE and b"\0" not in handle:  # else some servers do not answer (H6)
                self.send(StatusQuery(self, handle), GET_STATUS.request(handle))
        return bool(self._jobs)

    def job_forgotten(self, handle: bytes) -> None:
        """The server has no such job, and had said nothing of its end before: it will say nothing any more."""
        job = self._jobs.pop(handle, None)
        for task in job.remaining() if isinstance(job, SharedJob) else [job]:
            if isinstance(task, Task):
                self._released(task)
                task._attempt_failed(TaskLost(task, acknowledged=True, forgotten=True))

    # What becomes of jobs. A handle may be followed by a NUL and more in a WORK_FAIL (M1).

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
            task = self._next_end(handle, task)
            if not isinstance(task, Task):
                return
        self._released(task)
        task._job_completed(result)

    def _work_exception(self, arguments: list[bytes]) -> None:
        task = self._next_failed(arguments[0])
        if task is not None:
            task._exception_received(arguments[1])

    def _work_fail(self, arguments: list[bytes]) -> None:
        task = self._next_failed(arguments[0].partition(b"\0")[0])
        if task is not None:
            task._attempt_failed(TaskFailed(task))

    handlers: ClassVar[Mapping[PacketType, Callable[[GearmanClientProtocol, list[bytes]], None]]] = {
        JOB_CREATED: _job_created,
        WORK_DATA: _work_data,
        WORK_WARNING: _work_warning,
        WORK_STATUS: _work_status,
        WORK_COMPLETE: _work_complete,
        WORK_EXCEPTION: _work_exception,
        WORK_FAIL: _work_fail,
    }

    def _next_copy(self, handle: bytes) -> Task | None:
        """Whose is this packet? None: the task has ended or was let go, and late is quiet."""
        job = self._jobs.get(handle)
        if job is not None:
            self._heard_of.add(handle)
        if isinstance(job, SharedJob):
            job = job.next_copy()
        return job if isinstance(job, Task) else None

    def _next_end(self, handle: bytes, job: Task | Tombstone | SharedJob | None) -> Task | Tombstone | None:
        """Whose is this final packet? The job, which was taken off the table, goes back there until the last one."""
        if not isinstance(job, SharedJob):
            return job
        task, last = job.next_end()
        if not last:
            self._jobs[handle] = job
        return task

    def _next_failed(self, handle: bytes) -> Task | None:
        """Whose is this final packet, after which the job may be there all the same? None: late is quiet."""
        task = self._next_end(handle, self._jobs.pop(handle, None))
        if task is not None:
            self._remember_end(handle, task)
        if not isinstance(task, Task):
            return None
        self._released(task)
        return task


class GearmanClientFactory(GearmanFactory[GearmanClientProtocol]):
    """Keeps a client's connection to one job server: for those who want one connection without a `GearmanClient`.

    Give it to ``reactor.connectTCP``, await ``when_ready()``, and ``submit()`` on the protocol that it fires with.
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
    ) -> None:
        """
        :param reactor: None for the global one.
        :param name: the server's address, as job handles are to name it.
        :param exceptions: ask the server for WORK_EXCEPTION, at each connect. Without, gearmand makes it a WORK_FAIL.
        :param limits: time-outs and sizes.
        """
        super().__init__(
            reactor,
            option_requests=(b"exceptions",) if exceptions else (),
            listener=listener,
            connection_options=connection_options,
        )
        self.name = name


def _lost(task: Task, error: Exception) -> Exception:
    """What a task fails with when the connection went because of `error`."""
    if isinstance(error, ClientStopped):
        return ClientStopped()
    lost = TaskLost(task, acknowledged=bool(task._job_handle))
    lost.__cause__ = error
    return lost
