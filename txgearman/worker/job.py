"""`Job`: what a function gets, and by which it reports its progress and its end."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, RLock, get_ident
from typing import Final, NamedTuple, cast
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from typing_extensions import TypeVarTuple, Unpack

from ..connection.reactor import Reactor, ThreadedReactor
from ..errors import JobEnded
from ..models import JobHandle, job_handle
from ..validation import MAX_NAME, MAX_PAYLOAD, payload_bytes, short_text
from .threads import ThreadSends

__all__ = [
    "COMPLETED",
    "EXCEPTION_SENT",
    "FAILED",
    "TIMED_OUT",
    "Assignment",
    "Job",
    "JobConnection",
    "JobConnectionFactory",
]

Arguments = TypeVarTuple("Arguments")

# Held while a job ends, or a thread is about to wait for it. It is re-entrant: a finalizer that runs meanwhile may end
# another job in the same thread.
_ENDING: Final = RLock()

# How a job has ended, for people.
COMPLETED: Final = "it was completed"
FAILED: Final = "it has failed"
EXCEPTION_SENT: Final = "its exception was sent"
TIMED_OUT: Final = "it timed out"

MAX_STATUS: Final = 2**32 - 1
"""Of a status: gearmand keeps 32 bits of it (docs/gearman.md §5)."""


class Assignment(NamedTuple):
    """A job as a server assigned it to this worker.

    :ivar function: the function's name on the wire.
    """

    handle: bytes
    function: bytes
    unique: bytes
    reducer: bytes
    workload: bytes


class JobConnectionFactory(Interface):
    """What a job needs of the factory of its connection."""

    @property
    def name(self) -> str:
        """The server's address."""

    @property
    def reactor(self) -> Reactor:
        """The reactor whose thread may write to the connection."""


class JobConnection(Interface):
    """What a job needs of the connection that it came on."""

    @property
    def factory(self) -> JobConnectionFactory:
        """The factory that made it."""

    def when_drained(self) -> Deferred[None]:
        """Return a Deferred that fires once the server has taken what was written."""

    def work_data(self, handle: bytes, data: bytes) -> None:
        """Send WORK_DATA."""

    def work_warning(self, handle: bytes, data: bytes) -> None:
        """Send WORK_WARNING."""

    def work_status(self, handle: bytes, numerator: int, denominator: int) -> None:
        """Send WORK_STATUS."""

    def work_complete(self, handle: bytes, result: bytes) -> None:
        """Send WORK_COMPLETE."""

    def work_fail(self, handle: bytes) -> None:
        """Send WORK_FAIL."""

    def work_exception(self, handle: bytes, data: bytes) -> None:
        """Send WORK_EXCEPTION, and what else ends the job at this server."""


class Job:
    """One job, for the function that runs it.

    A function may end its job by `complete`, `fail` or `send_exception`, or leave that to what it returns or raises.
    All of these calls are safe from other threads. What a thread sends is written in a later turn of the reactor. A
    thread that has sent 64 KiB waits until the server takes them, or the job ends.

    :ivar function: the function's name, as it was registered.
    :ivar workload: the payload.
    :ivar unique: as the client gave it; empty if it gave none.
    :ivar reducer: of a job with a reducer, its name; else empty. Only gearmand sends it.
    :param connection: the connection that the job came on.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_connection",
        "_deferred",
        "_ended",
        "_handle",
        "_sends",
        "_thread",
        "_timer",
        "function",
        "reducer",
        "unique",
        "workload",
    )

    def __init__(self, connection: JobConnection, function: str | bytes, assignment: Assignment) -> None:
        self._connection = connection
        self._ended = ""  # how, as soon as it was ended
        self._closed = False  # whether that was sent, or nothing may be sent any more
        self._thread = get_ident()
        self._sends: ThreadSends | None = None
        self.function = function
        self._handle, _, self.unique, self.reducer, self.workload = assignment
        # For the runner: what the function has returned, if it takes time, and the timer of its time-out.
        self._deferred: Deferred[object] | None = None
        self._timer: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<Job {self}>"

    def __str__(self) -> str:
        return f"{short_text(self.function, MAX_NAME)} {short_text(str(self.handle), MAX_NAME)}"

    @property
    def handle(self) -> JobHandle:
        """The server's name for the job, and the server; the same that the client has."""
        return job_handle((self._connection.factory.name, self._handle))

    @property
    def ended(self) -> str:
        """How it has ended, for people; empty while it has not."""
        return self._ended

    def send_data(self, data: bytes) -> None:
        """Send a part of the result, or whatever the function means by it. May be called as often as needed.

        A worker that runs the job again, after this one was lost, sends its parts again, and the client gets both.

        In a thread, it waits for a server that is slow.

        :raises JobEnded: the job has ended, or a thread waited, and it ended meanwhile: by somebody else, a time-out, a
            lost connection or the worker's stop.
        :raises TypeError: `data` is not bytes.
        :raises ValueError: `data` is too long for one packet.
        """
        self._send(self._connection.work_data, _payload("data", data))

    def send_warning(self, data: bytes) -> None:
        """Send a warning. Raises as `send_data` does."""
        self._send(self._connection.work_warning, _payload("data", data))

    def send_status(self, numerator: int, denominator: int) -> None:
        """Send how far the job is. Raises as `send_data` does.

        :param numerator: how much of `denominator` is done; both whole numbers from 0, of up to 32 bits.
        :raises ValueError: one of them is out of range.
        """
        for name, number in (("numerator", numerator), ("denominator", denominator)):
            if not isinstance(number, int):
                raise TypeError(f"{name} must be int, not {type(number).__name__}")
            if not 0 <= number <= MAX_STATUS:
                raise ValueError(f"{name} must be from 0 to {MAX_STATUS}, not {number}")
        self._send(self._connection.work_status, numerator, denominator)

    def complete(self, result: bytes = b"") -> None:
        """End the job, with this result. Raises as `send_data` does.

        If the connection is lost before the server has the result, the server gives the job to another worker, or
        fails it; nothing is reported here.
        """
        payload = result if type(result) is bytes and len(result) <= MAX_PAYLOAD else _payload("result", result)
        if get_ident() != self._thread:
            self._end(COMPLETED, self._connection.work_complete, payload)
            return
        with _ENDING:  # as _end() does, in fewer steps
            if self._ended:
                self._check()
            self._ended = COMPLETED
            if self._sends is not None:
                self._sends.wake_all()
        self._closed = True
        self._connection.work_complete(self._handle, payload)

    def fail(self) -> None:
        """End the job as failed; the protocol has no way to say why.

        :raises JobEnded: the job has ended.
        """
        self._end(FAILED, self._connection.work_fail)

    def send_exception(self, data: bytes) -> None:
        """End the job as failed, and send why. Raises as `send_data` does.

        gearmand sends the reason only to clients that have asked for exceptions; to others the job has failed.
        """
        self._end(EXCEPTION_SENT, self._connection.work_exception, _payload("data", data))

    def when_drained(self) -> Deferred[None]:
        """Await that the server takes what was sent, before more is sent to a slow one.

        :return: fires at once, mostly; also when the connection is lost. Not for other threads.
        """
        return self._connection.when_drained()

    def _close(self, reason: str) -> None:
        """End the job without a packet: nothing more can be sent for it."""
        with _ENDING:
            self._ended = reason
            if self._sends is not None:
                self._sends.wake_all()
        self._closed = True

    def _send(self, method: Callable[[bytes, Unpack[Arguments]], None], *arguments: Unpack[Arguments]) -> None:
        self._check()
        if get_ident() == self._thread:
            self._send_open(method, arguments)
        else:
            self._threaded_reactor.callFromThread(self._send_open, method, arguments)
            self._wait_for_server(sum(len(argument) for argument in arguments if isinstance(argument, bytes)))

    def _wait_for_server(self, sent: int) -> None:
        """Have a thread wait if much was sent.

        :param sent: how many bytes it has sent now.
        """
        with _ENDING:
            if self._ended:
                return
            sends = self._sends = self._sends or ThreadSends()
            taken = sends.add(sent)
        if taken is not None:
            self._threaded_reactor.callFromThread(self._wake_when_drained, taken)
            taken.wait()
            with _ENDING:
                sends.waiting.discard(taken)
            self._check()

    def _wake_when_drained(self, taken: Event) -> None:
        self._connection.when_drained().addCallback(lambda _: taken.set())

    def _end(self, how: str, method: Callable[[bytes, Unpack[Arguments]], None], *arguments: Unpack[Arguments]) -> None:
        with _ENDING:  # two threads may be about to
            self._check()
            self._ended = how
            if self._sends is not None:
                self._sends.wake_all()
        if get_ident() == self._thread:
            self._send_last(method, arguments)
        else:
            self._threaded_reactor.callFromThread(self._send_last, method, arguments)

    def _check(self) -> None:
        if self._ended:
            raise JobEnded(f"{self}: {self._ended}")

    @property
    def _threaded_reactor(self) -> ThreadedReactor:
        return cast(ThreadedReactor, self._connection.factory.reactor)  # else there would be no other thread

    def _send_open(
        self, method: Callable[[bytes, Unpack[Arguments]], None], arguments: tuple[Unpack[Arguments]]
    ) -> None:
        # What a thread sent may come here only after the reactor has ended the job.
        if not self._closed:
            method(self._handle, *arguments)

    def _send_last(
        self, method: Callable[[bytes, Unpack[Arguments]], None], arguments: tuple[Unpack[Arguments]]
    ) -> None:
        if not self._closed:
            self._closed = True
            method(self._handle, *arguments)


def _payload(name: str, data: bytes) -> bytes:
    payload = data if type(data) is bytes else payload_bytes(name, data)
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"{name} must have {MAX_PAYLOAD} bytes at most, not {len(payload)}")
    return payload
