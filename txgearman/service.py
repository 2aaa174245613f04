"""What a client and a worker have in common: they are services, and they take some of the same arguments."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service

from .connection.options import ConnectionOptions
from .connection.reactor import Reactor, reactor_or_default
from .validation import MAX_FUNCTION, name_bytes

if TYPE_CHECKING:
    from typing_extensions import Self


class GearmanService(Service):
    """A service that is an async context manager as well, which starts and stops it."""

    def __init__(self, prefix: str | bytes, reactor: Reactor | None, connection_options: ConnectionOptions) -> None:
        """
        :raises TypeError, ValueError: for an argument that can't be meant.
        """
        prefix_bytes = name_bytes("prefix", prefix, MAX_FUNCTION)
        self._prefix = prefix_bytes + b"\t" if prefix_bytes else b""
        self._reactor = reactor_or_default(reactor)
        self._connection_options = connection_options

    async def __aenter__(self) -> Self:
        self.startService()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stopped: Any = self.stopService()
        await stopped
