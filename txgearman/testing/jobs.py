"""The jobs of a job server: queues, coalescing, the workers that run them and the clients that await them.

It behaves as gearmand 1.1.20 does (docs/gearman.md, and the contract suite in the tests), wherever a client or a worker
could notice; what looks like a mistake here is one there, too. It knows neither packets nor Twisted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, TypeVar
from typing import Protocol as Interface

from ..models import Priority

K = TypeVar("K")

BY_WORKLOAD: Final = b"-"
"""The unique that makes jobs coalesce by their workload."""

MAX_UNIQUE: Final = 63
"""Bytes of a unique that coalesces. gearmand keeps a longer one, but finds no job by it (docs/gearman.md §1)."""


class QueueFull(Exception):
    """The function has as many jobs as are allowed for a submit of this priority."""


class Listener(Interface):
    """A client that awaits the result of a job.

    :ivar exceptions: whether it asked for WORK_EXCEPTION.
    """

    exceptions: bool

    def send(self, packet: bytes) -> None:
        """Send a packet to it."""


class Worker(Interface):
    """A worker: a connection, or a test that plays one.

    :ivar abilities: the oldest first.
    """

    abilities: dict[Ability, None]

    def wake(self) -> None:
        """Wake it if it sleeps: there is a job for it."""


class Job:
    """One job.

    :ivar listeners: the clients that await its result, one entry for each foreground submit (D1).
    :ivar dropped: whether its last listener has left, or an administrator cancelled it. It is never run again, but
        while it is known it is found by its unique, and a submit that joins it never gets a result (H1, H2).
    :ivar ability: that of the worker which has it; None while it is queued.
    :ivar number: which new job of its server it is, from 1; 0 before its submit.
    :ivar seen: whether the test has looked at it: see `Jobs.has_seen`.
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
        self.number = 0
        self.seen = False
        self.function = function
        self.unique = unique
        self.workload = workload
        self.priority = priority
        self.background = background
        self.reducer = reducer
        self.at = at
        self.listeners: list[Listener] = []
        self.ability: Ability | None = None
        self.dropped = False
        self.retries = 0
        self.numerator = 0
        self.denominator = 0

    @property
    def worker(self) -> Worker | None:
        """The worker that has it; None while it is queued."""
        return None if self.ability is None else self.ability.worker

    @property
    def key(self) -> tuple[Function, bytes] | None:
        """Key by which a submit with the same unique finds it; None if none does."""
        found = self.unique != BY_WORKLOAD and len(self.unique) <= MAX_UNIQUE
        return (self.function, self.unique) if found else None

    @property
    def workload_key(self) -> tuple[Function, bytes] | None:
        """Key by which a submit with `BY_WORKLOAD` finds it; None if none does.

        gearmand finds a job whose unique is its workload, too.
        """
        found = self.workload and self.unique in (BY_WORKLOAD, self.workload)
        return (self.function, self.workload) if found else None


class JobQueue:
    """A function's queued jobs of one priority. Iterating over it yields them in the order in which they were added.

    Jobs that are due and jobs that wait for their time are kept apart: so nothing walks over those that wait.
    """

    def __init__(self) -> None:
        self._positions = count()
        self._due: list[tuple[int, Job]] = []  # a heap, by position
        self._scheduled: list[tuple[float, int, Job]] = []  # a heap, by time

    def __len__(self) -> int:
        return len(self._due) + len(self._scheduled)

    def __iter__(self) -> Iterator[Job]:
        entries = [*self._due, *((position, job) for _, position, job in self._scheduled)]
        return (job for _, job in sorted(entries))

    def append(self, job: Job) -> None:
        """Add a job behind the others."""
        if job.at:
            heappush(self._scheduled, (job.at, next(self._positions), job))
        else:
            heappush(self._due, (next(self._positions), job))

    def first_due(self, now: float) -> Job | None:
        """Return the first job that is due, abandoned or not."""
        while self._scheduled and self._scheduled[0][0] <= now:
            _, position, job = heappop(self._scheduled)
            heappush(self._due, (position, job))
        return self._due[0][1] if self._due else None

    def pop(self) -> None:
        """Remove the job that `first_due` has just returned."""
        heappop(self._due)

    def remove(self, job: Job) -> None:
        """Remove a job of the queue, wherever it is. This walks over all of them."""
        self._due = [entry for entry in self._due if entry[1] is not job]
        self._scheduled = [entry for entry in self._scheduled if entry[2] is not job]
        heapify(self._due)
        heapify(self._scheduled)


class Function:
    """A function's queues, its workers, and its limits.

    :ivar limits: by priority, the number of jobs in all from which on submits are refused; 0 for no limit.
    :ivar newest: by worker, the ability that it got last.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.queues = tuple(JobQueue() for _ in Priority)
        self.limits = [0] * len(Priority)
        self.abilities: dict[Ability, None] = {}  # the oldest first
        self.newest: dict[Worker, Ability] = {}
        self.running = 0

    @property
    def total(self) -> int:
        """The number of its jobs, queued and running."""
        return sum(map(len, self.queues)) + self.running


class Ability:
    """A function that a worker offers: one CAN_DO.

    :ivar number: the higher, the newer.
    :ivar timeout: seconds that the worker may take for a job; None for no limit.
    :ivar jobs: those that it runs by it, the oldest first.
    """

    def __init__(self, number: int, worker: Worker, function: Function, timeout: float | None) -> None:
        self.number = number
        self.worker = worker
        self.function = function
        self.timeout = timeout
        self.jobs: dict[Job, None] = {}


class Jobs:
    """All jobs of one server.

    :ivar count: how many new jobs were submitted.
    :param seconds: returns the time, for jobs that are scheduled.
    :param job_retries: how many workers a job is given to; 0 for no limit.
    """

    def __init__(self, seconds: Callable[[], float], job_retries: int, handle_prefix: bytes) -> None:
        self._seconds = seconds
        self._job_retries = job_retries
        self._handle_prefix = handle_prefix
        self.count = 0
        self._seen_count = 0
        self._ability_numbers = count()
        self.functions: dict[bytes, Function] = {}
        # What is asked for most is kept beside the jobs themselves: nothing walks over all of them, or all functions.
        self._queued: dict[Function, None] = {}
        self._sleeping: dict[Worker, None] = {}
        self._awaited: dict[Listener, dict[Job, None]] = {}
        self._by_handle: dict[bytes, Job] = {}
        self._by_key: dict[tuple[Function, bytes], Job] = {}
        self._by_workload: dict[tuple[Function, bytes], dict[Job, None]] = {}
        self._by_unique: dict[bytes, dict[Job, None]] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._by_handle.values()))

    @property
    def total(self) -> int:
        """The number of jobs, queued and running."""
        return len(self._by_handle)

    # Functions and abilities.

    def function(self, name: bytes) -> Function:
        """Return the function, which is created at its first mention."""
        if name not in self.functions:
            self.functions[name] = Function(name)
        return self.functions[name]

    def drop_function(self, name: bytes) -> bool:
        """Remove the function and its queue, unless it is in use. Its jobs stay known, and nobody is notified (H4).

        :return: whether it was removed.
        """
        function = self.functions[name]
        if function.abilities or function.running:
            return False
        del self.functions[name]
        self._queued.pop(function, None)
        return True

    def add_ability(self, worker: Worker, name: bytes, timeout: float | None = None) -> Ability:
        """Record that a worker offers a function."""
        function = self.function(name)
        ability = Ability(next(self._ability_numbers), worker, function, timeout)
        worker.abilities[ability] = None
        function.abilities[ability] = None
        function.newest[worker] = ability
        return ability

    def remove_ability(self, ability: Ability) -> None:
        """Record that a worker offers a function no longer. A caller who removes one removes all that are of both."""
        del ability.worker.abilities[ability]
        del ability.function.abilities[ability]
        ability.function.newest.pop(ability.worker, None)

    # Sleeping workers.

    def sleep(self, worker: Worker) -> None:
        """Record that a worker sleeps: it is to be woken for a job."""
        self._sleeping[worker] = None

    def awake(self, worker: Worker) -> None:
        """Record that a worker does not sleep, or was woken."""
        self._sleeping.pop(worker, None)

    def pop_sleeping(self, function: Function) -> list[Worker]:
        """Return the sleeping workers that offer a function, in the order of their offers.

        They are awake from then on.
        """
        if len(self._sleeping) < len(function.newest):
            found = {worker: function.newest[worker].number for worker in self._sleeping if worker in function.newest}
        else:
            found = {worker: each.number for worker, each in function.newest.items() if worker in self._sleeping}
        for worker in found:
            del self._sleeping[worker]
        return sorted(found, key=found.__getitem__)

    # Submits.

    def by_handle(self, handle: bytes) -> Job | None:
        """Return the job with this handle."""
        return self._by_handle.get(handle)

    def by_unique(self, unique: bytes) -> Job | None:
        """Return the newest job with this unique, whatever its function."""
        jobs = self._by_unique.get(unique)
        return None if jobs is None or unique == BY_WORKLOAD else next(reversed(jobs))

    def submit(self, job: Job, listener: Listener | None = None) -> tuple[Job, bool]:
        """Queue a job, or join the one that has the same function and unique.

        :param listener: the client that awaits its result; None for a background job.
        :return: the job, and whether it is new.
        :raises QueueFull: the limit of the function is reached. (Joining a job is always allowed.)
        """
        joined = self._same_unique(job) if job.unique else None
        if joined is None:
            self._add(job)
        else:
            job = joined
        if listener is not None:
            job.listeners.append(listener)
            self._awaited.setdefault(listener, {})[job] = None
        return job, joined is None

    def _same_unique(self, job: Job) -> Job | None:
        """Return the job that a submit joins by its unique."""
        if job.unique == BY_WORKLOAD:
            same = self._by_workload.get((job.function, job.workload))
            return next(reversed(same)) if same else None
        return self._by_key.get(job.key) if job.key else None

    def _add(self, job: Job) -> None:
        limit = job.function.limits[job.priority]
        if limit and job.function.total >= limit:
            raise QueueFull
        self.count += 1
        job.number = self.count
        job.handle = self._handle_prefix + b":%d" % self.count
        self._by_handle[job.handle] = job
        if job.unique:
            self._by_unique.setdefault(job.unique, {})[job] = None
            if job.workload_key:
                self._by_workload.setdefault(job.workload_key, {})[job] = None
            if job.key:
                self._by_key[job.key] = job
        self._queue(job)

    def _queue(self, job: Job) -> None:
        job.function.queues[job.priority].append(job)
        self._queued[job.function] = None

    def _dequeue(self, function: Function, queue: JobQueue) -> None:
        queue.pop()
        if not any(function.queues):
            self._queued.pop(function, None)

    def see_all(self) -> None:
        """Note that the test has looked at all jobs that there are."""
        self._seen_count = self.count

    def has_seen(self, job: Job) -> bool:
        """Return whether the test has looked at a job, so that it may stay in its queue."""
        return job.seen or job.number <= self._seen_count

    # The life of a job.

    def take(self, worker: Worker) -> Job | None:
        """Assign the next job to a worker. Its newest ability that has a job takes it."""
        for ability in self._with_jobs(worker):
            job = self._next(ability.function)
            if job is not None:
                self._dequeue(job.function, job.function.queues[job.priority])
                self._assign(job, ability)
                return job
        return None

    def take_this(self, job: Job, worker: Worker) -> None:
        """Assign a queued job to a worker that offers its function, whichever other jobs are before it."""
        job.function.queues[job.priority].remove(job)
        if not any(job.function.queues):
            self._queued.pop(job.function, None)
        self._assign(job, job.function.newest[worker])

    def _assign(self, job: Job, ability: Ability) -> None:
        job.function.running += 1
        job.ability = ability
        ability.jobs[job] = None

    def _with_jobs(self, worker: Worker) -> list[Ability]:
        """Return those abilities of a worker that may have a job, the newest first."""
        if len(worker.abilities) <= len(self._queued):
            return [ability for ability in reversed(worker.abilities) if ability.function in self._queued]
        found = [function.newest[worker] for function in self._queued if worker in function.newest]
        return sorted(found, key=lambda ability: ability.number, reverse=True) if len(found) > 1 else found

    def _next(self, function: Function) -> Job | None:
        # gearmand looks only at the highest queue that has a job, even if none there is due (H8). Where every job in it
        # was dropped, it goes on to the next queue.
        while queue := next(filter(None, function.queues), None):
            job = self._first_due(function, [queue])
            if job is not None or queue:
                return job
        return None

    def has_work_for(self, worker: Worker) -> bool:
        """Return whether a job is due in any queue. `take` may still return None (H8)."""
        functions = [ability.function for ability in self._with_jobs(worker)]
        return any(self._first_due(function, function.queues) is not None for function in functions)

    def _first_due(self, function: Function, queues: Iterable[JobQueue]) -> Job | None:
        """Return the first job that is due. Dropped jobs before it are forgotten only now."""
        now = self._seconds()
        for queue in queues:
            while (job := queue.first_due(now)) is not None:
                if not job.dropped:
                    return job
                self._dequeue(function, queue)
                self._forget(job)
        return None

    def finish(self, job: Job) -> None:
        """Forget a job that its worker has ended."""
        self._release_worker(job)
        self._forget(job)

    def requeue(self, job: Job) -> bool:
        """Take a job away from its worker, which is gone or too slow.

        :return: whether it is queued again, behind the others, even if it was dropped. If not, it is forgotten.
        """
        self._release_worker(job)
        job.numerator = job.denominator = 0
        job.retries += 1
        if job.retries == self._job_retries:
            self._forget(job)
            return False
        self._queue(job)
        return True

    def remove_listener(self, listener: Listener) -> None:
        """Remove a lost listener from its jobs.

        A job that has no other listener is dropped, even if it was also submitted in the background (L1).
        """
        for job in self._awaited.pop(listener, {}):
            job.listeners = [other for other in job.listeners if other is not listener]
            job.dropped = job.dropped or not job.listeners

    def _release_worker(self, job: Job) -> None:
        assert job.ability is not None
        del job.ability.jobs[job]
        job.ability = None
        job.function.running -= 1

    def _forget(self, job: Job) -> None:
        del self._by_handle[job.handle]
        for listener in job.listeners:
            self._awaited.get(listener, {}).pop(job, None)
        if job.unique:
            _remove(self._by_unique, job.unique, job)
            if job.workload_key:
                _remove(self._by_workload, job.workload_key, job)
            if job.key and self._by_key.get(job.key) is job:
                del self._by_key[job.key]


def _remove(table: dict[K, dict[Job, None]], key: K, job: Job) -> None:
    """Remove a job from those of the same key."""
    same = table[key]
    del same[job]
    if not same:
        del table[key]
