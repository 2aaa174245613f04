"""Every exception of txgearman.

::

    GearmanError                     .retriable: whether `retries=` submits again after it
    ├── ProtocolError                the server violated the protocol, or sent more than max_packet_size
    ├── ServerError                  an ERROR packet, or ERR in the text protocol: .code, .text
    │   ├── RequestUnsupported       this server never answers such a request (.code is empty)
    │   └── UnknownFunction          the server does not have the function (.code is empty)
    ├── TLSError                     TLS with a server failed: its certificate, the client's, or the server has no TLS
    ├── NoServersAvailable           no job server could be reached: .reasons, by address
    ├── ClientStopped                the client was stopped
    ├── JobFailed                    for a worker's function to raise: fails the job without an exception
    ├── JobEnded                     a worker's function used a job that had ended
    └── TaskError                    a task ended without a result: .task
        ├── TaskFailed               WORK_FAIL
        │   └── TaskException        WORK_EXCEPTION: .data
        ├── TaskRejected             the server answered the submit with ERROR: .code, .text
        ├── TaskLost                 the connection was lost, or the server forgot the job: .acknowledged, .forgotten
        └── TaskTimedOut             the timeout of the task passed

They report what happened at a server, a worker or on a connection. Invalid arguments raise the builtin ``TypeError`` or
``ValueError`` at the call.
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

_MAX_DATA_SHOWN: Final = 200  # bytes of WORK_EXCEPTION data in the text of the error


class GearmanError(Exception):
    """Base of all exceptions of txgearman."""

    _retriable: ClassVar[bool] = False

    @property
    def retriable(self) -> bool:
        """Whether a task that failed with this error is resubmitted, if it has ``retries`` left."""
        return self._retriable


class ProtocolError(GearmanError):
    """The server sent bytes that are not Gearman, an answer to no request, or more than ``max_packet_size``.

    The connection is aborted; ``last_error`` in ``GearmanClient.servers`` has the error.
    """


class ServerError(GearmanError):
    """The server answered a request with an ERROR packet, or a command of the text protocol with ERR.

    :ivar code: the server's error code, such as ``"UNKNOWN_OPTION"``; geard sends numbers (C3). ``"ERR"`` if the text
        protocol gave none.
    :ivar text: the server's explanation; may be empty.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.code, self.text]))


class RequestUnsupported(ServerError):
    """The server does not answer requests of this type. ``code`` is empty.

    geard answers neither GET_STATUS_UNIQUE nor most commands of the text protocol (H6).
    """

    def __init__(self, text: str) -> None:
        super().__init__("", text)


class UnknownFunction(ServerError):
    """The server does not have the function. ``code`` is empty: gearmand answers OK and does nothing."""

    def __init__(self, text: str) -> None:
        super().__init__("", text)


class TLSError(GearmanError):
    """TLS with a server failed. The text names the fault; ``__cause__`` is the error of Twisted or OpenSSL.

    The client reconnects after a delay; ``last_error`` in ``GearmanClient.servers`` has the error.
    """


class NoServersAvailable(GearmanError):
    """No job server could be reached.

    It is retriable. To wait for a server, prefer ``server_wait`` of `GearmanClient`.

    :ivar reasons: the last error of each server that was tried, by its address.
    """

    _retriable = True

    def __init__(self, reasons: Mapping[str, BaseException]) -> None:
        super().__init__(reasons)
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        return "; ".join(f"{address}: {reason}" for address, reason in self.reasons.items())


class ClientStopped(GearmanError):
    """The client was stopped, before the call or while it was pending."""

    def __init__(self, text: str = "the client was stopped") -> None:
        super().__init__(text)


class JobFailed(GearmanError):
    """For a worker's function to raise: the job ends with WORK_FAIL, which carries no reason.

    Any other exception is sent as WORK_EXCEPTION. The text of a `JobFailed` appears in the worker's log only.
    """


class JobEnded(GearmanError):
    """A worker's function used a job that had ended: completed, timed out, or lost its connection."""


class TaskError(GearmanError):
    """A task ended without a result.

    :ivar task: the task: a `TaskInfo`.
    """

    def __init__(self, task: TaskInfo) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"{self.task}: {self._what()}"

    def _what(self) -> str:
        return "failed"


class TaskFailed(TaskError):
    """The worker sent WORK_FAIL, which carries no reason.

    It is retriable: the next attempt goes to another server, if there is one.
    """

    _retriable = True


class TaskException(TaskFailed):
    """The worker sent WORK_EXCEPTION.

    :ivar data: the bytes that the worker sent with it; their format is the worker's choice.
    """

    def __init__(self, task: TaskInfo, data: bytes) -> None:
        super().__init__(task)
        self.data = data

    def _what(self) -> str:
        return f"exception: {decode_text(self.data[:_MAX_DATA_SHOWN])}"


class TaskRejected(TaskError):
    """The server answered the submit with ERROR, and has not created a job.

    It is retriable if the queue was full (``QUEUE_ERROR``); any other refusal would be repeated.

    :ivar code: the server's error code, such as ``"QUEUE_ERROR"``; empty if the server left the submit unanswered, in
        which case ``__cause__`` is a `RequestUnsupported`.
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
    """The connection was lost between the submit and the outcome, or the server forgot the job.

    After a lost connection the job may be queued, running or done: the client can't find out. ``__cause__`` is the
    error that ended the connection. It is retriable: the job may then run twice.

    :ivar acknowledged: whether JOB_CREATED had arrived. If not, the server may never have received the task.
    :ivar forgotten: whether the connection is up, but the server answered that it does not know the job, whose end it
        never reported (H1 to H3, H5, H9).
    """

    _retriable = True

    def __init__(self, task: TaskInfo, *, acknowledged: bool, forgotten: bool = False) -> None:
        super().__init__(task)
        self.acknowledged = acknowledged
        self.forgotten = forgotten

    def _what(self) -> str:
        if self.forgotten:
            return "job forgotten by the server"
        when = "after" if self.acknowledged else "before"
        text = f"connection lost {when} JOB_CREATED"
        return f"{text} ({self.__cause__})" if self.__cause__ else text


class TaskTimedOut(TaskError):
    """The ``timeout`` of the task passed, all attempts together. The job may still run."""

    def _what(self) -> str:
        return "timed out"
