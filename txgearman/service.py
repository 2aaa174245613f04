"""What a client and a worker have in common: they are services, and they take some of the same arguments."""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service

from .tasks import MAX_FUNCTION, name_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_BYTES: Final = 2**32 - 2**16
"""Of a payload: what a header can tell, and room for the names beside it."""


class GearmanService(Service):
    """A service that is an async context manager as well, which starts and stops it."""

    def __init__(self, prefix: str | bytes, reactor: Any, connect_timeout: float, max_packet_size: int) -> None:
        """
        :raises TypeError, ValueError: for an argument that can't be meant.
        """
        if reactor is None:
            from twisted.internet import reactor
        prefix_bytes = name_bytes("prefix", prefix, MAX_FUNCTION)
        if type(max_packet_size) is not int or not 1 <= max_packet_size <= MOST_BYTES:
            raise ValueError(f"max_packet_size must be from 1 to {MOST_BYTES} bytes, not {max_packet_size!r}")
        self._prefix = prefix_bytes + b"\t" if prefix_bytes else b""
        self._reactor = reactor
        self._connect_timeout = positive_seconds("connect_timeout", connect_timeout)
        self._max_packet_size = max_packet_size

    async def __aenter__(self) -> Self:
        self.startService()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stopped: Any = self.stopService()
        await stopped


def positive_seconds(name: str, value: float) -> float:
    """Check a number of seconds.

    :raises TypeError: it is no number.
    :raises ValueError: it is not more than 0, or not finite.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
    return value


def check_count(name: str, value: int) -> None:
    """Refuse what is no whole number from 1.

    :raises TypeError: it is no `int`.
    :raises ValueError: it is less than 1.
    """
    if type(value) is not int:
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
