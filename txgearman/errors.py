"""Every exception of txgearman.

::

    GearmanError
    ├── ProtocolError            the server sent what is not Gearman, or more than max_packet_size
    ├── ServerError              an ERROR packet, or an ERR in the text protocol: .code, .text
    ├── TLSError                 TLS with a server failed: its certificate, ours, or no TLS at all
    ├── NoServersAvailable       no job server could be reached: .reasons, one per server
    ├── ClientStopped            the client was stopped
    ├── JobFailed                raised by a worker's function: the job fails, without an exception
    ├── JobEnded                 a worker's function went on with a job that had ended
    └── TaskError                .task
        ├── TaskFailed           WORK_FAIL
        │   └── TaskException    WORK_EXCEPTION: .data
        ├── TaskRejected         the server answered the submit with ERROR: .code, .text
        ├── TaskLost             the connection went while the job was out, or its server forgot it: .acknowledged
        └── TaskTimedOut         its timeout passed

These tell what happened outside. What a caller did wrong (a NUL in a function's name, say) is told at the call,
by the builtin ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "UNANSWERED",
    "ClientStopped",
    "GearmanError",
    "JobEnded",
    "JobFailed",
    "NoServersAvailable",
    "ProtocolError",
    "ServerError",
    "TLSError",
    "TaskError",
    "TaskException",
    "TaskFailed",
    "TaskLost",
    "TaskRejected",
    "TaskTimedOut",
]

UNANSWERED = "UNANSWERED"
"""The ``code`` of a request that the server left without an answer: our word, no server sends it.
geard does so with SUBMIT_JOB_EPOCH and GET_STATUS_UNIQUE (H6)."""


class GearmanError(Exception):
    """The base of every exception here."""


class ProtocolError(GearmanError):
    """The server sent what is not Gearman, an answer that nobody asked for, or more than ``max_packet_size``.

    Its connection is aborted; see ``last_error`` in ``GearmanClient.servers``.
    """


class ServerError(GearmanError):
    """The server answered a request with an ERROR packet, or a command of the text protocol with ERR.

    :ivar code: the server's word for it, such as ``"UNKNOWN_OPTION"``; geard sends numbers (C3).
        ``"ERR"`` where the text protocol has none.
    :ivar text: its explanation; may be empty.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.text else self.code


class TLSError(GearmanError):
    """TLS with a server failed. The text says what is wrong; ``__cause__`` is the error of Twisted or OpenSSL.

    The connection is tried again, after a delay; see ``last_error`` in ``GearmanClient.servers``.
    """


class NoServersAvailable(GearmanError):
    """No job server could be reached.

    :ivar reasons: the last error of each server that was asked for, by its address.
    """

    def __init__(self, reasons: Mapping[str, BaseException]) -> None:
        super().__init__(reasons)
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        return "; ".join(f"{address}: {reason}" for address, reason in self.reasons.items())


class ClientStopped(GearmanError):
    """The client was stopped, before the call or while it was under way."""

    def __init__(self, text: str = "the client was stopped") -> None:
        super().__init__(text)


class JobFailed(GearmanError):
    """For a worker's functions to raise: the job ends in WORK_FAIL, which tells the client no reason.

    Whatever else they raise is sent as WORK_EXCEPTION. The text of this one is for the worker's log.
    """


class JobEnded(GearmanError):
    """A worker's function went on with a job that has ended: was completed, timed out, lost its connection ..."""


class TaskError(GearmanError):
    """A task ended without a result.

    :ivar task: the ``Task``. (Typed ``Any``, since this module knows no other.)
    """

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"{self.task}: {self._what()}"

    def _what(self) -> str:
        return "failed"


class TaskFailed(TaskError):
    """The worker said WORK_FAIL. It carries no reason."""


class TaskException(TaskFailed):
    """The worker said WORK_EXCEPTION.

    :ivar data: what the worker sent with it, in whatever form the worker chose.
    """

    def __init__(self, task: Any, data: bytes) -> None:
        super().__init__(task)
        self.data = data

    def _what(self) -> str:
        return f"exception: {self.data[:200].decode('utf-8', 'backslashreplace')}"


class TaskRejected(TaskError):
    """The server answered the submit with ERROR: there is no job.

    :ivar code: such as ``"QUEUE_ERROR"``; `UNANSWERED` where the server leaves such a submit without an answer.
    :ivar text: the server's explanation.
    """

    def __init__(self, task: Any, code: str, text: str) -> None:
        super().__init__(task)
        self.code = code
        self.text = text

    def _what(self) -> str:
        return f"rejected: {self.code}: {self.text}" if self.text else f"rejected: {self.code}"


class TaskLost(TaskError):
    """The connection went after the task was written to it and before its outcome came; or the server forgot the job.

    After a connection that went, the job may be queued, running, or done; nobody here can know. ``__cause__`` is what
    ended the connection.

    :ivar acknowledged: whether JOB_CREATED had come. If not, the server may never have seen the task.
    :ivar forgotten: whether the connection is there, but the server says that it has no such job, and never told its
        end (H1 to H3, H5, H9).
    """

    def __init__(self, task: Any, acknowledged: bool, forgotten: bool = False) -> None:
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
    """The task's ``timeout`` passed. The job may still run."""

    def _what(self) -> str:
        return "timed out"
