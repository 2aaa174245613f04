"""A Gearman client, worker and admin client for Twisted: `GearmanClient`, `GearmanWorker` and `GearmanAdmin`."""

from .admin.admin import Answers, GearmanAdmin
from .admin.commands import FunctionStatus, JobInfo, PriorityStatus, WorkerInfo
from .client.client import GearmanClient
from .client.protocol import GearmanClientFactory, GearmanClientProtocol
from .client.remote_function import RemoteFunction
from .client.task import BackgroundOptions, Task, TaskOptions
from .connection.options import ConnectionOptions
from .connection.pool import ServerInfo, ServerState
from .connection.tls import TLSOptions
from .errors import (
    BatchFailed,
    ClientStopped,
    GearmanError,
    JobEnded,
    JobFailed,
    NoServersAvailable,
    ProtocolError,
    RequestUnsupported,
    ResultInvalid,
    ServerError,
    TaskError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
    TLSError,
    UnknownFunction,
    WorkloadInvalid,
)
from .models import JobHandle, JobStatus, Priority, TaskInfo
from .observers import JobOutcome, Observer, TaskOutcome
from .retry import Retry
from .worker.job import Job
from .worker.worker import GearmanWorker

__version__ = "1.0.0"

__all__ = [
    "Answers",
    "BackgroundOptions",
    "BatchFailed",
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
    "JobOutcome",
    "JobStatus",
    "ConnectionOptions",
    "NoServersAvailable",
    "Observer",
    "Priority",
    "PriorityStatus",
    "ProtocolError",
    "RequestUnsupported",
    "RemoteFunction",
    "ResultInvalid",
    "Retry",
    "ServerError",
    "ServerInfo",
    "ServerState",
    "TLSError",
    "TLSOptions",
    "Task",
    "TaskError",
    "TaskException",
    "TaskFailed",
    "TaskInfo",
    "TaskLost",
    "TaskOptions",
    "TaskOutcome",
    "TaskRejected",
    "TaskTimedOut",
    "UnknownFunction",
    "WorkerInfo",
    "WorkloadInvalid",
]
