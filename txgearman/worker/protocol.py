"""The worker's half of the protocol on one connection: functions are registered, jobs are asked for, and their answers
sent.

**Which server it is** decides three things, and nothing in the protocol tells it. So each handshake asks for a job,
with GRAB_JOB_ALL, before any function is registered: gearmand answers NO_JOB, perl's server an ERROR, and geard does
not answer (H6), which the fence behind it finds out. See `Dialect`.

**Sleep.** A worker that got NO_JOB says PRE_SLEEP, and the server wakes it with a NOOP; also if a job came between the
two. So nothing is missed, and no job is asked for in vain but when several workers are woken for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from typing import Protocol as Interface

from twisted.logger import Logger
from twisted.python.failure import Failure

from ..connection.factory import ConnectionListener, GearmanFactory
from ..connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from ..connection.protocol import GearmanProtocol
from ..connection.reactor import Reactor
from ..errors import ProtocolError, RequestUnsupported, ServerError
from ..packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
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

__all__ = ["Assignment", "Dialect", "GearmanWorkerFactory", "GearmanWorkerProtocol", "JobReceiver"]

_log = Logger()

_MAX_MILLISECONDS: Final = 2**31 - 1  # more overflows; far more can end a gearmand (C1)


@dataclass(frozen=True)
class Dialect:
    """What job servers do each in their own way.

    :ivar grab: how to ask for a job: the request that tells most and that the server answers.
    :ivar can_do_timeout: makes a CAN_DO_TIMEOUT's argument of seconds; None where the server would not register the
        function at all (docs/gearman.md §8).
    :ivar exception_is_terminal: whether WORK_EXCEPTION is the end of a job (docs/gearman.md §4, H13).
    :ivar timer_outlives_job: whether the timer of CAN_DO_TIMEOUT goes on after the end of its job, until the worker
        says that it waits for another. (gearmand then ends some other job of the connection, or none and counts it for
        one.)
    """

    name: str
    grab: bytes
    can_do_timeout: Callable[[float], bytes] | None
    exception_is_terminal: bool
    timer_outlives_job: bool


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % min(round(seconds * 1000), _MAX_MILLISECONDS)


GEARMAND: Final = Dialect("gearmand", GRAB_JOB_ALL.request(), _milliseconds, True, True)
PERL: Final = Dialect("perl", GRAB_JOB.request(), lambda seconds: b"%.3f" % seconds, False, False)
GEARD: Final = Dialect("geard", GRAB_JOB_UNIQ.request(), None, True, False)


class Assignment:
    """A job that a server has given to this worker.

    :ivar function: as on the wire.
    """

    __slots__ = ("function", "handle", "reducer", "unique", "workload")

    def __init__(self, handle: bytes, function: bytes, unique: bytes, reducer: bytes, workload: bytes) -> None:
        self.handle = handle
        self.function = function
        self.unique = unique
        self.reducer = reducer
        self.workload = workload


class JobReceiver(Interface):
    """Who has jobs done."""

    def registration(self) -> tuple[bytes, Iterable[tuple[bytes, float | None]]]:
        """The worker's id, and its functions with the seconds that their jobs may take."""

    def connection_ready(self, connection: GearmanWorkerProtocol) -> None:
        """The functions are registered on this connection, and jobs may be asked for."""

    def drained(self, connection: GearmanWorkerProtocol) -> None:
        """The server has taken what was written to it."""

    def woken(self, connection: GearmanWorkerProtocol) -> None:
        """The server may have a job."""

    def assigned(self, connection: GearmanWorkerProtocol, assignment: Assignment) -> None:
        """A `grab` was answered by a job."""

    def no_job(self, connection: GearmanWorkerProtocol) -> None:
        """A `grab` was answered in vain."""

    def connection_closed(self, connection: GearmanWorkerProtocol, jobs: list[Any]) -> None:
        """The connection is gone, and with it the jobs and what `grabs` were out."""


class GearmanWorkerProtocol(GearmanProtocol):
    """A worker's connection to one job server.

    :ivar dialect: which kind of server it is.
    :ivar grabs: how many jobs were asked for, and not answered yet.
    :ivar asleep: whether the server was told to wake it.
    :ivar jobs: what the taker keeps of each job that this connection has, by its handle.
    """

    factory: GearmanWorkerFactory

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        super().__init__(reactor, connection_options)
        self.dialect = GEARMAND
        self.grabs = 0
        self.asleep = False
        self.jobs: dict[bytes, Any] = {}
        self._grabs_answered = 0

    @property
    def in_flight(self) -> int:  # type: ignore[override]  # it is only read
        return len(self.jobs)

    @property
    def has_outstanding(self) -> bool:
        return self.grabs > 0 or super().has_outstanding

    @property
    def progress(self) -> int:
        return self._grabs_answered + super().progress

    @property
    def busy(self) -> bool:
        return self.has_outstanding or bool(self.jobs)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self.factory.receiver.drained(self)

    # The handshake.

    def send_opening(self) -> None:
        asked = self.request(GRAB_JOB_ALL, answer=NO_JOB)
        asked.addErrback(self._no_gearmand)

    def _no_gearmand(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ServerError):
            self.dialect = GEARD if isinstance(error, RequestUnsupported) else PERL

    def register(self) -> None:
        """Tell who this is and what it can do."""
        client_id, functions = self.factory.receiver.registration()
        if client_id:
            self.write(SET_CLIENT_ID.request(client_id))
        for function, timeout in functions:
            self.can_do(function, timeout)

    def can_do(self, function: bytes, timeout: float | None) -> None:
        """Register a function.

        :param timeout: seconds after which the server is to take a job away; None for no limit.
        """
        if timeout is None or self.dialect.can_do_timeout is None:
            self.write(CAN_DO.request(function))
        else:
            self.write(CAN_DO_TIMEOUT.request(function, self.dialect.can_do_timeout(timeout)))

    def cant_do(self, function: bytes) -> None:
        """Take a function back. gearmand takes the running jobs of it away, too (docs/gearman.md §7)."""
        self.write(CANT_DO.request(function))

    # Jobs.

    def grab(self) -> None:
        """Ask for a job; the taker will be told of one answer for each call.

        A server that does not answer within the limits' ``server_timeout`` is dropped: the job that may come has a slot
        of the worker's.
        """
        self.asleep = False
        self.grabs += 1
        self.write(self.dialect.grab)
        if not self.answer_probe.on:
            self.expect_answer()

    def sleep(self) -> None:
        """Have the server say when there is a job."""
        self.asleep = True
        self.write(PRE_SLEEP.request())

    def work_data(self, handle: bytes, data: bytes) -> None:
        self.write(WORK_DATA.request(handle, data))

    def work_warning(self, handle: bytes, data: bytes) -> None:
        self.write(WORK_WARNING.request(handle, data))

    def work_status(self, handle: bytes, numerator: int, denominator: int) -> None:
        self.write(WORK_STATUS.request(handle, b"%d" % numerator, b"%d" % denominator))

    def work_complete(self, handle: bytes, result: bytes) -> None:
        self._end(handle, WORK_COMPLETE.request(handle, result))

    def work_fail(self, handle: bytes) -> None:
        self._end(handle, WORK_FAIL.request(handle))

    def work_exception(self, handle: bytes, data: bytes) -> None:
        packet = WORK_EXCEPTION.request(handle, data)
        self._end(handle, packet if self.dialect.exception_is_terminal else packet + WORK_FAIL.request(handle))

    def _end(self, handle: bytes, packet: bytes) -> None:
        self.jobs.pop(handle, None)
        self.write(packet)
        self.check_idle()

    def lose_outstanding(self, error: Exception) -> None:
        jobs, self.jobs = self.jobs, {}
        super().lose_outstanding(error)
        self.factory.receiver.connection_closed(self, list(jobs.values()))
        self.grabs = 0

    # What the server says.

    def error_received(self, code: str, text: str) -> None:
        if not self.ready:
            super().error_received(code, text)
            return
        # Once hands are shaken, no request of ours is answered so: it is about a packet that has no answer, such as
        # the result of a job that the server has given to another worker meanwhile (docs/gearman.md §8).
        _log.info("{address}: {code}: {text}", address=self.factory.name, code=code, text=text)

    def _no_job(self, arguments: list[bytes]) -> None:
        if not self.ready:  # the handshake's
            self.request_succeeded(self._take_answered(NO_JOB, arguments), arguments)
            return
        self._grab_answered(NO_JOB)
        self.factory.receiver.no_job(self)

    def _assigned(self, arguments: list[bytes]) -> None:
        handle, function, workload = arguments
        self._grab_answered(JOB_ASSIGN)
        self.factory.receiver.assigned(self, Assignment(handle, function, b"", b"", workload))

    def _assigned_uniq(self, arguments: list[bytes]) -> None:
        handle, function, unique, workload = arguments
        self._grab_answered(JOB_ASSIGN_UNIQ)
        self.factory.receiver.assigned(self, Assignment(handle, function, unique, b"", workload))

    def _assigned_all(self, arguments: list[bytes]) -> None:
        self._grab_answered(JOB_ASSIGN_ALL)
        self.factory.receiver.assigned(self, Assignment(*arguments))

    def _grab_answered(self, answer: PacketType) -> None:
        if not self.grabs:
            raise ProtocolError(f"{answer} that answers nothing")
        self.grabs -= 1
        self._grabs_answered += 1

    def _noop(self, _: list[bytes]) -> None:
        # One that comes to a worker that is awake tells nothing: it is about to ask anyway.
        if self.asleep:
            self.asleep = False
            self.factory.receiver.woken(self)

    handlers: ClassVar[Mapping[PacketType, Callable[[GearmanWorkerProtocol, list[bytes]], None]]] = {
        NO_JOB: _no_job,
        JOB_ASSIGN: _assigned,
        JOB_ASSIGN_UNIQ: _assigned_uniq,
        JOB_ASSIGN_ALL: _assigned_all,
        NOOP: _noop,
    }


class GearmanWorkerFactory(GearmanFactory[GearmanWorkerProtocol]):
    """Keeps a worker's connection to one job server, and registers its functions at each connect."""

    protocol = GearmanWorkerProtocol

    def __init__(
        self,
        reactor: Reactor | None = None,
        *,
        receiver: JobReceiver,
        name: str = "",
        listener: ConnectionListener[GearmanWorkerProtocol] | None = None,
        connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS,
    ) -> None:
        """
        :param reactor: None for the global one.
        :param taker: who has the jobs done.
        :param name: the server's address, as job handles are to name it.
        """
        super().__init__(reactor, listener=listener, connection_options=connection_options)
        self.receiver = receiver
        self.name = name

    def connection_ready(self, connection: GearmanWorkerProtocol) -> None:
        if connection.error is None:
            connection.register()
            super().connection_ready(connection)
        if connection.error is None:
            self.receiver.connection_ready(connection)
