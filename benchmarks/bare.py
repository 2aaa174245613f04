"""Twisted alone: a Deferred for each job, and nothing else that a client is for.

As one would first write it: nothing is checked, cancelled, retried or refused, and no server ever goes away. What a
client for Twisted does beyond that, it does in the time that it takes longer.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from zope.interface import implementer

HEADER = struct.Struct(">QI")
REQUEST, RESPONSE = (int.from_bytes(magic, "big") << 32 for magic in (b"\0REQ", b"\0RES"))
SUBMIT_JOB, SUBMIT_JOB_BG = REQUEST | 7, REQUEST | 18
JOB_CREATED, WORK_COMPLETE = RESPONSE | 8, RESPONSE | 13
AT_ONCE = 1000


@implementer(IPushProducer)
class BareClient(Protocol):
    """One connection, with what the benchmarks call of a client."""

    transport: Any

    def __init__(self) -> None:
        self._waiting: deque[tuple[bytes, bool, Deferred[Any]]] = deque()  # for the transport to take more
        self._sent: deque[tuple[bool, Deferred[Any]]] = deque()
        self._jobs: dict[bytes, Deferred[Any]] = {}
        self._kept: list[bytes] | None = None
        self._rest = b""
        self._paused = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)

    def add_task(self, function: str, workload: bytes) -> Deferred[bytes]:
        return self._submit(SUBMIT_JOB, function, workload, False)

    def add_task_bg(self, function: str, workload: bytes) -> Deferred[bytes]:
        return self._submit(SUBMIT_JOB_BG, function, workload, True)

    def echo(self) -> Deferred[None]:
        return succeed(None)

    def stopService(self) -> None:
        self.transport.loseConnection()

    def _submit(self, kind: int, function: str, workload: bytes, background: bool) -> Deferred[bytes]:
        deferred: Deferred[bytes] = Deferred()
        head = function.encode() + b"\0\0"
        packet = HEADER.pack(kind, len(head) + len(workload)) + head + workload
        if self._paused:
            self._waiting.append((packet, background, deferred))
        else:
            self._sent.append((background, deferred))
            if self._kept is None:
                self.transport.write(packet)
            else:
                self._kept.append(packet)
        return deferred

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self._waiting and not self._paused:
            packets = []
            for _ in range(min(AT_ONCE, len(self._waiting))):
                packet, background, deferred = self._waiting.popleft()
                packets.append(packet)
                self._sent.append((background, deferred))
            self.transport.writeSequence(packets)

    def dataReceived(self, data: bytes) -> None:
        data = self._rest + data
        self._kept = []
        offset, end = 0, len(data)
        while offset + HEADER.size <= end:
            kind, size = HEADER.unpack_from(data, offset)
            start = offset + HEADER.size
            if start + size > end:
                break
            offset = start + size
            self._answered(kind, data[start:offset])
        self._rest = data[offset:]
        kept, self._kept = self._kept, None
        if kept:
            self.transport.writeSequence(kept)

    def _answered(self, kind: int, body: bytes) -> None:
        if kind == JOB_CREATED:
            background, deferred = self._sent.popleft()
            if background:
                deferred.callback(body)
            else:
                self._jobs[body] = deferred
        else:
            assert kind == WORK_COMPLETE
            handle, result = body.split(b"\0", 1)
            self._jobs.pop(handle).callback(result)


def connect(reactor: Any, port: int) -> Deferred[BareClient]:
    """Connect to a job server on this machine."""
    connected: Deferred[BareClient] = connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), BareClient())
    return connected
