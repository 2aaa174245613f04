"""A job server for tests, `MemoryJobServer`, and a network for tests, `FaultProxy`.

The job server does what gearmand 1.1.20 does; each test of the contract suite (``tests/contract``) is run against
both. It differs from gearmand on purpose in this, and in nothing else that is known:

- What crashes gearmand closes the connection, and what gearmand does with memory that it has freed is not imitated:
  a packet type of 0x80000000 and more, a CAN_DO_TIMEOUT of twenty digits, a submit with the unique of a job whose
  function was dropped (here it is a new job), a reduce job with a unique of more than 63 bytes (here the worker gets 63
  of them), several jobs that time out at the same moment.
- A packet with too few arguments closes the connection; gearmand takes the next request for the rest of it, and then
  closes.
- A request that gearmand leaves unanswered or closes the connection for, by chance, is left unanswered: a status of 64
  bytes and more, an EPOCH beyond 64 bits, a WORK_STATUS with a denominator of 12 characters and more.
- A job for a time is due at that time; gearmand looks at its watch once a second.
- Handles are never cut, and so never the same (H10): ``job_handle_prefix`` has a limit.
- A client that closes only its sending side gets the answers to what it has sent.
- Lists are in the order of submits, not of a hash; ``version`` ends in ``-txgearman``; ``workers`` shows the number of
  the connection, not of a file descriptor.
- There is no queue on disk, no TLS, and no thread: ``getpid`` is the process that uses it.

Numbers such as H10 are those of docs/what-servers-do.md, which lists what servers were measured to do.
"""

from __future__ import annotations

from .faults import SUBMITS, Fault, HeldAnswers
from .memory_transport import MemoryAddress, MemoryEndpoint
from .protocol import JobServerProtocol
from .proxy import FaultProxy
from .relay import Direction
from .server import MemoryJobServer
from .taken_job import TakenJob
from .trial import JobServerMixin

__all__ = [
    "SUBMITS",
    "Direction",
    "Fault",
    "FaultProxy",
    "HeldAnswers",
    "JobServerMixin",
    "JobServerProtocol",
    "MemoryAddress",
    "MemoryEndpoint",
    "MemoryJobServer",
    "TakenJob",
]
