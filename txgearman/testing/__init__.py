"""The test kit: an in-memory job server, `MemoryJobServer`, and a proxy that simulates network faults, `FaultProxy`.

The job server behaves as gearmand 1.1.20 does; each test of the contract suite (``tests/contract``) is run against
both. It deliberately differs from gearmand in the following, and in nothing else that is known:

- It closes the connection for what crashes gearmand, and does not imitate what gearmand does with memory that it has
  freed: a packet type of 0x80000000 and more, a CAN_DO_TIMEOUT of twenty digits, a submit with the unique of a job
  whose function was dropped (here it is a new job), a reduce job with a unique of more than 63 bytes (here the worker
  gets 63 of them), several jobs that time out at the same moment.
- It closes the connection for a packet with too few arguments; gearmand first takes the next request for the rest of
  it.
- It leaves unanswered what gearmand, by chance, either leaves unanswered or closes the connection for: a status of 64
  bytes and more, an EPOCH beyond 64 bits, a WORK_STATUS with a denominator of 12 characters and more.
- It starts a scheduled job at its time; gearmand checks the time once a second.
- It never truncates handles, so that they are unique (H10): ``job_handle_prefix`` has a limit.
- It answers what a client has sent, even if the client has closed its sending side.
- It lists jobs and functions in the order of submits, not of a hash; ``version`` ends in ``-txgearman``; ``workers``
  shows the number of the connection, not of a file descriptor.
- It has no queue on disk, no TLS, and no threads: ``getpid`` returns the process that uses it.

Numbers such as H10 are those of docs/what-servers-do.md, which lists what servers were measured to do.
"""

from __future__ import annotations

from .core import SubmittedJob
from .faults import SUBMITS, Fault, HeldAnswers
from .gearmand import Gearmand, GearmandMissing
from .interface import AnyJobServer, PlayedJob
from .memory_transport import MemoryAddress, MemoryEndpoint
from .proxy import FaultProxy
from .relay import Direction
from .server import MemoryJobServer
from .taken_job import TakenJob
from .trial import JobServerMixin, JobServerOnGearmandMixin, JobServerOnPortMixin

__all__ = [
    "SUBMITS",
    "AnyJobServer",
    "Direction",
    "Fault",
    "FaultProxy",
    "Gearmand",
    "GearmandMissing",
    "HeldAnswers",
    "JobServerMixin",
    "JobServerOnGearmandMixin",
    "JobServerOnPortMixin",
    "MemoryAddress",
    "MemoryEndpoint",
    "MemoryJobServer",
    "PlayedJob",
    "SubmittedJob",
    "TakenJob",
]
