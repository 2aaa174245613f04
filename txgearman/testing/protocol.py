"""One connection to a `MemoryJobServer`: reads requests, and answers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ..connection.protocol import tcp_transport
from ..models import Priority
from ..packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_ALL,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    OPTION_RES,
    PRE_SLEEP,
    RESET_ABILITIES,
    SET_CLIENT_ID,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    SUBMIT_REDUCE_JOB,
    SUBMIT_REDUCE_JOB_BACKGROUND,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    PacketType,
)
from ..validation import printable_text, whole_number
from . import commands
from .core import JobServerCore, SubmittedJob
from .faults import Faults
from .jobs import MAX_UNIQUE, Ability, Job, QueueFull
from .request_parser import InvalidRequest, RequestParser, WrongMagic

MEMORY: Final = "memory"
"""The host of a connection that has no address."""

MAX_ACCEPTED_UNIQUE: Final = 64
"""Bytes. A longer unique is refused; one of exactly this length is accepted, but does not coalesce
(docs/gearman.md §1)."""

MAX_HANDLE: Final = 63
"""Bytes. A question about a longer handle is not answered (H6)."""

MAX_REQUESTS: Final = 10_000
"""Packet types that `JobServerProtocol.requests` keeps at least, the newest; at most twice as many."""

MAX_CLIENT_ID: Final = 127
"""Bytes. The rest of a longer client id is discarded."""

MAX_ASSIGN: Final = 8192
"""Bytes of a JOB_ASSIGN before the workload. gearmand closes the connection of a worker that would get more."""

MAX_DENOMINATOR: Final = 11
"""Characters of WORK_STATUS's denominator, of which the last is not read. A WORK_STATUS with a longer one is ignored
(docs/gearman.md §5)."""

_UINT32: Final = (1 << 32) - 1
_LONG_MIN: Final = -(1 << 63)
_LONG_MAX: Final = (1 << 63) - 1

_PRIORITIES: Final[Mapping[PacketType, tuple[Priority, bool]]] = {
    SUBMIT_JOB: (Priority.NORMAL, False),
    SUBMIT_JOB_BG: (Priority.NORMAL, True),
    SUBMIT_JOB_HIGH: (Priority.HIGH, False),
    SUBMIT_JOB_HIGH_BG: (Priority.HIGH, True),
    SUBMIT_JOB_LOW: (Priority.LOW, False),
    SUBMIT_JOB_LOW_BG: (Priority.LOW, True),
    SUBMIT_JOB_EPOCH: (Priority.NORMAL, True),
    SUBMIT_REDUCE_JOB: (Priority.NORMAL, False),
    SUBMIT_REDUCE_JOB_BACKGROUND: (Priority.NORMAL, True),
}
"""The priority of each submit, and whether it is in the background."""


class JobServerProtocol(Protocol):
    """One connection of a client, a worker or an administrator: see `core.Connection`.

    :ivar lost: fires when it is lost.
    """

    transport: Any

    def __init__(self, reactor: IReactorTime, core: JobServerCore, faults: Faults, host: bytes) -> None:
        self._reactor = reactor
        self._core = core
        self._faults = faults
        self._log = core.log
        self._parser = RequestParser()
        self._closed = False
        self._woken = False
        self._timer: IDelayedCall | None = None
        self.host = host
        self.number = 0
        self.client_id = b"-"
        self.exceptions = False
        self.abilities: dict[Ability, None] = {}
        self.requests: list[PacketType] = []
        self.lost: Deferred[None] = Deferred()

    def __repr__(self) -> str:
        return f"<connection {self.number} to {self._faults.name}>"

    # The connection.

    def connectionMade(self) -> None:
        tcp = tcp_transport(self.transport)
        if tcp is not None:
            tcp.setTcpNoDelay(True)
        self.number = self._core.connection_made(self)
        self._log.note(
            self.number, "connected" if self.host == MEMORY.encode() else f"connected from {printable_text(self.host)}"
        )
        self._faults.connection_made(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        self._faults.connection_lost(self)
        if self._parser.unfinished and not self._closed:
            self._log.refused(self.number, f"discards {self._parser.unfinished} bytes of an unfinished request")
        self._closed = True
        self._core.connection_lost(self)
        self.lost.callback(None)

    def drop(self) -> None:
        """Abort the connection: what was not sent yet is lost, and nothing more is read."""
        self._closed = True
        self.transport.abortConnection()

    def pause_reading(self) -> None:
        """Read nothing more, until `resume_reading`."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read on, after processing what was received before the pause."""
        self.transport.resumeProducing()
        self.dataReceived(b"")

    def send(self, packet: bytes) -> None:
        """Send a packet, or a line of text."""
        if not self._closed:
            self._log.sent(self.number, packet)
            self._faults.send(self, packet)

    def dataReceived(self, data: bytes) -> None:
        self._parser.feed(data)
        try:
            while not (self._closed or self._faults.silent) and self._take_request():
                pass
        except InvalidRequest as error:
            self._log.refused(self.number, f"closes the connection: {error}")
            self._closed = True
            self._faults.close_connection(self)

    def _take_request(self) -> bool:
        try:
            request = self._parser.take()
        except WrongMagic:
            self._refuse("INVALID_MAGIC", "Request magic expected")
            return True
        if isinstance(request, bytes):
            self._line_received(request)
        elif request is not None:
            self._packet_received(*request)
        return request is not None

    def _line_received(self, line: bytes) -> None:
        self._log.line_received(self.number, line)
        answer = commands.answer(self._core, line)
        if answer is None:
            raise InvalidRequest(f"a line has more than {commands.MAX_ARGUMENTS} words after the command")
        self.send(answer)

    def _packet_received(self, packet_type: PacketType, arguments: list[bytes]) -> None:
        self.requests.append(packet_type)
        if len(self.requests) > 2 * MAX_REQUESTS:
            del self.requests[:-MAX_REQUESTS]
        self._log.received(self.number, packet_type, arguments)
        if self._faults.intercepts(self, packet_type, arguments):
            return
        handler = self._handlers.get(packet_type)
        if handler is None:
            self._refuse("INVALID_COMMAND", "Command not expected")
        else:
            handler(self, packet_type, *arguments)
        self._faults.packet_processed(self, packet_type, arguments)

    def _refuse(self, code: str, text: str) -> None:
        self.send(ERROR.response(code.encode(), text.encode()))

    def _ignore(self, reason: str) -> None:
        """Leave a request unanswered, as gearmand does (H6)."""
        self._log.refused(self.number, f"leaves the request unanswered: {reason}")

    # Clients.

    def _submit(self, packet_type: PacketType, function: bytes, unique: bytes, workload: bytes) -> None:
        self._queue(packet_type, function, unique, workload)

    def _submit_epoch(
        self, packet_type: PacketType, function: bytes, unique: bytes, epoch: bytes, workload: bytes
    ) -> None:
        at = whole_number(epoch)
        if _LONG_MIN <= at <= _LONG_MAX:
            self._queue(packet_type, function, unique, workload, at=self._core.due_time(at))
        else:
            self._ignore("the time has more than 64 bits")

    def _submit_reduce(
        self, packet_type: PacketType, function: bytes, unique: bytes, reducer: bytes, _: bytes, workload: bytes
    ) -> None:
        if len(reducer) > MAX_ACCEPTED_UNIQUE:  # gearmand checks the wrong argument (docs/gearman.md §9)
            self._refuse("ARGUMENT_TOO_LARGE", "Unique value too large")
        else:
            self._queue(packet_type, function, unique, workload, reducer=reducer)

    def _queue(self, packet_type: PacketType, function: bytes, unique: bytes, workload: bytes, **options: Any) -> None:
        if len(unique) > MAX_ACCEPTED_UNIQUE and "reducer" not in options:
            self._refuse("ARGUMENT_TOO_LARGE", "Unique value too large")
            return
        jobs = self._core.jobs
        priority, background = _PRIORITIES[packet_type]
        options.update(priority=priority, background=background)
        submitted = Job(jobs.function(function), unique, workload, **options)
        try:
            job, new = jobs.submit(submitted, None if background else self)
        except QueueFull:
            self._refuse("QUEUE_ERROR", "Job queue is full")
            return
        submitted.handle = job.handle
        self._core.submitted.append(SubmittedJob.of(submitted))
        if new:
            self._core.wake_workers(job)
        self.send(JOB_CREATED.response(job.handle))

    def _get_status(self, _: PacketType, handle: bytes) -> None:
        handle = handle.partition(b"\0")[0]
        if len(handle) <= MAX_HANDLE:
            self.send(STATUS_RES.response(handle, *_status(self._core.jobs.by_handle(handle))))
        else:
            self._ignore(f"the handle has more than {MAX_HANDLE} bytes")

    def _get_status_unique(self, _: PacketType, unique: bytes) -> None:
        unique = unique.partition(b"\0")[0]
        if len(unique) <= MAX_UNIQUE:
            job = self._core.jobs.by_unique(unique)
            clients = len(job.listeners) if job else 0
            self.send(STATUS_RES_UNIQUE.response(unique, *_status(job), b"%d" % clients))
        else:
            self._ignore(f"the unique has more than {MAX_UNIQUE} bytes")

    def _echo(self, _: PacketType, data: bytes) -> None:
        self.send(ECHO_RES.response(data))

    def _option(self, _: PacketType, option: bytes) -> None:
        if option.partition(b"\0")[0].lower() == b"exceptions":
            self.exceptions = True
            self.send(OPTION_RES.response(option))
        else:
            self._refuse("UNKNOWN_OPTION", "Server does not recognize given option")

    # Workers.

    def _can_do(self, _: PacketType, function: bytes) -> None:
        self._core.jobs.add_ability(self, function)

    def _can_do_timeout(self, _: PacketType, function: bytes, milliseconds: bytes) -> None:
        number = whole_number(milliseconds)
        timeout = max(number, 1000) / 1000 if number > 0 else None
        self._core.jobs.add_ability(self, function, timeout)

    def _cant_do(self, _: PacketType, function: bytes) -> None:
        self._core.remove_abilities(each for each in reversed(self.abilities) if each.function.name == function)

    def _reset_abilities(self, _: PacketType) -> None:
        self._core.remove_abilities(reversed(self.abilities))

    def _set_client_id(self, _: PacketType, client_id: bytes) -> None:
        self.client_id = client_id[:MAX_CLIENT_ID]

    def _pre_sleep(self, _: PacketType) -> None:
        if self._core.jobs.has_work_for(self):
            self.send(NOOP.response())
        else:
            if not self._woken:
                self._core.jobs.sleep(self)
            self._stop_timer()

    def wake(self) -> None:
        """Send NOOP to a worker that sleeps; once, until it grabs a job."""
        self._woken = True
        self.send(NOOP.response())

    def _grab(self, packet_type: PacketType) -> None:
        self._woken = False
        self._core.jobs.awake(self)
        job = self._core.jobs.take(self)
        if job is None:
            self.send(NO_JOB.response())
            return
        self._set_timer(job)
        packet = _assignment(packet_type, job)
        if len(packet) - len(job.workload) > MAX_ASSIGN:
            raise InvalidRequest(f"the names in the job take more than {MAX_ASSIGN:,} bytes")
        self.send(packet)

    def _set_timer(self, job: Job) -> None:
        """Start, restart or stop the timer for a job that is assigned.

        A connection has one timer. Each job that it is assigned restarts or stops it; but the job that is requeued is
        the one for which it was first started, and the end of that job does not stop it (docs/gearman.md §8).
        """
        assert job.ability is not None
        timeout = job.ability.timeout
        if timeout is None:
            self._stop_timer()
        elif self._timer is not None:
            self._timer.reset(timeout)
        else:
            self._timer = self._reactor.callLater(timeout, self._time_out, job)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self, job: Job) -> None:
        self._timer = None
        if job.worker is self:
            self._core.requeue(job)

    # What a worker sends about its job.

    def _own_job(self, handle: bytes, error_text: str) -> Job | None:
        job = self._core.jobs.by_handle(handle)
        if job is None or job.worker is not self:
            self._refuse("JOB_NOT_FOUND", error_text)
            return None
        return job

    def _work_data(self, packet_type: PacketType, handle: bytes, data: bytes) -> None:
        job = self._own_job(handle, "Job does not exist on server")
        if job:
            self._core.work_data(job, packet_type, data)

    def _work_status(self, packet_type: PacketType, handle: bytes, numerator: bytes, denominator: bytes) -> None:
        job = self._own_job(handle, "Job given in work result not found")
        if job and len(denominator) > MAX_DENOMINATOR:
            self._ignore(f"the denominator has more than {MAX_DENOMINATOR} characters")
        elif job:
            numbers = (whole_number(digits) for digits in (numerator, denominator[: MAX_DENOMINATOR - 1]))
            stored = [min(max(number, _LONG_MIN), _LONG_MAX) & _UINT32 for number in numbers]
            self._core.work_status(job, packet_type.response(handle, numerator, denominator), *stored)

    def _work_complete(self, packet_type: PacketType, handle: bytes, data: bytes) -> None:
        job = self._own_job(handle, "Job given in work result not found")
        if job:
            self._core.work_end(job, packet_type.response(handle, data))

    def _work_fail(self, packet_type: PacketType, handle: bytes) -> None:
        job = self._own_job(handle.partition(b"\0")[0], "Job given in work result not found")
        if job:
            self._core.work_end(job, packet_type.response(handle))

    def _work_exception(self, _: PacketType, handle: bytes, data: bytes) -> None:
        job = self._own_job(handle, "An exception was received for a job that does not exist")
        if job:
            self._core.work_exception(job, data)

    _handlers: ClassVar[Mapping[PacketType, Callable[..., None]]] = {
        **dict.fromkeys(_PRIORITIES, _submit),
        SUBMIT_JOB_EPOCH: _submit_epoch,
        SUBMIT_REDUCE_JOB: _submit_reduce,
        SUBMIT_REDUCE_JOB_BACKGROUND: _submit_reduce,
        GET_STATUS: _get_status,
        GET_STATUS_UNIQUE: _get_status_unique,
        ECHO_REQ: _echo,
        OPTION_REQ: _option,
        CAN_DO: _can_do,
        CAN_DO_TIMEOUT: _can_do_timeout,
        CANT_DO: _cant_do,
        RESET_ABILITIES: _reset_abilities,
        SET_CLIENT_ID: _set_client_id,
        PRE_SLEEP: _pre_sleep,
        **dict.fromkeys((GRAB_JOB, GRAB_JOB_UNIQ, GRAB_JOB_ALL), _grab),
        WORK_DATA: _work_data,
        WORK_WARNING: _work_data,
        WORK_STATUS: _work_status,
        WORK_COMPLETE: _work_complete,
        WORK_FAIL: _work_fail,
        WORK_EXCEPTION: _work_exception,
    }


def _status(job: Job | None) -> list[bytes]:
    numbers = (0, 0, 0, 0) if job is None else (1, job.worker is not None, job.numerator, job.denominator)
    return [b"%d" % number for number in numbers]


def _assignment(grab: PacketType, job: Job) -> bytes:
    function, unique, workload = job.function.name, job.unique, job.workload
    if grab is GRAB_JOB:
        return JOB_ASSIGN.response(job.handle, function, workload)
    if len(unique) > MAX_UNIQUE:
        unique, workload = unique[:MAX_UNIQUE], b"\0" + workload
    if grab is GRAB_JOB_ALL and job.reducer:
        return JOB_ASSIGN_ALL.response(job.handle, function, unique, job.reducer, workload)
    return JOB_ASSIGN_UNIQ.response(job.handle, function, unique, workload)
