"""The client's half of the protocol on one link: tasks go out as submits, and what comes back goes to its task.

A job has one handle, but may have several tasks of ours: those submitted with the same function and unique while it was
there. The server then sends each packet once for each foreground one, one copy right behind the other (GEARMAN.md
D1), and `SharedJob` deals the copies out. A cancelled task leaves its place empty, since the server goes on sending
its copies. So does one that got WORK_FAIL because an administrator cancelled its running job (D2), if another task
joins that job later: gearmand then sends a copy for each that ever waited on this connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred

from .connection import CONNECT_TIMEOUT, GearmanFactory, GearmanProtocol, LinkObserver
from .errors import ClientStopped, TaskFailed, TaskLost, TaskRejected
from .packets import (
    JOB_CREATED,
    MAX_PACKET_SIZE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    PacketType,
)
from .tasks import Task

__all__ = ["GearmanClientFactory", "GearmanClientProtocol", "whole_number"]

# By Priority: HIGH, NORMAL, LOW.
_SUBMIT: Final = (SUBMIT_JOB_HIGH, SUBMIT_JOB, SUBMIT_JOB_LOW)
_SUBMIT_BACKGROUND: Final = (SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG)

_LEADING_DIGITS: Final = re.compile(rb"\s*([+-]?\d{1,20})")  # more than any server keeps, and still good for a fraction


def whole_number(text: bytes) -> int:
    """Read a number as far as it goes, as C's ``atoi`` does, since workers send all sorts (GEARMAN.md C2)."""
    match = _LEADING_DIGITS.match(text)
    return int(match[1]) if match else 0


_MOST_ENDED: Final = 1000  # failed jobs of a connection to remember, for those that join them after their end


class Forgotten:
    """Stands in the place of a task that was let go, and keeps of it only what tells its job from others."""

    __slots__ = ("background", "key")
    answer: ClassVar[PacketType] = JOB_CREATED

    def __init__(self, key: tuple[bytes, bytes], background: bool = False) -> None:
        """
        :param key: function and unique.
        """
        self.key = key
        self.background = background


def _key(task: Task | Forgotten) -> tuple[bytes, bytes]:
    return (task.wire_function, task.unique) if isinstance(task, Task) else task.key


class SharedJob:
    """The foreground tasks of one handle, by the order of their JOB_CREATED, with the places of those let go."""

    __slots__ = ("_ended", "_tasks", "_turn")

    def __init__(self, first: Task | Forgotten) -> None:
        self._tasks: list[Task | Forgotten] = []
        self.join(first)
        self._turn = 0  # whose copy the next packet is
        self._ended = 0  # how many have had their final packet

    def join(self, task: Task | Forgotten) -> None:
        """Add the task whose JOB_CREATED has come."""
        if isinstance(task, Task):
            task.place = len(self._tasks)
        self._tasks.append(task)

    def let_go(self, task: Task) -> None:
        """Forget the task, but not that copies for it will come."""
        self._tasks[task.place] = Forgotten(_key(task))

    def next_copy(self) -> Task | Forgotten:
        """Whose is this copy of a packet that is not the last?"""
        task = self._tasks[self._turn]
        self._turn += 1
        if self._turn == len(self._tasks):
            self._turn = self._ended
        return task

    def next_end(self) -> tuple[Task | Forgotten, bool]:
        """Whose is this copy of a final packet, and was it the last copy?"""
        task = self._tasks[self._ended]
        self._tasks[self._ended] = Forgotten(_key(task))
        self._ended += 1
        self._turn = max(self._turn, self._ended)
        return task, self._ended == len(self._tasks)

    def remaining(self) -> list[Task]:
        """The tasks that wait for an outcome."""
        return [task for task in self._tasks if isinstance(task, Task)]


class GearmanClientProtocol(GearmanProtocol):
    """A client's connection to one job server. `GearmanClientFactory` makes them.

    :ivar in_flight: tasks that were written to it and have no outcome yet.
    """

    factory: GearmanClientFactory

    def __init__(self, max_packet_size: int = MAX_PACKET_SIZE) -> None:
        super().__init__(max_packet_size)
        self._jobs: dict[bytes, Task | Forgotten | SharedJob] = {}
        # How many tasks of a handle, function and unique got a WORK_FAIL or WORK_EXCEPTION; oldest first.
        self._ended: dict[tuple[bytes, tuple[bytes, bytes]], int] = {}
        self.in_flight = 0

    def submit(self, task: Task) -> Deferred[Any]:
        """Submit a task on this connection, and on no other.

        :return: fires with the result of a foreground task, or the `JobHandle` of a background one. Fails with a
            `TaskError`. Cancelled, the task is forgotten here; the job may still run.
        :raises ValueError: the task was submitted before.
        """
        deferred = task.begin()
        if self.error is None:
            self.send_task(task)
        else:
            task.end_failed(_lost(task, self.error))
        return deferred

    def send_task(self, task: Task) -> None:
        """Write a task that was begun."""
        task.holder = self
        self.in_flight += 1
        if task.at is None:
            packet_type = (_SUBMIT_BACKGROUND if task.background else _SUBMIT)[task.priority]
            task.place = self.send(task, packet_type.request(task.wire_function, task.unique, task.workload))
        else:
            epoch = b"%d" % task.at
            packet = SUBMIT_JOB_EPOCH.request(task.wire_function, task.unique, epoch, task.workload)
            task.place = self.send(task, packet)
            self.send_fence()

    def let_go(self, task: Task) -> None:
        """Forget a task that was cancelled."""
        if self.error is not None:
            return  # the tables are gone already
        self.in_flight -= 1
        if not task.job_handle:
            self._outstanding[task.place] = Forgotten(_key(task), task.background)
            return
        job = self._jobs[task.job_handle]
        if isinstance(job, SharedJob):
            job.let_go(task)
        else:
            self._jobs[task.job_handle] = Forgotten(_key(task))

    # Answers to submits.

    def fits(self, request: Any, arguments: list[bytes]) -> bool:
        if isinstance(request, (Task, Forgotten)):
            return bool(arguments[0])  # a handle that is empty names no job
        return super().fits(request, arguments)

    def request_succeeded(self, request: Any, arguments: list[bytes]) -> None:
        if isinstance(request, Task):
            self._created(request, arguments[0])
        elif not isinstance(request, Forgotten):
            super().request_succeeded(request, arguments)
        elif not request.background:
            self._join(arguments[0], request)

    def request_refused(self, request: Any, code: str, text: str) -> None:
        if isinstance(request, Task):
            self._released(request)
            request.end_failed(TaskRejected(request, code, text))
        elif not isinstance(request, Forgotten):
            super().request_refused(request, code, text)

    def request_lost(self, request: Any, error: Exception) -> None:
        if isinstance(request, Task):
            request.end_failed(_lost(request, error))
        elif not isinstance(request, Forgotten):
            super().request_lost(request, error)

    def all_lost(self, error: Exception) -> None:
        jobs, self._jobs = self._jobs, {}
        self.in_flight = 0
        super().all_lost(error)
        for job in jobs.values():
            for task in job.remaining() if isinstance(job, SharedJob) else [job]:
                if isinstance(task, Task):
                    task.end_failed(_lost(task, error))

    def _created(self, task: Task, handle: bytes) -> None:
        if task.background:
            self._released(task)
        else:
            self._join(handle, task)
        task.tell_created(self.factory.name, handle)

    def _join(self, handle: bytes, task: Task | Forgotten) -> None:
        if handle in self._jobs:
            self._shared(handle).join(task)
            return
        self._jobs[handle] = task
        if self._ended:
            key = _key(task)
            # Behind the task, not before it: should these copies never come, it gets its outcome all the same.
            for _ in range(self._ended.pop((handle, key), 0)):
                self._shared(handle).join(Forgotten(key))

    def _shared(self, handle: bytes) -> SharedJob:
        job = self._jobs[handle]
        if not isinstance(job, SharedJob):
            job = self._jobs[handle] = SharedJob(job)
        return job

    def _remember_end(self, handle: bytes, task: Task | Forgotten) -> None:
        """The task's job may still be there, with its place in it. (Only jobs with a unique can be joined.)"""
        key = _key(task)
        if key[1]:
            self._ended[handle, key] = self._ended.pop((handle, key), 0) + 1
            if len(self._ended) > _MOST_ENDED:
                del self._ended[next(iter(self._ended))]

    def _released(self, task: Task) -> None:
        """The task is no longer in any table here."""
        task.holder = None
        self.in_flight -= 1

    # What becomes of jobs. A handle may be followed by a NUL and more in a WORK_FAIL (GEARMAN.md M1).

    def _work_data(self, arguments: list[bytes]) -> None:
        task = self._next_copy(arguments[0])
        if task is not None:
            task.tell_data(arguments[1])

    def _work_warning(self, arguments: list[bytes]) -> None:
        task = self._next_copy(arguments[0])
        if task is not None:
            task.tell_warning(arguments[1])

    def _work_status(self, arguments: list[bytes]) -> None:
        task = self._next_copy(arguments[0])
        if task is not None:
            task.tell_status(whole_number(arguments[1]), whole_number(arguments[2]))

    def _work_complete(self, arguments: list[bytes]) -> None:
        task = self._next_end(arguments[0])
        if task is not None:
            task.end_complete(arguments[1])

    def _work_exception(self, arguments: list[bytes]) -> None:
        task = self._next_end(arguments[0], may_go_on=True)
        if task is not None:
            task.end_exception(arguments[1])

    def _work_fail(self, arguments: list[bytes]) -> None:
        task = self._next_end(arguments[0].partition(b"\0")[0], may_go_on=True)
        if task is not None:
            task.end_failed(TaskFailed(task))

    handlers: ClassVar[Mapping[PacketType, Callable[[Any, list[bytes]], None]]] = {
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
        if isinstance(job, SharedJob):
            job = job.next_copy()
        return job if isinstance(job, Task) else None

    def _next_end(self, handle: bytes, may_go_on: bool = False) -> Task | None:
        """Whose is this final packet? The task leaves the table.

        :param may_go_on: the job may be there all the same.
        """
        job = self._jobs.pop(handle, None)
        if isinstance(job, SharedJob):
            task, last = job.next_end()
            if not last:
                self._jobs[handle] = job
            job = task
        if job is None:
            return None
        if may_go_on:
            self._remember_end(handle, job)
        if isinstance(job, Forgotten):
            return None
        self._released(job)
        return job


class GearmanClientFactory(GearmanFactory):
    """Keeps a client's connection to one job server: for those who want one link without a `GearmanClient`.

    Give it to ``reactor.connectTCP``, await ``when_ready()``, and ``submit()`` on the protocol that it fires with.
    """

    protocol = GearmanClientProtocol

    def __init__(
        self,
        reactor: Any = None,
        *,
        name: str = "",
        exceptions: bool = True,
        observer: LinkObserver | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_packet_size: int = MAX_PACKET_SIZE,
    ) -> None:
        """
        :param reactor: None for the global one.
        :param name: the server's address, as job handles are to name it.
        :param exceptions: ask the server for WORK_EXCEPTION, at each connect. Without, gearmand makes it a WORK_FAIL.
        """
        super().__init__(
            reactor,
            options=(b"exceptions",) if exceptions else (),
            observer=observer,
            connect_timeout=connect_timeout,
            max_packet_size=max_packet_size,
        )
        self.name = name


def _lost(task: Task, error: Exception) -> Exception:
    """What a task fails with when the connection went because of `error`."""
    if isinstance(error, ClientStopped):
        return ClientStopped()
    lost = TaskLost(task, acknowledged=bool(task.job_handle))
    lost.__cause__ = error
    return lost
