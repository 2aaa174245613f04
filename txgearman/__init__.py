"""A Gearman client for Twisted. See `GearmanClient`."""

from .client import GearmanClient
from .client_protocol import GearmanClientFactory, GearmanClientProtocol
from .errors import (
    UNANSWERED,
    ClientStopped,
    GearmanError,
    NoServersAvailable,
    ProtocolError,
    ServerError,
    TaskError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from .servers import ServerInfo, ServerState
from .tasks import JobHandle, JobStatus, Priority, Task

__version__ = "0.1.0"

__all__ = [
    "UNANSWERED",
    "ClientStopped",
    "GearmanClient",
    "GearmanClientFactory",
    "GearmanClientProtocol",
    "GearmanError",
    "JobHandle",
    "JobStatus",
    "NoServersAvailable",
    "Priority",
    "ProtocolError",
    "ServerError",
    "ServerInfo",
    "ServerState",
    "Task",
    "TaskError",
    "TaskException",
    "TaskFailed",
    "TaskLost",
    "TaskRejected",
    "TaskTimedOut",
]
