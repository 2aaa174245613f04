"""What a job server does with its jobs, workers and listeners, independent of how they are connected."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple
from typing import Protocol as Interface

from ..models import Priority
from ..packets import WORK_DATA, WORK_EXCEPTION, WORK_FAIL, WORK_WARNING, PacketType
from .jobs import Ability, Job, Jobs, Listener, Worker
from .packet_log import PacketLog


class ManualWorker:
    """The worker that a test plays: one for each job that it takes.

    :ivar place: where the test took the job: file and line.
    :ivar lost: called when the server drops its workers.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.lost: Callable[[], object] = lambda: None
        self.abilities: dict[Ability, None] = {}

    def wake(self) -> None:
        """Do nothing: it never sleeps."""


class SubmittedJob(NamedTuple):
    """What was submitted to a `MemoryJobServer`: see `MemoryJobServer.submitted`."""

    function: bytes
    """The function's name, with the prefix if there is one."""
    workload: bytes
    unique: bytes
    """As submitted; empty if there was none."""
    priority: Priority
    background: bool
    reducer: bytes
    """Name of the function for the results of a reduce job; empty for any other job."""
    at: float
    """The time of the server's clock at which the job is due; 0 for a job that was not scheduled."""
    handle: bytes
    """That of the job, which may be older than this submit: one that it has joined by its unique."""

    @classmethod
    def of(cls, job: Job) -> SubmittedJob:
        """Return what a job was submitted as first."""
        name = job.function.name
        return cls(name, job.workload, job.unique, job.priority, job.background, job.reducer, job.at, job.handle)


class Connection(Listener, Worker, Interface):
    """A connection of a client, a worker or an administrator; the server makes no difference.

    :ivar number: which connection of this server it is, from 1.
    :ivar host: the peer's address.
    :ivar requests: the types of the packets that were received on it, oldest first.
    """

    number: int
    host: bytes
    client_id: bytes
    requests: list[PacketType]
    transport: Any  # Twisted's interfaces of transports do not type `abortConnection`

    def drop(self) -> None:
        """Abort it: what was not sent yet is lost, and nothing more is read."""

    def pause_reading(self) -> None:
        """Read nothing more, until `resume_reading`."""

    def resume_reading(self) -> None:
        """Read on, after processing what was received before the pause."""


class JobServerCore:
    """The state and the behaviour of a job server.

    :param due_time: returns when a job is due that was scheduled for a time.
    :param submitted: gets each submit.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        job_retries: int,
        handle_prefix: bytes,
        exceptions: bool,
        due_time: Callable[[int], float],
        submitted: deque[SubmittedJob],
    ) -> None:
        self._make_jobs = partial(Jobs, seconds, job_retries, handle_prefix)
        self.due_time = due_time
        self.submitted = submitted
        self.log = PacketLog(seconds)
        self.jobs = self._make_jobs()
        self.exceptions = exceptions
        self.connections: list[Connection] = []
        self.manual_workers: dict[ManualWorker, None] = {}
        self._connection_count = 0

    def drop_manual_workers(self) -> None:
        """Disconnect the workers that a test plays: their jobs are requeued."""
        workers, self.manual_workers = self.manual_workers, {}
        for worker in workers:
            worker.lost()

    def forget_jobs(self) -> None:
        """Forget every job and what each connection offers, and number jobs from 1 again."""
        for connection in self.connections:
            for job in [job for ability in connection.abilities for job in ability.jobs]:
                job.ability = None
            connection.abilities.clear()
        self.jobs = self._make_jobs()

    # Connections.

    def connection_made(self, connection: Connection) -> int:
        """Add a connection, and return its number."""
        self.connections.append(connection)
        self._connection_count += 1
        return self._connection_count

    def connection_lost(self, connection: Connection) -> None:
        """Remove a connection, and with it a client, a worker, or both."""
        self.log.note(connection.number, "disconnected")
        self.connections.remove(connection)
        self.jobs.remove_listener(connection)
        self.jobs.awake(connection)
        self.remove_abilities(reversed(connection.abilities))

    # Workers.

    def remove_abilities(self, abilities: Iterable[Ability]) -> None:
        """Take these abilities from their workers; the jobs that they run by them are requeued (docs/gearman.md §7)."""
        for ability in list(abilities):
            self.jobs.remove_ability(ability)
            for job in reversed(list(ability.jobs)):
                self.requeue(job)

    def requeue(self, job: Job) -> None:
        """Give the job to another worker, or have it fail if that was tried often enough."""
        if self.jobs.requeue(job):
            self.wake_workers(job)
        else:
            self._notify(job, WORK_FAIL.response(job.handle))

    def wake_workers(self, job: Job) -> None:
        """Wake the workers that could run a job, which was queued."""
        for worker in self.jobs.pop_sleeping(job.function):
            worker.wake()

    # What workers send about a job.

    def work_data(self, job: Job, packet_type: PacketType, data: bytes) -> None:
        """Relay WORK_DATA or WORK_WARNING."""
        assert packet_type in (WORK_DATA, WORK_WARNING)
        self._notify(job, packet_type.response(job.handle, data))

    def work_status(self, job: Job, packet: bytes, numerator: int, denominator: int) -> None:
        """Relay WORK_STATUS as it was received (C2), and keep the numbers for GET_STATUS."""
        job.numerator, job.denominator = numerator, denominator
        self._notify(job, packet)

    def work_end(self, job: Job, packet: bytes) -> None:
        """End the job, and relay its WORK_COMPLETE or WORK_FAIL."""
        self.jobs.finish(job)
        self._notify(job, packet)

    def work_exception(self, job: Job, data: bytes) -> None:
        """End the job by WORK_EXCEPTION. Listeners that did not ask for exceptions get a WORK_FAIL with a NUL (M1)."""
        self.jobs.finish(job)
        exception = WORK_EXCEPTION.response(job.handle, data)
        failure = WORK_FAIL.response(job.handle + b"\0")
        for listener in job.listeners:
            listener.send(exception if self.exceptions or listener.exceptions else failure)

    def cancel(self, job: Job) -> None:
        """Cancel a job for an administrator. Its listeners are notified at once, though it may still run (D2)."""
        job.dropped = True
        self._notify(job, WORK_FAIL.response(job.handle))

    def _notify(self, job: Job, packet: bytes) -> None:
        for listener in job.listeners:
            listener.send(packet)
