"""A small Gearman worker on ``txgearman.packets``, with two functions to try a client on.

    python examples/worker.py --server 127.0.0.1:4730

``reverse`` turns its workload round; ``wordcount`` takes UTF-8 text and returns, as JSON, how often each word is in it.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater, react

from txgearman.packets import (
    CAN_DO,
    GRAB_JOB,
    JOB_ASSIGN,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    RES,
    WORK_COMPLETE,
    WORK_EXCEPTION,
    WORK_STATUS,
    Decoder,
)

WORD: Final = re.compile(r"\w+(?:['\u2019]\w+)*")

LINES_AT_A_TIME: Final = 100


class Job:
    """What a function is called with."""

    def __init__(self, worker: Worker, handle: bytes, workload: bytes) -> None:
        self._worker = worker
        self._handle = handle
        self.workload = workload

    def status(self, numerator: int, denominator: int) -> Deferred[None]:
        """Tell how far the job is. Await it: that gives the reactor time to send."""
        return self._worker.send_status(self._handle, numerator, denominator)


async def reverse(job: Job) -> bytes:
    """Turn the workload round."""
    return job.workload[::-1]


async def wordcount(job: Job) -> bytes:
    """Count the words of a text, in lower case, with a status for every few lines."""
    lines = job.workload.decode().splitlines()
    counts: Counter[str] = Counter()
    for start in range(0, len(lines), LINES_AT_A_TIME):
        piece = lines[start : start + LINES_AT_A_TIME]
        counts.update(words("\n".join(piece)))
        await job.status(start + len(piece), len(lines))
    return json.dumps(counts, ensure_ascii=False).encode()


def words(text: str) -> Iterator[str]:
    """The words of a text: what ``\\w`` takes for one, with the apostrophes inside it, whatever its case."""
    for match in WORD.finditer(unicodedata.normalize("NFC", text)):
        yield match[0].casefold()


FUNCTIONS: Final[dict[bytes, Callable[[Job], Awaitable[bytes]]]] = {b"reverse": reverse, b"wordcount": wordcount}


class Worker(Protocol):
    """A worker's connection to one job server. It does one job after the other."""

    transport: ITransport

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._decoder = Decoder(RES)

    def connectionMade(self) -> None:
        for name in FUNCTIONS:
            self.transport.write(CAN_DO.request(name))
        self.transport.write(GRAB_JOB.request())

    def dataReceived(self, data: bytes) -> None:
        for packet_type, arguments in self._decoder.feed(data):
            if packet_type is JOB_ASSIGN:
                ensureDeferred(self._work(*arguments))
            elif packet_type is NO_JOB:
                self.transport.write(PRE_SLEEP.request())
            elif packet_type is NOOP:  # a job has come while it slept
                self.transport.write(GRAB_JOB.request())
        if self._decoder.error is not None:
            self.transport.loseConnection()

    async def _work(self, handle: bytes, function: bytes, workload: bytes) -> None:
        try:
            result = await FUNCTIONS[function](Job(self, handle, workload))
        except Exception as error:  # the client is told, and the worker goes on
            answer = WORK_EXCEPTION.request(handle, str(error).encode())
        else:
            answer = WORK_COMPLETE.request(handle, result)
        self.transport.write(answer + GRAB_JOB.request())

    def send_status(self, handle: bytes, numerator: int, denominator: int) -> Deferred[None]:
        """See `Job.status`."""
        self.transport.write(WORK_STATUS.request(handle, b"%d" % numerator, b"%d" % denominator))
        return deferLater(self._reactor, 0)


def host_and_port(server: str) -> tuple[str, int]:
    """Read ``host``, ``host:port`` or ``[v6]:port``."""
    address = urlsplit(f"//{server}")
    return address.hostname or "localhost", address.port or 4730


def server_address(text: str) -> str:
    """For argparse: refuse what `host_and_port` can't read."""
    host_and_port(text)
    return text


def worker_service(reactor: Any, server: str | IStreamClientEndpoint) -> ClientService:
    """Make a worker that is connected to a server from its start to its stop, anew whenever that is needed."""
    endpoint = HostnameEndpoint(reactor, *host_and_port(server)) if isinstance(server, str) else server
    factory = Factory.forProtocol(lambda: Worker(reactor))
    return ClientService(endpoint, factory, retryPolicy=lambda failures: min(0.1 * failures, 10.0), clock=reactor)


async def main(reactor: Any, server: str) -> None:
    worker = worker_service(reactor, server)
    worker.startService()
    await worker.whenConnected()
    print(f"{b', '.join(FUNCTIONS).decode()}: at your service on {server}", flush=True)
    await Deferred()  # until a signal stops the reactor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A Gearman worker with the functions reverse and wordcount.")
    parser.add_argument(
        "--server", type=server_address, default="127.0.0.1:4730", metavar="HOST[:PORT]", help="default: %(default)s"
    )
    react(main, [parser.parse_args().server])
