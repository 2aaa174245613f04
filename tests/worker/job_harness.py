"""A job on a connection that only records what is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, succeed

from txgearman import (
    Job,
)
from txgearman.worker.job import Assignment

reactor: Any = global_reactor


H1 = b"H:host:1"


HANG = 3.0
"""Seconds after which a thread counts as hanging."""


class ServerConnection:
    """Records what is to be sent, and from which thread."""

    def __init__(self, its_reactor: Any = reactor) -> None:
        self.factory = SimpleNamespace(name="server", reactor=its_reactor)
        self.sent: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self.drained: Deferred[None] = succeed(None)

    def when_drained(self) -> Deferred[None]:
        return self.drained

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert name.startswith("work_"), name

        def send(handle: bytes, *arguments: Any) -> None:
            assert handle == H1
            self.threads.add(threading.get_ident())
            self.sent.append((name.removeprefix("work_"), *arguments))

        return send

    @property
    def data(self) -> list[bytes]:
        """The data that was sent; nothing else must have been."""
        assert {event[0] for event in self.sent} <= {"data"}
        return [event[1] for event in self.sent]


def make_job(connection: ServerConnection | None = None, function: str | bytes = "reverse") -> Job:
    return Job(connection or ServerConnection(), function, Assignment(H1, b"pre\treverse", b"u", b"r", b"a\0b"))
