"""A Gearman client and worker for Twisted. See `GearmanClient`, `GearmanWorker` and `GearmanAdmin`."""

from .admin import UNKNOWN_FUNCTION, Answers, GearmanAdmin
from .admin_text import FunctionStatus, JobInfo, PriorityStatus, WorkerInfo
from .client import GearmanClient
from .client_protocol import GearmanClientFactory, GearmanClientProtocol
from .errors import (
    UNANSWERED,
    ClientStopped,
    GearmanError,
    JobEnded,
    JobFailed,
    NoServersAvailable,
    ProtocolError,
    ServerError,
    TaskError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
    TLSError,
)
from .jobs import Job
from .limits import Limits
from .servers import ServerInfo, ServerState
from .tasks import BackgroundOptions, JobHandle, JobStatus, Priority, Task, TaskOptions
from .tls import TLSOptions
from .worker import GearmanWorker

__version__ = "1.0.0"

__all__ = [
    "UNANSWERED",
    "UNKNOWN_FUNCTION",
    "Answers",
    "BackgroundOptions",
    "ClientStopped",
    "FunctionStatus",
    "GearmanAdmin",
    "GearmanClient",
    "GearmanClientFactory",
    "GearmanClientProtocol",
    "GearmanError",
    "GearmanWorker",
    "Job",
    "JobEnded",
    "JobFailed",
    "JobHandle",
    "JobInfo",
    "JobStatus",
    "Limits",
    "NoServersAvailable",
    "Priority",
    "PriorityStatus",
    "ProtocolError",
    "ServerError",
    "ServerInfo",
    "ServerState",
    "TLSError",
    "TLSOptions",
    "Task",
    "TaskError",
    "TaskException",
    "TaskFailed",
    "TaskLost",
    "TaskOptions",
    "TaskRejected",
    "TaskTimedOut",
    "WorkerInfo",
]
