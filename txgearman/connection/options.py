"""What one connection keeps to: its time-outs and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..packets import MAX_PACKET_SIZE
from ..validation import MAX_PAYLOAD, positive_seconds

__all__ = [
    "SERVER_TIMEOUT",
    "JOB_CHECK_INTERVAL",
    "CONNECT_TIMEOUT",
    "DEFAULT_CONNECTION_OPTIONS",
    "ConnectionOptions",
]

CONNECT_TIMEOUT: Final = 10.0
SERVER_TIMEOUT: Final = 30.0
JOB_CHECK_INTERVAL: Final = 60.0


@dataclass(frozen=True)
class ConnectionOptions:
    """What a connection to a job server puts up with.

    :ivar connect_timeout: seconds from the start of an attempt to connect to the server's first good answer.
    :ivar server_timeout: seconds that a server may owe answers and give none. Then its connection is dropped: answers
        come in order, so that no other would come either. A workload must get through in this time; while something
        large comes from the server, that counts for an answer.
    :ivar heartbeat: seconds of silence after which an idle server is asked whether it is there. If it says nothing for
        as long again, its connection is dropped. None: it is not asked. Nor is it while more is written than it takes,
        since the question would wait behind that.
    :ivar job_check_interval: seconds of silence about a foreground task after which a client asks whether the server
        still has its job.
    :ivar max_packet_size: bytes that the body of a packet from the server may have.
    :raises TypeError, ValueError: for what can't be meant.
    """

    connect_timeout: float = CONNECT_TIMEOUT
    server_timeout: float = SERVER_TIMEOUT
    heartbeat: float | None = None
    job_check_interval: float = JOB_CHECK_INTERVAL
    max_packet_size: int = MAX_PACKET_SIZE

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "server_timeout", "job_check_interval"):
            positive_seconds(name, getattr(self, name))
        if self.heartbeat is not None:
            positive_seconds("heartbeat", self.heartbeat)
        size = self.max_packet_size
        if type(size) is not int or not 1 <= size <= MAX_PAYLOAD:
            raise ValueError(f"max_packet_size must be from 1 to {MAX_PAYLOAD} bytes, not {size!r}")


DEFAULT_CONNECTION_OPTIONS: Final = ConnectionOptions()
