"""Options of a connection: its time-outs and sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..packets import MAX_PACKET_SIZE
from ..validation import MAX_PAYLOAD, check_callback, positive_seconds

__all__ = [
    "SERVER_TIMEOUT",
    "JOB_CHECK_INTERVAL",
    "CONNECT_TIMEOUT",
    "DEFAULT_CONNECTION_OPTIONS",
    "ConnectionOptions",
    "HEARTBEAT",
]

CONNECT_TIMEOUT: Final = 10.0
SERVER_TIMEOUT: Final = 30.0
JOB_CHECK_INTERVAL: Final = 60.0
HEARTBEAT: Final = 30.0
"""Default of clients and workers. It is less than the time after which proxies and NATs drop a silent connection: 50 s
is the shortest that is usual."""


@dataclass(frozen=True)
class ConnectionOptions:
    """Options of a connection to a job server.

    :ivar connect_timeout: seconds from the start of a connection attempt until the server must have sent its first
        good answer. They start again, once, if code blocks the reactor at their end.
    :ivar server_timeout: seconds that the server may leave a request unanswered. Then the connection is dropped, since
        answers arrive in order and no other would arrive either. A workload must be transmitted in this time. A large
        packet from the server counts as an answer while it arrives.
    :ivar heartbeat: seconds of silence after which, at the latest, the server is sent an ECHO_REQ, whatever is in
        flight; if it stays silent for as long again, the connection is dropped. None disables it. It is suspended while
        the write buffer is full, since the ECHO_REQ would wait behind the buffered data.
    :ivar job_check_interval: seconds of silence about a foreground task after which a client asks whether the server
        still has its job.
    :ivar max_packet_size: maximum number of bytes in the body of a packet from the server.
    :ivar reconnect_delay: called with the number of attempts to connect that have failed since the last good answer,
        and of the loss, so with 1 at first; returns the seconds until the next attempt. None for up to 2 s at first,
        and delays that grow to half a minute. What it raises is logged, and the default holds.
    :raises TypeError, ValueError: an option is invalid.
    """

    connect_timeout: float = CONNECT_TIMEOUT
    server_timeout: float = SERVER_TIMEOUT
    heartbeat: float | None = None
    job_check_interval: float = JOB_CHECK_INTERVAL
    max_packet_size: int = MAX_PACKET_SIZE
    reconnect_delay: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "server_timeout", "job_check_interval"):
            positive_seconds(name, getattr(self, name))
        if self.heartbeat is not None:
            positive_seconds("heartbeat", self.heartbeat)
        check_callback("reconnect_delay", self.reconnect_delay)
        size = self.max_packet_size
        if type(size) is not int or not 1 <= size <= MAX_PAYLOAD:
            raise ValueError(f"max_packet_size must be from 1 to {MAX_PAYLOAD} bytes, not {size!r}")


DEFAULT_CONNECTION_OPTIONS: Final = ConnectionOptions()
