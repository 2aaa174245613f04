"""A job server for tests: `MemoryJobServer`."""

from __future__ import annotations

from .faults import Fault, HeldAnswers
from .protocol import JobServerProtocol
from .server import MemoryJobServer
from .taken import TakenJob
from .trial import JobServerMixin
from .wire import MemoryAddress, MemoryEndpoint

__all__ = [
    "Fault",
    "HeldAnswers",
    "JobServerMixin",
    "JobServerProtocol",
    "MemoryAddress",
    "MemoryEndpoint",
    "MemoryJobServer",
    "TakenJob",
]
