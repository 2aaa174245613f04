"""The worker's half of the protocol on one connection: registers functions, requests jobs, and sends their packets.

**Which server it is** decides how it is spoken to (see `Dialect`), and no packet says so. Therefore each handshake
requests a job, by GRAB_JOB_ALL, before any function is registered: gearmand answers NO_JOB, perl's server an ERROR, and
geard does not answer (H6), which the fence behind the request reveals.

**Sleep.** After NO_JOB a worker sends PRE_SLEEP, and the server wakes it by a NOOP; also if a job came between the two.
So no job is missed. A request after a NOOP is answered by NO_JOB only where several workers were woken for one job.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final
from typing import Protocol as Interface

from twisted.logger import Logger
from twisted.python.failure import Failure

from ..connection.factory import ConnectionListener, GearmanFactory
from ..connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from ..connection.protocol import MAX_CORKED, GearmanProtocol, code_and_text
from ..connection.reactor import Reactor
from ..errors import ProtocolError, RequestUnsupported, ServerError
from ..packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    ERROR,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_ALL,
    JOB_ASSIGN_UNIQ,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    SET_CLIENT_ID,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    PacketType,
)
from ..validation import MAX_NAME, MAX_REASON, short_text
from .job import Assignment, Job

__all__ = ["Dialect", "Registrar", "GearmanWorkerFactory", "GearmanWorkerProtocol", "JobReceiver"]

_log = Logger()

_assignment: Final[Callable[[list[bytes]], Assignment]] = partial(tuple.__new__, Assignment)  # in half the time

_MAX_MILLISECONDS: Final = 2**31 - 1  # more overflows; far more can end a gearmand (C1)


@dataclass(frozen=True)
class Dialect:
    """What differs between job servers.

    :ivar grab: the request for a job: of those that the server answers, the one whose answer says most.
    :ivar can_do_timeout: makes a CAN_DO_TIMEOUT's argument of seconds; None where the server would not register the
        function at all (docs/gearman.md §8).
    :ivar exception_is_terminal: whether WORK_EXCEPTION ends a job (docs/gearman.md §4, H13).
    :ivar timer_outlives_job: whether the timer of CAN_DO_TIMEOUT goes on after the end of its job, until the worker
        sends PRE_SLEEP or gets another job. (gearmand then ends some other job of the connection, or none and counts
        it for one.)
    :ivar may_wake_one: whether it may be set to wake only some of the workers that sleep for a job, and wakes no others
        if these do not request it (docs/gearman.md §7, H14).
    """

    name: str
    grab: bytes
    can_do_timeout: Callable[[float], bytes] | None
    exception_is_terminal: bool
    timer_outlives_job: bool
    may_wake_one: bool


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % min(round(seconds * 1000), _MAX_MILLISECONDS)


GEARMAND: Final = Dialect("gearmand", GRAB_JOB_ALL.request(), _milliseconds, True, True, True)
PERL: Final = Dialect("perl", GRAB_JOB.request(), lambda seconds: b"%.3f" % seconds, False, False, False)
GEARD: Final = Dialect("geard", GRAB_JOB_UNIQ.request(), None, True, False, False)


class Registrar(Interface):
    """Decides what the connections of a factory register."""

    def registration(self) -> Iterable[tuple[bytes, float | None]]:
        """Return the functions by their names on the wire, each with the seconds that the server lets a job take."""

    def connection_ready(self, connection: GearmanWorkerProtocol) -> None:
        """Handle a connection on which the functions are registered, so that jobs may be requested."""


class JobReceiver(Interface):
    """Gets the jobs that are assigned, and what else a connection reports once it is ready."""

    def job_assigned(self, connection: GearmanWorkerProtocol, assignment: Assignment) -> None:
        """Handle a job that answers a request for one."""

    def no_job_received(self, connection: GearmanWorkerProtocol) -> None:
        """Handle NO_JOB, which answers a request for a job."""

    def answers_received(self, connection: GearmanWorkerProtocol) -> None:
        """All answers that came together were reported, each by one of the two methods before.

        It may be that the connection was closed meanwhile.
        """

    def wakeup_received(self, connection: GearmanWorkerProtocol) -> None:
        """Handle NOOP on a connection that sleeps: the server may have a job."""

    def connection_drained(self, connection: GearmanWorkerProtocol) -> None:
        """Handle a write buffer that is no longer full. The connection may not be ready yet."""

    def connection_retired(self, connection: GearmanWorkerProtocol) -> None:
        """Handle the removal of the server: the connection is to be closed once no job runs on it."""

    def job_ended(self, connection: GearmanWorkerProtocol, job: Job) -> None:
        """Handle the end of a job, which was sent. Only connections whose ``reports_ends`` is set report it."""

    def connection_closed(self, connection: GearmanWorkerProtocol, grabs: int, jobs: list[Job]) -> None:
        """Handle a connection that is lost or closed. It may never have been ready.

        :param grabs: how many requests for jobs were unanswered.
        :param jobs: those of its jobs that had not ended.
        """


class GearmanWorkerProtocol(GearmanProtocol):
    """A worker's connection to one job server.

    :ivar dialect: which kind of server it is.
    :ivar grabs: how many requests for jobs are unanswered.
    :ivar asleep: whether PRE_SLEEP was sent, and no NOOP or request since.
    :ivar jobs: the jobs of this connection that have not ended, by their handles. The receiver adds each that it runs.
    :ivar registered: the functions that are registered on this connection, by their names on the wire.
    :ivar reports_ends: whether the receiver gets the end of each job.
    """

    __slots__ = (
        "_grabs_answered",
        "asleep",
        "dialect",
        "grabs",
        "jobs",
        "registered",
        "reports_ends",
    )

    factory: GearmanWorkerFactory

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        super().__init__(reactor, connection_options)
        self.dialect = GEARMAND
        self.grabs = 0
        self.asleep = False
        self.jobs: dict[bytes, Job] = {}
        self.registered: set[bytes] = set()
        self.reports_ends = False
        self._grabs_answered = 0

    @property
    def in_flight(self) -> int:  # type: ignore[override]  # it is only read
        return len(self.jobs)

    @property
    def _has_outstanding(self) -> bool:
        return self.grabs > 0 or super()._has_outstanding

    @property
    def _progress(self) -> int:
        return self._grabs_answered + super()._progress

    @property
    def _busy(self) -> bool:
        return self._has_outstanding or bool(self.jobs)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self.factory.receiver.connection_drained(self)

    def _retire(self, on_idle: Callable[[], object]) -> None:
        super()._retire(on_idle)
        if self.error is None:
            self.factory.receiver.connection_retired(self)

    # The handshake.

    def _send_opening(self) -> None:
        asked = self.request(GRAB_JOB_ALL, answer=NO_JOB)
        asked.addErrback(self._no_gearmand)

    def _no_gearmand(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ServerError):
            self.dialect = GEARD if isinstance(error, RequestUnsupported) else PERL

    def register(self) -> None:
        """Send the worker's id, and register its functions."""
        if self.factory.client_id:
            self._write(SET_CLIENT_ID.request(self.factory.client_id))
        for function, timeout in self.factory.registrar.registration():
            self.can_do(function, timeout)

    def can_do(self, function: bytes, timeout: float | None) -> None:
        """Register a function.

        :param timeout: seconds after which the server is to take a job away; None for no limit.
        """
        self.registered.add(function)
        if timeout is None or self.dialect.can_do_timeout is None:
            self._write(CAN_DO.request(function))
        else:
            self._write(CAN_DO_TIMEOUT.request(function, self.dialect.can_do_timeout(timeout)))

    def cant_do(self, function: bytes) -> None:
        """Unregister a function, which must be registered: geard closes the connection otherwise (docs/gearman.md §3).

        gearmand takes its running jobs away, too (docs/gearman.md §7).
        """
        self.registered.remove(function)
        self._write(CANT_DO.request(function))

    # Jobs.

    def grab(self, count: int = 1) -> None:
        """Request so many jobs; each request has one answer, which the receiver gets.

        If the server leaves them unanswered for ``server_timeout``, the connection is dropped: the job that may come
        holds a slot of the worker.
        """
        self.asleep = False
        self.grabs += count
        self._write(self.dialect.grab if count == 1 else self.dialect.grab * count)
        if not self._answer_probe.on:
            self._expect_answer()

    def sleep(self) -> None:
        """Have the server send NOOP when there is a job."""
        self.asleep = True
        self._write(PRE_SLEEP.request())

    def work_data(self, handle: bytes, data: bytes) -> None:
        self._write(WORK_DATA.request(handle, data))

    def work_warning(self, handle: bytes, data: bytes) -> None:
        self._write(WORK_WARNING.request(handle, data))

    def work_status(self, handle: bytes, numerator: int, denominator: int) -> None:
        self._write(WORK_STATUS.request(handle, b"%d" % numerator, b"%d" % denominator))

    def work_complete(self, handle: bytes, result: bytes) -> None:
        # Not by PacketType.request(): a handle, as it came from the server, has no NUL.
        header = WORK_COMPLETE.request_header(len(handle) + 1 + len(result))
        self._end(handle, header + handle + b"\0" + result)

    def work_fail(self, handle: bytes) -> None:
        self._end(handle, WORK_FAIL.request(handle))

    def work_exception(self, handle: bytes, data: bytes) -> None:
        packet = WORK_EXCEPTION.request(handle, data)
        self._end(handle, packet if self.dialect.exception_is_terminal else packet + WORK_FAIL.request(handle))

    def _end(self, handle: bytes, packet: bytes) -> None:
        job = self.jobs.pop(handle, None)
        corked, size = self._corked, len(packet)
        if corked is not None and self._corked_size + size <= MAX_CORKED:
            corked.append(packet)  # as _write() does, in the usual case, with a call less
            self._corked_size += size
        else:
            self._write(packet)
        if self.reports_ends and job is not None:
            self.factory.receiver.job_ended(self, job)
        if self._on_idle is not None:
            self._check_idle()

    def pop_abandoned(self) -> list[Job]:
        """Remove and return the jobs that were ended without a packet. The server has not learned of it."""
        abandoned = [job for job in self.jobs.values() if job._closed]
        self.jobs = {handle: job for handle, job in self.jobs.items() if not job._closed}
        return abandoned

    def _lose_outstanding(self, error: Exception) -> None:
        jobs, self.jobs = self.jobs, {}
        super()._lose_outstanding(error)
        grabs, self.grabs = self.grabs, 0
        self.factory.receiver.connection_closed(self, grabs, list(jobs.values()))

    # What the server says.

    def _error_received(self, arguments: list[bytes]) -> None:
        if not self.ready:
            self._answer_received(ERROR, arguments)
            return
        # After the handshake no request of ours is answered so. It is about a packet that has no answer, such as the
        # result of a job that the server has assigned to another worker meanwhile (docs/gearman.md §8).
        code, text = code_and_text(arguments)
        _log.info(
            "{server}: {code}: {text}",
            server=self.factory.name,
            code=short_text(code, MAX_NAME),
            text=short_text(text, MAX_REASON),
        )

    def _no_job(self, arguments: list[bytes]) -> None:
        if not self.ready:  # the handshake's
            self._answer_received(NO_JOB, arguments)
            return
        self._grab_answered(NO_JOB)
        self.factory.receiver.no_job_received(self)

    def _assigned(self, arguments: list[bytes]) -> None:
        handle, function, workload = arguments
        self._grab_answered(JOB_ASSIGN)
        self.factory.receiver.job_assigned(self, Assignment(handle, function, b"", b"", workload))

    def _assigned_uniq(self, arguments: list[bytes]) -> None:
        handle, function, unique, workload = arguments
        self._grab_answered(JOB_ASSIGN_UNIQ)
        self.factory.receiver.job_assigned(self, Assignment(handle, function, unique, b"", workload))

    def _assigned_all(self, arguments: list[bytes]) -> None:
        if self.grabs and self._after_read is not None:  # as _grab_answered() does, with a call less
            self.grabs -= 1
            self._grabs_answered += 1
        else:
            self._grab_answered(JOB_ASSIGN_ALL)
        self.factory.receiver.job_assigned(self, _assignment(arguments))

    def _grab_answered(self, answer: PacketType) -> None:
        if not self.grabs:
            raise ProtocolError(f"{answer} that answers nothing")
        self.grabs -= 1
        self._grabs_answered += 1
        if self._after_read is None:
            self._after_read = self._answers_received

    def _answers_received(self) -> None:
        self.factory.receiver.answers_received(self)

    def _noop(self, _: list[bytes]) -> None:
        # One that comes to a worker that is awake says nothing: the worker is about to request a job anyway.
        if self.asleep:
            self.asleep = False
            self.factory.receiver.wakeup_received(self)

    _handlers: ClassVar[Mapping[PacketType, Callable[[GearmanWorkerProtocol, list[bytes]], None]]] = {
        ERROR: _error_received,
        NO_JOB: _no_job,
        JOB_ASSIGN: _assigned,
        JOB_ASSIGN_UNIQ: _assigned_uniq,
        JOB_ASSIGN_ALL: _assigned_all,
        NOOP: _noop,
    }


class GearmanWorkerFactory(GearmanFactory[GearmanWorkerProtocol]):
    """Keeps a worker's connection to one job server, and registers its functions at each connect.

    :param reactor: None for the global one.
    :param receiver: gets the jobs of its connections.
    :param registrar: decides what is registered at each connect.
    :param client_id: sent at each connect, unless it is empty.
    :param name: the server's address, as job handles have it.
    """

    protocol = GearmanWorkerProtocol

    def __init__(
        self,
        reactor: Reactor | None = None,
        *,
        receiver: JobReceiver,
        registrar: Registrar,
        client_id: bytes = b"",
        name: str = "",
        listener: ConnectionListener[GearmanWorkerProtocol] | None = None,
        connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS,
        source: random.Random | None = None,
    ) -> None:
        super().__init__(reactor, listener=listener, connection_options=connection_options, source=source)
        self.receiver = receiver
        self.registrar = registrar
        self.client_id = client_id
        self.name = name

    def _connection_ready(self, connection: GearmanWorkerProtocol) -> None:
        connection.register()
        self.registrar.connection_ready(connection)  # first: the other runs code of users, which may register functions
        super()._connection_ready(connection)
