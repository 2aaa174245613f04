"""Calls of AMP, Twisted's own protocol for requests: what one costs, as a measure that users of Twisted know.

python -m benchmarks.amp_calls PORT

is the server that gives workloads back.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols import amp

__all__ = ["connect"]


class Echo(amp.Command):
    arguments: ClassVar = [(b"workload", amp.String())]
    response: ClassVar = [(b"workload", amp.String())]


class AMPServer(amp.AMP):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        super().connectionMade()

    @Echo.responder
    def echo(self, workload: bytes) -> dict[str, bytes]:
        return {"workload": workload}


class AMPClient(amp.AMP):
    """One connection, with what the benchmarks call of a client."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        super().connectionMade()

    def add_task(self, function: str, workload: bytes) -> Deferred[bytes]:
        answer: Deferred[dict[str, bytes]] = self.callRemote(Echo, workload=workload)
        return answer.addCallback(lambda found: found["workload"])

    def echo(self) -> Deferred[None]:
        return succeed(None)

    def stopService(self) -> None:
        self.transport.loseConnection()


def connect(reactor: Any, port: int) -> Deferred[AMPClient]:
    """Connect to a server of this module on this machine."""
    connected: Deferred[AMPClient] = connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), AMPClient())
    return connected


def serve(reactor: Any) -> Deferred[None]:
    """Serve until the process is ended."""
    reactor.listenTCP(int(sys.argv[1]), Factory.forProtocol(AMPServer), interface="127.0.0.1")
    return Deferred()


if __name__ == "__main__":
    react(serve)
