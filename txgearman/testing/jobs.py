"""The jobs of a job server: queues, coalescing, who works on what and who waits for it. No wire, no Twisted.

It does what gearmand 1.1.20 does (docs/gearman.md, and the contract suite in the tests), where a client or a worker
could notice; what looks like a mistake here is one there, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ..models import Priority

BY_WORKLOAD: Final = b"-"
"""The unique that stands for the workload."""

MAX_UNIQUE: Final = 63
"""Bytes of a unique that coalesces. A longer one is kept, but no other submit is found to have the same
(docs/gearman.md §1)."""


class QueueFull(Exception):
    """The function has as many jobs as a submit of this priority allows."""


class Job:
    """One job.

    :ivar listeners: the connections that wait for its result: one entry for each foreground submit (D1).
    :ivar dropped: the last of those who waited has left, or an administrator cancelled it. It will not be run again;
        but while it is known it is found by its unique, and whoever joins it waits in vain (H1, H2).
    :ivar ability: that of the worker who has it; None while it is queued.
    """

    def __init__(
        self,
        function: Function,
        unique: bytes,
        workload: bytes,
        *,
        priority: Priority = Priority.NORMAL,
        background: bool = False,
        reducer: bytes = b"",
        at: float = 0,
    ) -> None:
        self.handle = b""
        self.function = function
        self.unique = unique
        self.workload = workload
        self.priority = priority
        self.background = background
        self.reducer = reducer
        self.at = at
        self.listeners: list[Any] = []
        self.ability: Ability | None = None
        self.dropped = False
        self.retries = 0
        self.numerator = 0
        self.denominator = 0

    @property
    def worker(self) -> Any:
        """The connection that has it; None while it is queued."""
        return self.ability and self.ability.worker

    @property
    def key(self) -> tuple[Function, bytes] | None:
        """What coalesces; None if nothing does."""
        if self.unique == BY_WORKLOAD:
            return (self.function, b"-" + self.workload) if self.workload else None
        return (self.function, b"=" + self.unique) if 0 < len(self.unique) <= MAX_UNIQUE else None


class Function:
    """A function's queues, its workers, and how many jobs it may have.

    :ivar limits: by priority: a submit is refused while the function has that many jobs in all; 0 for no limit.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.queues: tuple[deque[Job], ...] = tuple(deque() for _ in Priority)
        self.limits = [0] * len(Priority)
        self.abilities: list[Ability] = []
        self.running = 0

    @property
    def total(self) -> int:
        """Its jobs, queued and running."""
        return sum(map(len, self.queues)) + self.running


class Ability:
    """That a worker can do a function: one CAN_DO.

    :ivar timeout: seconds that the worker may take for a job; None for as long as it likes.
    """

    def __init__(self, worker: Any, function: Function, timeout: float | None) -> None:
        self.worker = worker
        self.function = function
        self.timeout = timeout
        self.jobs: list[Job] = []


class Jobs:
    """All jobs of one server."""

    def __init__(self, seconds: Callable[[], float], job_retries: int, handle_prefix: bytes) -> None:
        """
        :param seconds: tells the time, for jobs that wait for one.
        :param job_retries: how often a job is given to a worker; 0 for as often as it takes.
        """
        self._seconds = seconds
        self._job_retries = job_retries
        self._handle_prefix = handle_prefix
        self._count = 0
        self.functions: dict[bytes, Function] = {}
        self._by_handle: dict[bytes, Job] = {}
        self._by_key: dict[tuple[Function, bytes], Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._by_handle.values()))

    # Functions and abilities.

    def function(self, name: bytes) -> Function:
        """The function; made at its first mention."""
        if name not in self.functions:
            self.functions[name] = Function(name)
        return self.functions[name]

    def drop_function(self, name: bytes) -> bool:
        """Forget the function and its queue, unless it is in use. Its jobs stay known, and nobody is told (H4)."""
        function = self.functions[name]
        if function.abilities or function.running:
            return False
        del self.functions[name]
        return True

    def add_ability(self, worker: Any, name: bytes, timeout: float | None = None) -> Ability:
        """A worker can do a function."""
        ability = Ability(worker, self.function(name), timeout)
        ability.function.abilities.append(ability)
        return ability

    # Submits.

    def by_handle(self, handle: bytes) -> Job | None:
        """The job that is called so."""
        return self._by_handle.get(handle)

    def by_unique(self, unique: bytes) -> Job | None:
        """The newest job with this unique, whatever its function."""
        if unique in (b"", BY_WORKLOAD):
            return None
        return next((job for job in reversed(self._by_handle.values()) if job.unique == unique), None)

    def submit(self, job: Job, listener: Any = None) -> tuple[Job, bool]:
        """Queue a job, or join the one that has the same function and unique.

        :param listener: who waits for its result; None for a background job.
        :return: the job, and whether it is new.
        :raises QueueFull: there may be no more jobs. (Joining one is always allowed.)
        """
        joined = self._by_key.get(job.key) if job.key else None
        if joined is None:
            self._add(job)
        else:
            job = joined
        if listener is not None:
            job.listeners.append(listener)
        return job, joined is None

    def _add(self, job: Job) -> None:
        limit = job.function.limits[job.priority]
        if limit and job.function.total >= limit:
            raise QueueFull
        self._count += 1
        job.handle = self._handle_prefix + b":%d" % self._count
        self._by_handle[job.handle] = job
        if job.key:
            self._by_key[job.key] = job
        job.function.queues[job.priority].append(job)

    # The way of a job.

    def take(self, abilities: Iterable[Ability]) -> Job | None:
        """Give out the next job that one of these abilities is good for; the first of them that has one, has it."""
        for ability in abilities:
            job = self._next(ability.function)
            if job is not None:
                job.function.queues[job.priority].remove(job)
                job.function.running += 1
                job.ability = ability
                ability.jobs.append(job)
                return job
        return None

    def _next(self, function: Function) -> Job | None:
        # Of the highest queue that has a job, even if the time of none there has come (H8). Where all that was in it
        # was dropped, the next one is.
        while queue := next(filter(None, function.queues), None):
            job = self._first_due([queue])
            if job is not None or queue:
                return job
        return None

    def has_work_for(self, abilities: Iterable[Ability]) -> bool:
        """Whether there is something to do; `take` may yet see it otherwise (H8)."""
        return any(self._first_due(ability.function.queues) is not None for ability in abilities)

    def _first_due(self, queues: Iterable[deque[Job]]) -> Job | None:
        """The job whose turn it is. Dropped ones before it are found out now, and forgotten."""
        for queue in queues:
            for job in list(queue):
                if job.at <= self._seconds():
                    if not job.dropped:
                        return job
                    queue.remove(job)
                    self._forget(job)
        return None

    def finish(self, job: Job) -> None:
        """It has ended."""
        self._leave_worker(job)
        self._forget(job)

    def give_back(self, job: Job) -> bool:
        """Its worker is gone, or too slow.

        :return: whether it is queued again, behind the others; even if it was dropped. If not, it is forgotten.
        """
        self._leave_worker(job)
        job.numerator = job.denominator = 0
        job.retries += 1
        if job.retries == self._job_retries:
            self._forget(job)
            return False
        job.function.queues[job.priority].append(job)
        return True

    def leave(self, listener: Any) -> None:
        """The listener waits for nothing any more. A job for which nobody is left waiting is dropped; even one that
        was submitted in the background, too (L1)."""
        for job in self:
            if listener in job.listeners:
                job.listeners = [other for other in job.listeners if other is not listener]
                job.dropped = job.dropped or not job.listeners

    def _leave_worker(self, job: Job) -> None:
        assert job.ability is not None
        job.ability.jobs.remove(job)
        job.ability = None
        job.function.running -= 1

    def _forget(self, job: Job) -> None:
        del self._by_handle[job.handle]
        if job.key and self._by_key.get(job.key) is job:
            del self._by_key[job.key]
