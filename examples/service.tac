"""A Twisted application that has its work done by Gearman jobs: send it a line, and it sends the line back reversed.

    GEARMAN_SERVER=127.0.0.1:4730 twistd -ny examples/service.tac
    telnet 127.0.0.1 8007

Needs a gearmand there, and examples/worker.py. LISTEN tells where to listen, as the description of an endpoint.
"""

from __future__ import annotations

import os

from twisted.application.service import Application
from twisted.application.strports import service
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from txgearman import GearmanClient, GearmanError

log = Logger()


class Reverser(LineReceiver):
    """Answers one line after the other."""

    def __init__(self, client: GearmanClient) -> None:
        self.client = client

    def lineReceived(self, line: bytes) -> None:
        self.pauseProducing()  # so that answers stay in order, and nobody has more than one job out
        deferred = self.client.add_task("reverse", line)
        deferred.addErrback(self.explain)
        deferred.addCallback(self.sendLine)
        deferred.addErrback(lambda failure: log.failure("no answer", failure))
        deferred.addCallback(lambda _: self.resumeProducing())

    def explain(self, failure: Failure) -> bytes:
        failure.trap(GearmanError)
        return f"ERROR {failure.getErrorMessage()}".encode()


class ReverserFactory(Factory):
    """Has the one client for all connections."""

    def __init__(self, client: GearmanClient) -> None:
        self.client = client

    def buildProtocol(self, addr: object) -> Reverser:
        return Reverser(self.client)


application = Application("reverser")

client = GearmanClient([os.environ.get("GEARMAN_SERVER", "127.0.0.1:4730")], timeout=30)
client.setServiceParent(application)

listener = service(os.environ.get("LISTEN", "tcp:8007:interface=127.0.0.1"), ReverserFactory(client))
listener.setServiceParent(application)
