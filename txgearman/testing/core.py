"""What a job server does with its jobs, workers and listeners, however it is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol as Interface

from ..packets import WORK_DATA, WORK_EXCEPTION, WORK_FAIL, WORK_WARNING, PacketType
from .jobs import Ability, Job, Jobs


class Connection(Interface):
    """A connection, as the server's other parts know it.

    :ivar number: which connection of this server it is, from 1.
    :ivar host: where it comes from.
    :ivar exceptions: whether it asked for WORK_EXCEPTION.
    :ivar abilities: the newest first.
    """

    number: int
    host: bytes
    client_id: bytes
    exceptions: bool
    abilities: list[Ability]

    def send(self, packet: bytes) -> None:
        """Send it something."""

    def wake(self) -> None:
        """There is a job for it."""

    def drop(self) -> None:
        """Close it without any more notice."""


class Core:
    """A job server without its doors."""

    def __init__(self, seconds: Callable[[], float], job_retries: int, handle_prefix: bytes, exceptions: bool) -> None:
        self._make_jobs = partial(Jobs, seconds, job_retries, handle_prefix)
        self.jobs = self._make_jobs()
        self.exceptions = exceptions
        self.connections: list[Connection] = []
        self._connected = 0

    def forget_jobs(self) -> None:
        """Begin anew. Nobody must be connected."""
        assert not self.connections
        self.jobs = self._make_jobs()

    # Connections.

    def connected(self, connection: Connection) -> int:
        """There is a new connection; return its number."""
        self.connections.append(connection)
        self._connected += 1
        return self._connected

    def disconnected(self, connection: Connection) -> None:
        """A connection is gone, and with it a client, a worker, or both."""
        self.connections.remove(connection)
        self.jobs.leave(connection)
        self.remove_abilities(connection.abilities)

    # Workers.

    def remove_abilities(self, abilities: Iterable[Ability]) -> None:
        """The workers have lost these; the jobs that they had by them go to others (docs/gearman.md §7)."""
        for ability in list(abilities):
            ability.worker.abilities.remove(ability)
            ability.function.abilities.remove(ability)
            for job in reversed(list(ability.jobs)):
                self.give_back(job)

    def give_back(self, job: Job) -> None:
        """The job is to be done by another worker, unless that was tried often enough."""
        if self.jobs.give_back(job):
            self.wake_workers(job)
        else:
            self._tell(job, WORK_FAIL.response(job.handle))

    def wake_workers(self, job: Job) -> None:
        """The job has been queued."""
        for ability in job.function.abilities:
            ability.worker.wake()

    # What workers say of a job.

    def work_data(self, job: Job, packet_type: PacketType, data: bytes) -> None:
        """WORK_DATA or WORK_WARNING."""
        assert packet_type in (WORK_DATA, WORK_WARNING)
        self._tell(job, packet_type.response(job.handle, data))

    def work_status(self, job: Job, packet: bytes, numerator: int, denominator: int) -> None:
        """WORK_STATUS: it is relayed as it came (C2), and read for those who ask."""
        job.numerator, job.denominator = numerator, denominator
        self._tell(job, packet)

    def work_end(self, job: Job, packet: bytes) -> None:
        """WORK_COMPLETE or WORK_FAIL."""
        self.jobs.finish(job)
        self._tell(job, packet)

    def work_exception(self, job: Job, data: bytes) -> None:
        """WORK_EXCEPTION. It is the end; those who did not ask for exceptions get a WORK_FAIL with a NUL (M1)."""
        self.jobs.finish(job)
        exception = WORK_EXCEPTION.response(job.handle, data)
        failure = WORK_FAIL.response(job.handle + b"\0")
        for listener in job.listeners:
            listener.send(exception if self.exceptions or listener.exceptions else failure)

    def cancel(self, job: Job) -> None:
        """An administrator's cancel: told at once, also where the job runs on (D2)."""
        job.dropped = True
        self._tell(job, WORK_FAIL.response(job.handle))

    def _tell(self, job: Job, packet: bytes) -> None:
        for listener in job.listeners:
            listener.send(packet)
