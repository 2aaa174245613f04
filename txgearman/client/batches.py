"""Many jobs of one function with one Deferred: no object of ours for each job.

A `Batch` has the workloads of its jobs and, in the same places, their outcomes. It is sent in parts: a `Part` is a
number of its jobs that go to one connection together, and stands in queues and tables where otherwise a task would. The
server answers in order, so that a part that was written takes the next so many answers; the jobs of a foreground part
are then known by their handles.

A job becomes a `Task` of its own only if the server says more about it than its result: if it fails, is forgotten, or
shares its handle with another task. What the connection does for tasks then holds for it, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import ClassVar, Final, Protocol, TypeAlias

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ..connection.awaitable import AwaitableDeferred
from ..errors import BatchFailed, ClientStopped, ServerError, TaskLost, TaskRejected, TaskTimedOut
from ..models import JobHandle, Priority
from ..packets import JOB_CREATED, PacketType
from .batch_arguments import checked_uniques, checked_workloads, too_large
from .job_handles import JobHandles
from .shared_job import Jobs, Tombstone
from .task import AnyOptions, Task, TaskOwner, TaskResult

__all__ = [
    "MAX_PART_BYTES",
    "MAX_PART_JOBS",
    "Batch",
    "BatchOwner",
    "BatchResult",
    "CancelledPart",
    "Part",
    "PartConnection",
    "Work",
]

MAX_PART_BYTES: Final = 64 * 1024
"""Bytes of workloads to write at once: a transport asks its producer to pause when it holds as many."""

MAX_PART_JOBS: Final = 2048
"""Jobs to write at once."""

_OFFSETS: Final = tuple(range(MAX_PART_JOBS))  # so that a million handles do not have a million int objects

Outcome: TypeAlias = bytes | Exception | None
"""Outcome of a job: the result, the bytes of the handle, or the error; None before."""


BatchResult: TypeAlias = list[bytes] | JobHandles
"""What the Deferred of a batch fires with."""


class BatchOwner(Protocol):
    """Owner of a batch from its submit to its last outcome."""

    def drop(self, handle: JobHandle) -> None:
        """Have the server drop a job of a batch that was cancelled or has timed out."""

    def reroute_part(self, part: Part) -> None:
        """Send a part elsewhere: its connection was lost or retired before the part was written."""

    def jobs_ended(self, batch: Batch, count: int) -> None:
        """Handle that another `count` jobs have their outcome. If no more are missing, the Deferred has fired."""


class PartHolder(Protocol):
    """Where a part currently is: a queue, or a connection."""

    def discard(self, part: Part) -> None:
        """Remove the part, and ignore what arrives for its jobs later."""


class JobTable(Protocol):
    """The table of jobs of a connection, as parts use it."""

    def __delitem__(self, handle: bytes, /) -> None:
        """Remove a job."""


class PartConnection(Protocol):
    """A connection, as the parts on it use it."""

    in_flight: int

    @property
    def _jobs(self) -> JobTable:
        """The acknowledged jobs by their handles."""

    def _part_created(self, part: Part, handles: list[bytes]) -> None:
        """Handle JOB_CREATED for the next jobs of a part."""

    def _part_removed(self, part: Part) -> None:
        """Note that no jobs of a part are in flight any longer, except those that have become tasks."""

    def _watch(self, batch: Batch) -> None:
        """Have the watcher of a batch called after the data that is being handled."""


class _BatchDeferred(AwaitableDeferred[BatchResult]):
    # As for tasks: the canceller finds the batch here, and a Deferred that is kept does not keep the batch.
    _batch: Batch | None


def _cancel(deferred: Deferred[BatchResult]) -> None:
    assert isinstance(deferred, _BatchDeferred)
    assert deferred._batch is not None
    deferred._batch.cancel()


class _Heads(dict[int, bytes]):
    """What the packet of a job begins with, by the size of its workload."""

    def __init__(self, packet_type: PacketType, leading_arguments: bytes) -> None:
        self._header = packet_type.request_header
        self._leading_arguments = leading_arguments

    def __missing__(self, size: int) -> bytes:
        head = self[size] = self._header(len(self._leading_arguments) + size) + self._leading_arguments
        return head


class _JobTasks(TaskOwner):
    """Owner of those jobs of a batch that have become tasks."""

    def __init__(self, drop: Callable[[JobHandle], None]) -> None:
        self._drop = drop

    def drop(self, handle: JobHandle) -> None:
        self._drop(handle)


class Batch:
    """Jobs of one function, from their workloads to their outcomes.

    :ivar background: whether they are background jobs.
    :ivar timeout: seconds for all of them together; None for no limit.
    :ivar outcomes: outcome of each job, in the places of the workloads.
    :ivar max_size: length of the longest workload.
    :ivar missing: number of jobs without an outcome.
    :ivar failed: number of errors among the outcomes.
    :ivar watcher: called after jobs have got their outcomes, several at a time where they come together, but not for a
        cancel; None for nobody.
    :ivar parts: the parts that have jobs without an outcome.
    :param max_size: maximum length of a workload.
    :raises TypeError, ValueError: an argument is invalid.
    """

    __slots__ = (
        "__weakref__",
        "_deferred",
        "_heads",
        "_job_tasks",
        "_leading_arguments",
        "_owner",
        "_prefix",
        "_servers",
        "_size",
        "_template",
        "_tombstone",
        "_uniques",
        "_workloads",
        "background",
        "failed",
        "max_size",
        "missing",
        "outcomes",
        "parts",
        "timeout",
        "watcher",
    )

    def __init__(
        self,
        function: str | bytes,
        workloads: Iterable[bytes],
        background: bool,
        *,
        uniques: Iterable[str | bytes] | None = None,
        priority: Priority = Priority.NORMAL,
        timeout: float | None = None,
        drop_on_cancel: bool = False,
        max_size: int,
    ) -> None:
        # Only what is not the default, which takes no time.
        options: AnyOptions = {}
        if priority is not Priority.NORMAL:
            options["priority"] = priority
        if drop_on_cancel is not False:
            options["drop_on_cancel"] = drop_on_cancel
        # A task that is never sent: it validates what it has in common with the jobs, and has their options.
        self._template = Task(function, b"", background, timeout=timeout, **options)
        self._prefix: bytes | None = None
        self._set_workloads(workloads, max_size)
        self._uniques = checked_uniques(uniques, len(self._workloads))
        if self._uniques is None and uniques is not None:
            self._template = Task(function, b"", background, b"-", timeout, **options)
        self._set_outcomes()

    def another(self, workloads: Iterable[bytes], *, max_size: int) -> Batch:
        """Return a batch of other jobs, of the same function, options and owner, once this one was begun.

        It has no uniques: this one must have none, either. It takes less time than a batch from its arguments.
        """
        batch = Batch.__new__(Batch)
        batch._template = self._template
        batch._prefix = self._prefix
        batch._leading_arguments = self._leading_arguments
        batch._heads = self._heads
        batch._tombstone = self._tombstone
        batch._job_tasks = self._job_tasks
        batch._set_workloads(workloads, max_size)
        batch._uniques = None
        batch._set_outcomes()
        return batch

    def _set_workloads(self, workloads: Iterable[bytes], max_size: int) -> None:
        self._workloads = checked_workloads(workloads)
        sizes = set(map(len, self._workloads))
        self.max_size = max(sizes, default=0)
        self._size = self.max_size if len(sizes) == 1 else None
        if self.max_size > max_size:
            raise too_large(self._workloads, max_size)

    def _set_outcomes(self) -> None:
        """Begin with no outcome of any job."""
        self.background = background = self._template.background
        self.timeout = self._template.timeout
        self.outcomes: list[Outcome] = [None] * len(self._workloads)
        self._servers = [""] * len(self._workloads) if background else []
        self.missing = len(self._workloads)
        self.failed = 0
        self.parts: dict[Part, None] = {}
        self.watcher: Callable[[], object] | None = None
        self._owner: BatchOwner
        self._deferred: _BatchDeferred | None = None

    def begin(self, owner: BatchOwner, prefix: bytes = b"") -> Deferred[BatchResult]:
        """Create the Deferred of the batch, which fires at once if there are no jobs.

        :param owner: owns the batch up to its last outcome.
        :param prefix: bytes that precede the function's name in the submits.
        :raises ValueError: the function's name becomes too long.
        """
        if self._prefix != prefix:  # else it has what a batch like it has got
            self._prefix = prefix
            self._leading_arguments = self._template._leading_arguments_with(prefix)
            self._heads = _Heads(self._template._options.packet_type, self._leading_arguments)
            self._tombstone = Tombstone(self._leading_arguments)
            self._job_tasks = _JobTasks(owner.drop)
        self._owner = owner
        deferred = self._deferred = _BatchDeferred(_cancel)
        deferred._batch = self
        if not self.missing:
            self._fire()
        return deferred

    @property
    def wire_function(self) -> bytes:
        """Name of the function as sent: with the prefix, once the batch was begun."""
        return self._leading_arguments.partition(b"\0")[0]

    def whole(self) -> Part:
        """Return a part with all jobs."""
        return Part(self, range(self.missing))

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def function(self) -> str | bytes:
        """Name of the function, as it was passed."""
        return self._template.function

    def handles(self) -> list[JobHandle]:
        """Return the handles of the foreground jobs that are acknowledged and have no outcome."""
        return [handle for part in self.parts for handle in part.handles()]

    # Of single jobs, by their place.

    @property
    def has_keys(self) -> bool:
        """Whether some jobs have a unique, which chooses their server."""
        return self._uniques is not None or bool(self._template.unique)

    def routing_key(self, place: int) -> bytes:
        """Return the bytes that choose the server of a job; empty for any server. As for `Task`."""
        unique = self._template.unique if self._uniques is None else self._uniques[place]
        return self._workloads[place] if unique == b"-" else unique

    def leading_arguments(self, place: int) -> bytes:
        """Return the first arguments of the submit of a job: function and unique, each followed by a NUL."""
        if self._uniques is None:
            return self._leading_arguments
        return b"%b%b\0" % (self._leading_arguments[:-1], self._uniques[place])

    def packets(self, places: Sequence[int]) -> bytes:
        """Return the submits of jobs."""
        workloads = self.workloads(places)
        if self._uniques is None and self._size is not None:
            head = self._heads[self._size]
            return head + head.join(workloads)
        pieces = [b""] * (2 * len(workloads))
        if self._uniques is None:
            pieces[::2] = map(self._heads.__getitem__, map(len, workloads))
        else:
            pieces[::2] = map(self._head, places)
        pieces[1::2] = workloads
        return b"".join(pieces)

    def _head(self, place: int) -> bytes:
        leading_arguments = self.leading_arguments(place)
        size = len(leading_arguments) + len(self._workloads[place])
        return self._template._options.packet_type.request_header(size) + leading_arguments

    def workloads(self, places: Sequence[int]) -> list[bytes]:
        """Return the workloads of jobs."""
        if isinstance(places, range):
            return self._workloads[places.start : places.stop]
        return [self._workloads[place] for place in places]

    def task(self, place: int, server: str, handle: bytes) -> Task:
        """Return a job as a task: for an error, which names it, or for the table of a connection."""
        template = self._template
        task = Task(template._function, self._workloads[place], self.background)
        task._leading_arguments = self.leading_arguments(place)
        task._options = template._options
        task._timeout = template._timeout
        task._server = server
        task._job_handle = handle
        return task

    def begin_task(self, place: int, server: str, handle: bytes) -> tuple[Task, Deferred[TaskResult]]:
        """Return a job as a task that has begun, and its Deferred."""
        task = self.task(place, server, handle)
        return task, task._begin(self._job_tasks)

    def drop(self, handle: JobHandle) -> None:
        """Have the server drop a job if that was asked for."""
        if self._template._options.drop_on_cancel:
            self._owner.drop(handle)

    def tombstone(self, place: int) -> Tombstone:
        """Return what stands for a job that was abandoned."""
        return self._tombstone if self._uniques is None else Tombstone(self.leading_arguments(place))

    # Outcomes.

    def set_handles(self, places: Sequence[int], server: str, handles: list[bytes]) -> None:
        """Note the handles of background jobs. `settled` has to be called next."""
        if isinstance(places, range):
            self.outcomes[places.start : places.stop] = handles
            self._servers[places.start : places.stop] = [server] * len(handles)
        else:
            for place, handle in zip(places, handles, strict=True):
                self.outcomes[place] = handle
                self._servers[place] = server

    def set_error(self, place: int, error: Exception) -> None:
        """Note the error of a job. `settled` has to be called next."""
        self.outcomes[place] = error
        self.failed += 1

    def settled(self, count: int) -> None:
        """Handle that `count` more jobs have their outcome: of the last one, fire the Deferred."""
        self.missing -= count
        if not self.missing:
            self._fire()
        self._owner.jobs_ended(self, count)

    def notify(self) -> None:
        """Call the watcher, if there is one."""
        if self.watcher is not None:
            self.watcher()

    def _fire(self) -> None:
        deferred = self._release()
        if self.failed:
            deferred.errback(BatchFailed(self._typed_outcomes(), self.failed))
        elif self.background:
            deferred.callback(JobHandles(self._servers, self.outcomes))  # type: ignore[arg-type]  # all are handles
        else:
            deferred.callback(self.outcomes)  # type: ignore[arg-type]  # all are results

    def _typed_outcomes(self) -> list[bytes | JobHandle | Exception]:
        if not self.background:
            return self.outcomes  # type: ignore[return-value]  # none is None any longer
        return [
            JobHandle(server, outcome) if isinstance(outcome, bytes) else outcome  # type: ignore[misc]  # none is None
            for server, outcome in zip(self._servers, self.outcomes, strict=True)
        ]

    def _release(self) -> _BatchDeferred:
        """Part with the Deferred, which is about to fire, and with the workloads: tombstones need the uniques only."""
        deferred = self._deferred
        assert deferred is not None
        self._deferred = deferred._batch = None
        self._workloads = []
        return deferred

    @property
    def ended(self) -> bool:
        """Whether the Deferred has fired, or is about to."""
        return self._deferred is None

    def return_unsent(self, part: Part) -> None:
        """Return a part to the owner, since it was not written."""
        self._owner.reroute_part(part)

    # Ends of all jobs together.

    def cancel(self) -> None:
        """Abandon all jobs without an outcome. The Deferred is being cancelled."""
        parts = self._close_parts()
        deferred = self._release()
        for part in parts:
            part.abandon_tasks(lambda _: CancelledError())
        missing, self.missing = self.missing, 0
        deferred.errback(CancelledError())
        self.outcomes = []
        self._owner.jobs_ended(self, missing)

    def time_out(self) -> None:
        """Abandon all jobs without an outcome, which is `TaskTimedOut` now."""
        self.abandon(TaskTimedOut)

    def abandon(self, make: Callable[[Task], Exception]) -> None:
        """Abandon all jobs without an outcome, each with the error that `make` returns for it as a task."""
        for part in self._close_parts():
            part.fail(lambda place, server, handle: make(_ended(self.task(place, server, handle))))
            part.abandon_tasks(make)

    def _close_parts(self) -> list[Part]:
        """Remove all parts from where they are, and return them."""
        parts = list(self.parts)
        self.parts.clear()
        for part in parts:
            part.close()
        return parts


class Part:
    """A number of jobs of a batch, which go to one connection together.

    In queues it is used as a task is; on a connection, it is the record of so many outstanding submits, and then the
    entry of each of its foreground jobs in the table of jobs.

    :ivar places: places of the jobs in the batch: a `range`, or a list if uniques have parted them.
    :ivar batch: the batch.
    """

    __slots__ = (
        "_ended",
        "_holder",
        "_job_count",
        "_next",
        "_offsets",
        "_position",
        "_server",
        "_tasks",
        "batch",
        "places",
    )

    _answer_type: ClassVar = JOB_CREATED

    def __init__(self, batch: Batch, places: Sequence[int]) -> None:
        self.batch = batch
        self.places = places
        self._job_count = len(places)
        self._holder: PartHolder | None = None
        self._position: int
        self._server = ""
        self._ended = False
        """Whether the batch was cancelled or has timed out, or all jobs have their outcome."""
        self._next = 0  # offset of the job that the next answer is for
        self._offsets: dict[bytes, int] = {}  # by handle, of the acknowledged jobs without an outcome
        self._tasks: dict[Task, None] = {}  # of the jobs that have become tasks, and have no outcome
        batch.parts[self] = None

    @property
    def background(self) -> bool:
        """Whether the jobs are background jobs."""
        return self.batch.background

    @property
    def unanswered(self) -> int:
        """Number of jobs without an answer to their submit."""
        return self._job_count - self._next

    @property
    def in_flight(self) -> int:
        """Number of jobs without an outcome, except those that have become tasks."""
        return self.unanswered + len(self._offsets)

    # While it was not written.

    def split(self, count: int) -> Part:
        """Move the first `count` jobs to a new part, and return that. This one must be in no queue."""
        head = Part(self.batch, self.places[:count])
        self.places = self.places[count:]
        self._job_count -= count
        return head

    def divide(self, groups: Iterable[list[int]]) -> list[Part]:
        """Replace the part by parts with these places."""
        del self.batch.parts[self]
        self._ended = True
        return [Part(self.batch, group) for group in groups]

    def fitting(self) -> int:
        """Return how many of the jobs to write at once."""
        count = min(self._job_count, MAX_PART_JOBS)
        if count * self.batch.max_size <= MAX_PART_BYTES:
            return count
        workloads = self.batch.workloads(self.places[:MAX_PART_JOBS])
        if sum(map(len, workloads)) <= MAX_PART_BYTES:
            return len(workloads)
        return bisect_right(list(accumulate(map(len, workloads))), MAX_PART_BYTES) or 1

    def packets(self) -> bytes:
        """Return the submits of the jobs."""
        return self.batch.packets(self.places)

    def _return_unsent(self) -> None:
        """Return the part to its owner, since it was not written."""
        self.batch.return_unsent(self)

    @property
    def _routing_key(self) -> bytes:
        """Not empty if keys choose the servers of its jobs, so that it can't go to just any one."""
        return b"-" if self.batch.has_keys else b""

    # Answers to the submits.

    def _is_answered_by(self, arguments: list[bytes]) -> bool:
        return bool(arguments[0])

    def _answered(self, connection: PartConnection, arguments: list[bytes]) -> None:
        """Handle JOB_CREATED for the next job."""
        connection._part_created(self, arguments)

    def background_created(self, connection: PartConnection, handles: list[bytes]) -> None:
        """Handle JOB_CREATED for the next so many background jobs."""
        first, self._next = self._next, self._next + len(handles)
        self.batch.set_handles(self.places[first : self._next], self._server, handles)
        self._settled(connection, len(handles))

    def join(self, handles: list[bytes]) -> None:
        """Handle JOB_CREATED for the next so many foreground jobs, which share no handle with others."""
        first, self._next = self._next, self._next + len(handles)
        self._offsets.update(zip(handles, _OFFSETS[first : self._next], strict=True))

    def take_next(self) -> Task:
        """Return the next unanswered job as a task."""
        place = self.places[self._next]
        self._next += 1
        return self._begin_task(place, b"")

    def take_job(self, handle: bytes) -> Task:
        """Return an acknowledged job as a task."""
        return self._begin_task(self.places[self._offsets.pop(handle)], handle)

    def _begin_task(self, place: int, handle: bytes) -> Task:
        task, deferred = self.batch.begin_task(place, self._server, handle)
        self._tasks[task] = None
        deferred.addBoth(self._task_ended, task, place)
        return task

    def _task_ended(self, outcome: TaskResult | Failure, task: Task, place: int) -> None:
        del self._tasks[task]
        if self.batch.ended:
            return
        if isinstance(outcome, bytes):
            self.batch.outcomes[place] = outcome
        else:
            assert isinstance(outcome, Failure)
            assert isinstance(outcome.value, Exception)
            self.batch.set_error(place, outcome.value)
        self._check_end()
        self.batch.settled(1)
        self.batch.notify()

    def _refused(self, connection: PartConnection, error: ServerError) -> None:
        """Handle an ERROR in place of the next JOB_CREATED."""
        place = self.places[self._next]
        self._next += 1
        task = _ended(self.batch.task(place, self._server, b""))
        self.batch.set_error(place, TaskRejected(task, error.code, error.text))
        self._settled(connection, 1)
        self.batch.notify()

    # Ends of its jobs.

    def job_completed(self, connection: PartConnection, handle: bytes, result: bytes) -> None:
        """Handle WORK_COMPLETE for an acknowledged job, which was removed from the table of jobs."""
        self.batch.outcomes[self.places[self._offsets.pop(handle)]] = result
        self._completed(connection, 1)

    def jobs_completed(
        self, connection: PartConnection, handles: Sequence[bytes], results: Sequence[bytes], start: int
    ) -> int:
        """Handle WORK_COMPLETE for several jobs, as far as they are acknowledged jobs of the part.

        :param handles: of which the one at `start` is a job of the part.
        :param results: the result of each.
        :return: how many were, from `start` on. They have been removed from the table of jobs.
        """
        jobs, take_offset = connection._jobs, self._offsets.pop
        offsets: list[int] = []
        for index in range(start, len(handles)):
            handle = handles[index]
            offset = take_offset(handle, None)
            if offset is None:
                break
            del jobs[handle]
            offsets.append(offset)
        outcomes, places, count = self.batch.outcomes, self.places, len(offsets)
        first = offsets[0]
        if isinstance(places, range) and tuple(offsets) == _OFFSETS[first : first + count]:  # one worker ends them so
            outcomes[places[first] : places[first] + count] = results[start : start + count]
        else:
            for offset, result in zip(offsets, results[start : start + count], strict=True):
                outcomes[places[offset]] = result
        self._completed(connection, count)
        return count

    def _completed(self, connection: PartConnection, count: int) -> None:
        if self.batch.watcher is not None:
            connection._watch(self.batch)
        self._settled(connection, count)

    def _settled(self, connection: PartConnection, count: int) -> None:
        connection.in_flight -= count
        if not (self._offsets or self._next < self._job_count):
            connection._part_removed(self)
            self._check_end()
        self.batch.settled(count)

    def _check_end(self) -> None:
        """Leave the batch's parts if all jobs have their outcome."""
        if not (self.in_flight or self._tasks):
            self._ended = True
            self._holder = None
            self._offsets = {}  # one that has become empty is as large as before
            self.batch.parts.pop(self, None)

    def _lost(self, connection: object, error: Exception) -> None:
        """Handle that the connection was lost. Those jobs that have become tasks are lost by themselves."""
        if isinstance(error, ClientStopped):
            self._attempt_failed(ClientStopped())
        else:
            self.fail(lambda place, server, handle: self._lost_job(place, handle, error))

    def _lost_job(self, place: int, handle: bytes, error: Exception) -> TaskLost:
        task = _ended(self.batch.task(place, self._server, handle))
        lost = TaskLost(task, acknowledged=bool(handle))
        lost.__cause__ = error
        return lost

    def _attempt_failed(self, reason: Exception) -> None:
        """Fail all jobs without an outcome with the same error."""
        self.fail(lambda place, server, handle: reason)

    def fail(self, make: Callable[[int, str, bytes], Exception]) -> None:
        """Fail all jobs without an outcome, except those that have become tasks.

        :param make: returns the error from the place, the server and the handle of a job.
        """
        failed = [(self.places[offset], handle) for handle, offset in self._offsets.items()]
        failed += [(place, b"") for place in self.places[self._next :]]
        if not failed or self.batch.ended:
            return
        self._next = self._job_count
        for place, handle in failed:
            self.batch.set_error(place, make(place, self._server, handle))
        self._offsets = {}
        self._check_end()
        self.batch.settled(len(failed))
        self.batch.notify()

    # The end of the batch before that of its jobs.

    def close(self) -> None:
        """Leave the holder, which ignores from now on what arrives for the jobs."""
        self._ended = True
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.discard(self)

    def abandon_tasks(self, make: Callable[[Task], Exception]) -> None:
        """Abandon those jobs that have become tasks, each with the error that `make` returns for it."""
        for task in list(self._tasks):
            task._abandon(make(task))

    def unanswered_places(self) -> Sequence[int]:
        """Return the places of the jobs without an answer to their submit."""
        return self.places[self._next :]

    def handles(self) -> list[JobHandle]:
        """Return the handles of the acknowledged jobs that have no outcome, whether they have become tasks or not."""
        tasks = [task.handle for task in self._tasks if task.handle is not None]
        return [*(JobHandle(self._server, handle) for handle in self._offsets), *tasks]

    def acknowledged(self) -> list[tuple[bytes, int]]:
        """Return the handles and places of the acknowledged jobs that have no outcome."""
        return [(handle, self.places[offset]) for handle, offset in self._offsets.items()]


class CancelledPart:
    """A part of a batch that was abandoned before the server has answered all submits.

    :ivar unanswered: number of the answers that are due.
    """

    __slots__ = ("_background", "_drop", "_tombstones", "unanswered")

    _answer_type: ClassVar = JOB_CREATED

    def __init__(self, part: Part) -> None:
        places = part.unanswered_places()
        self.unanswered = len(places)
        self._tombstones = list(map(part.batch.tombstone, reversed(places)))  # the next one last
        self._background = part.background
        self._drop = part.batch.drop

    def _is_answered_by(self, arguments: list[bytes]) -> bool:
        return bool(arguments[0])

    def _next(self) -> Tombstone:
        self.unanswered -= 1
        return self._tombstones.pop()

    def _answered(self, connection: Jobs, arguments: list[bytes]) -> None:
        """Handle JOB_CREATED for the next jobs."""
        for handle in arguments:
            tombstone = self._next()
            if not self._background:
                connection._join(handle, tombstone)
            self._drop(connection._job_handle(handle))

    def _refused(self, connection: object, error: ServerError) -> None:
        """Handle an ERROR in place of the next JOB_CREATED: the job has its outcome."""
        self._next()

    def _lost(self, connection: object, error: Exception) -> None:
        """Do nothing: the jobs have their outcomes."""


Work: TypeAlias = Task | Part
"""What queues hold, and connections are given to send."""


def _ended(task: Task) -> Task:
    task._ended = True
    return task
