"""What a worker's author sees: `Job`, and what becomes of what a function returns."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock, get_ident
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from ..errors import JobEnded
from ..models import JobHandle
from ..validation import MAX_PAYLOAD, payload_bytes

__all__ = [
    "Job",
]

_ENDING: Final = RLock()  # a thread may come to end one job while it ends another: in a finalizer

MAX_STATUS: Final = 2**32 - 1
"""Of a status: gearmand keeps 32 bits of it (docs/gearman.md §5)."""


class Job:
    """One job, for the function that does it.

    A function may end its job by `complete`, `fail` or `send_exception`, or leave that to what it returns or raises.
    All of these calls are safe from other threads; from there, what is sent goes out a little later.

    :ivar handle: its `JobHandle`: the server's name for it, and the server's; the same that the client has.
    :ivar function: the function's name, as it was registered.
    :ivar workload: the payload.
    :ivar unique: as the client gave it; empty if it gave none.
    :ivar reducer: of a job with a reducer, its name; else empty. Only gearmand tells it.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_ended",
        "_thread",
        "connection",
        "deferred",
        "function",
        "handle",
        "reducer",
        "timer",
        "unique",
        "workload",
    )

    def __init__(self, connection: Any, function: str | bytes, assignment: Any) -> None:
        """
        :param connection: the connection that it came on.
        """
        self.connection = connection
        """For the worker: the connection that it came on."""
        self._ended = ""  # how, as soon as somebody has said so
        self._closed = False  # whether that has been sent
        self._thread = get_ident()
        self.function = function
        self.handle = JobHandle(connection.factory.name, assignment.handle)
        self.workload: bytes = assignment.workload
        self.unique: bytes = assignment.unique
        self.reducer: bytes = assignment.reducer
        # For the worker: what the function has returned, if it takes time, and the timer of its time-out.
        self.deferred: Deferred[Any] | None = None
        self.timer: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<Job {self}>"

    def __str__(self) -> str:
        function = (
            self.function if isinstance(self.function, str) else self.function.decode("utf-8", "backslashreplace")
        )
        return f"{function} {self.handle}"

    @property
    def ended(self) -> str:
        """How it has ended, for people; empty while it has not."""
        return self._ended

    def send_data(self, data: bytes) -> None:
        """Send a part of the result, or whatever the function means by it. May be called as often as needed.

        A worker that does the job anew, after this one was lost, sends its parts anew, and the client gets both.

        :raises JobEnded: the job has ended.
        :raises TypeError: it is not bytes.
        :raises ValueError: it is too long for one packet.
        """
        self._send(self.connection.work_data, _payload("data", data))

    def send_warning(self, data: bytes) -> None:
        """Send a warning. Raises as `send_data` does."""
        self._send(self.connection.work_warning, _payload("data", data))

    def send_status(self, numerator: int, denominator: int) -> None:
        """Tell how far it is. Raises as `send_data` does.

        :param numerator: how much of `denominator` is done; both whole numbers from 0, of up to 32 bits.
        :raises ValueError: it is not.
        """
        for name, number in (("numerator", numerator), ("denominator", denominator)):
            if not isinstance(number, int):
                raise TypeError(f"{name} must be int, not {type(number).__name__}")
            if not 0 <= number <= MAX_STATUS:
                raise ValueError(f"{name} must be from 0 to {MAX_STATUS}, not {number}")
        self._send(self.connection.work_status, numerator, denominator)

    def complete(self, result: bytes = b"") -> None:
        """It is done, and this is the result. It is the end of the job. Raises as `send_data` does.

        Should the connection go before the server has it, the server gives the job to another worker, or fails it;
        nobody here is told.
        """
        self._end("it was completed", self.connection.work_complete, _payload("result", result))

    def fail(self) -> None:
        """It can't be done; the protocol tells the client no reason. It is the end of the job.

        :raises JobEnded: the job has ended.
        """
        self._end("it has failed", self.connection.work_fail)

    def send_exception(self, data: bytes) -> None:
        """It can't be done, and this is why. It is the end of the job. Raises as `send_data` does.

        Clients of gearmand that have not asked for exceptions are told that it failed.
        """
        self._end("its exception was sent", self.connection.work_exception, _payload("data", data))

    def when_drained(self) -> Deferred[None]:
        """Await that the server takes what was sent, where it is slow and more is to come.

        :return: fires at once, mostly; also when the connection is lost. Not for other threads.
        """
        drained: Deferred[None] = self.connection.when_drained()
        return drained

    def _close(self, why: str) -> None:
        """For the worker: nothing more can be said of it."""
        self._ended = why
        self._closed = True

    def _send(self, method: Callable[..., None], *arguments: Any) -> None:
        self._check()
        self._in_reactor(self._send_open, method, arguments)

    def _end(self, how: str, method: Callable[..., None], *arguments: Any) -> None:
        with _ENDING:  # two threads may be about to
            self._check()
            self._ended = how
        self._in_reactor(self._send_last, method, arguments)

    def _check(self) -> None:
        if self._ended:
            raise JobEnded(f"{self}: {self._ended}")

    def _in_reactor(self, call: Callable[..., None], *arguments: Any) -> None:
        if get_ident() == self._thread:
            call(*arguments)
        else:
            self.connection.factory.reactor.callFromThread(call, *arguments)

    def _send_open(self, method: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        # What a thread said may come here only after the reactor has ended the job.
        if not self._closed:
            method(self.handle.handle, *arguments)

    def _send_last(self, method: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self._closed:
            self._closed = True
            method(self.handle.handle, *arguments)


def _payload(name: str, data: bytes) -> bytes:
    payload = payload_bytes(name, data)
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"{name} must have {MAX_PAYLOAD} bytes at most, not {len(payload)}")
    return payload
