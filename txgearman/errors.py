"""Every exception of txgearman.

::

    GearmanError                     .retriable: whether `retries=` submits again after it
    ├── ProtocolError                the server sent what is not Gearman, or more than max_packet_size
    ├── ServerError                  an ERROR packet, or ERR in the text protocol: .code, .text
    │   ├── RequestUnsupported       this server never answers such a request (.code is empty)
    │   └── UnknownFunction          the server does not have the function (.code is empty)
    ├── TLSError                     TLS with a server failed: its certificate, ours, or no TLS at all
    ├── NoServersAvailable           no job server could be reached: .reasons, one per server
    ├── ClientStopped                the client was stopped
    ├── JobFailed                    raised by a worker's function: the job fails, without an exception
    ├── JobEnded                     a worker's function used a job that had ended
    └── TaskError                    .task
        ├── TaskFailed               WORK_FAIL
        │   └── TaskException        WORK_EXCEPTION: .data
        ├── TaskRejected             the server answered the submit with ERROR: .code, .text
        ├── TaskLost                 the connection was lost, or the server forgot the job: .acknowledged, .forgotten
        └── TaskTimedOut             its timeout passed

These report what happened outside. Invalid arguments raise the builtin ``TypeError`` or ``ValueError`` at the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from .models import TaskInfo, decode_text

__all__ = [
    "ClientStopped",
    "GearmanError",
    "JobEnded",
    "JobFailed",
    "NoServersAvailable",
    "ProtocolError",
    "RequestUnsupported",
    "ServerError",
    "TLSError",
    "TaskError",
    "TaskException",
    "TaskFailed",
    "TaskLost",
    "TaskRejected",
    "TaskTimedOut",
    "UnknownFunction",
]

_QUEUE_FULL: Final = "QUEUE_ERROR"  # docs/gearman.md §3

_MAX_DATA_SHOWN: Final = 200  # bytes of an exception's data in its text


class GearmanError(Exception):
    """The base of every exception here."""

    _retriable: ClassVar[bool] = False

    @property
    def retriable(self) -> bool:
        """Whether a task that failed with this error is submitted again, if it has ``retries`` left."""
        return self._retriable


class ProtocolError(GearmanError):
    """The server sent what is not Gearman, an answer to no request, or more than ``max_packet_size``.

    Its connection is aborted; see ``last_error`` in ``GearmanClient.servers``.
    """


class ServerError(GearmanError):
    """The server answered a request with an ERROR packet, or a command of the text protocol with ERR.

    :ivar code: the server's error code, such as ``"UNKNOWN_OPTION"``; geard sends numbers (C3). ``"ERR"`` where the
        text protocol has none.
    :ivar text: its explanation; may be empty.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.code, self.text]))


class RequestUnsupported(ServerError):
    """The server leaves such a request without an answer, and always does. ``code`` is empty.

    geard does so with GET_STATUS_UNIQUE, and with most commands of the text protocol (H6).
    """

    def __init__(self, text: str) -> None:
        super().__init__("", text)


class UnknownFunction(ServerError):
    """The server does not have the function. ``code`` is empty: gearmand answers OK, and does nothing."""

    def __init__(self, text: str) -> None:
        super().__init__("", text)


class TLSError(GearmanError):
    """TLS with a server failed. The text says what is wrong; ``__cause__`` is the error of Twisted or OpenSSL.

    The connection is tried again, after a delay; see ``last_error`` in ``GearmanClient.servers``.
    """


class NoServersAvailable(GearmanError):
    """No job server could be reached.

    It is retriable, though ``server_wait`` is the better way to wait for a server.

    :ivar reasons: the last error of each server that was asked, by its address.
    """

    _retriable = True

    def __init__(self, reasons: Mapping[str, BaseException]) -> None:
        super().__init__(reasons)
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        return "; ".join(f"{address}: {reason}" for address, reason in self.reasons.items())


class ClientStopped(GearmanError):
    """The client was stopped, before the call or before its outcome."""

    def __init__(self, text: str = "the client was stopped") -> None:
        super().__init__(text)


class JobFailed(GearmanError):
    """For a worker's functions to raise: the job ends in WORK_FAIL, which carries no reason.

    Whatever else they raise is sent as WORK_EXCEPTION. The text of this one is for the worker's log.
    """


class JobEnded(GearmanError):
    """A worker's function used a job that had ended: was completed, timed out, lost its connection ..."""


class TaskError(GearmanError):
    """A task ended without a result.

    :ivar task: the `Task`.
    """

    def __init__(self, task: TaskInfo) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"{self.task}: {self._what()}"

    def _what(self) -> str:
        return "failed"


class TaskFailed(TaskError):
    """The worker sent WORK_FAIL. It carries no reason.

    It is retriable: the next attempt goes to another server, if there is one.
    """

    _retriable = True


class TaskException(TaskFailed):
    """The worker sent WORK_EXCEPTION.

    :ivar data: what the worker sent with it, in whatever form the worker chose.
    """

    def __init__(self, task: TaskInfo, data: bytes) -> None:
        super().__init__(task)
        self.data = data

    def _what(self) -> str:
        return f"exception: {decode_text(self.data[:_MAX_DATA_SHOWN])}"


class TaskRejected(TaskError):
    """The server answered the submit with ERROR: there is no job.

    It is retriable if the queue was full (``QUEUE_ERROR``); what else is refused, would be again.

    :ivar code: such as ``"QUEUE_ERROR"``; empty where the server left the submit without an answer, and ``__cause__``
        is `RequestUnsupported`.
    :ivar text: the server's explanation.
    """

    def __init__(self, task: TaskInfo, code: str, text: str) -> None:
        super().__init__(task)
        self.code = code
        self.text = text

    @property
    def retriable(self) -> bool:
        return self.code == _QUEUE_FULL

    def _what(self) -> str:
        return ": ".join(filter(None, ["rejected", self.code, self.text]))


class TaskLost(TaskError):
    """The connection was lost after the task was sent and before its outcome came; or the server forgot the job.

    After a lost connection the job may be queued, running, or done; nobody here can know. ``__cause__`` is what ended
    the connection. It is retriable: the job may then run twice.

    :ivar acknowledged: whether JOB_CREATED had come. If not, the server may never have received the task.
    :ivar forgotten: whether the connection is up, but the server answered that it has no such job, and never reported
        its end (H1 to H3, H5, H9).
    """

    _retriable = True

    def __init__(self, task: TaskInfo, *, acknowledged: bool, forgotten: bool = False) -> None:
        super().__init__(task)
        self.acknowledged = acknowledged
        self.forgotten = forgotten

    def _what(self) -> str:
        if self.forgotten:
            return "lost: the server has forgotten its job"
        when = "after" if self.acknowledged else "before"
        text = f"lost: the connection went {when} JOB_CREATED"
        return f"{text} ({self.__cause__})" if self.__cause__ else text


class TaskTimedOut(TaskError):
    """The task's ``timeout`` passed, all attempts together. The job may still run."""

    def _what(self) -> str:
        return "timed out"
