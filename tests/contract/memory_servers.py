"""Starts a `MemoryJobServer` on a free port for each line of options that it reads, and prints the port."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver

from txgearman.testing import MemoryJobServer
from txgearman.testing.__main__ import job_server_options, parse_arguments

reactor: Any = global_reactor


class Starter(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        options = job_server_options(parse_arguments(line.decode().split()))
        port = reactor.listenTCP(0, MemoryJobServer(reactor, **options), interface="127.0.0.1")
        self.sendLine(b"%d" % port.getHost().port)


if __name__ == "__main__":
    StandardIO(Starter())
    reactor.run()
