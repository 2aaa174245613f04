"""Count the words of text files, by jobs.

    python examples/wordcount.py FILE... [--server HOST[:PORT]] [--top N]

Each file is cut into pieces between its lines, and each piece is a job for the function ``wordcount``. Without
``--server``, a gearmand is started for the time of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, FirstError, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError, ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure
from worker import server_address, worker_service

from txgearman import GearmanClient, GearmanError, Task, TaskException

PIECE: Final = 64 * 1024
"""Bytes of a job's text, up to the end of the line."""

IN_FLIGHT: Final = 8
"""Jobs at a time, so that a file of any length takes little memory."""


class Unusable(Exception):
    """Something that the run needs is not as it should be."""


class Gearmand(ProcessProtocol):
    """A job server of our own. It ends before the reactor does, whatever ends that."""

    transport: IProcessTransport

    def __init__(self) -> None:
        self._ended: Deferred[None] = Deferred()

    async def start(self, reactor: Any) -> str:
        """Start it on a free port; return its address once it listens."""
        program = shutil.which("gearmand", path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")
        if program is None:
            raise Unusable("no gearmand here: apt-get install gearman-job-server, or name one by --server")
        port = free_port()
        command = [program, "--listen=127.0.0.1", f"--port={port}", "--log-file=none"]
        reactor.spawnProcess(self, program, command, env=os.environ, childFDs={0: "w", 1: "r", 2: 2})
        reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        while not await listens(reactor, port):
            if self._ended.called:
                raise Unusable(f"{program} did not start")
            await deferLater(reactor, 0.02)
        return f"127.0.0.1:{port}"

    def _stop(self) -> Deferred[None]:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("TERM")
        return self._ended

    def processEnded(self, reason: Failure) -> None:
        self._ended.callback(None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def listens(reactor: Any, port: int) -> bool:
    try:
        connection: Any = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Protocol())
    except ConnectError:
        return False
    connection.transport.loseConnection()
    return True


class Progress:
    """How much of the files is counted, told on stderr as the workers tell it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._finished = 0
        self._partly: dict[Task, int] = {}

    def on_status(self, task: Task, numerator: int, denominator: int) -> None:
        self._partly[task] = len(task.workload) * numerator // max(denominator, 1)
        self._tell()

    def on_complete(self, task: Task, result: bytes) -> None:
        self._partly.pop(task, None)
        self._finished += len(task.workload)
        self._tell()

    def _tell(self) -> None:
        counted = self._finished + sum(self._partly.values())
        print(f"\rcounted {counted:,} of {self._total:,} bytes", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._finished or self._partly:
            print(file=sys.stderr)


def read_pieces(paths: list[str]) -> Iterator[tuple[str, bytes]]:
    """The pieces of all files, each with its file's name, read when they are wanted."""
    for path in paths:
        with open(path, "rb") as file:
            while lines := file.readlines(PIECE):
                yield path, b"".join(lines)


async def count_words(client: GearmanClient, paths: list[str], progress: Progress) -> Counter[str]:
    """Have all pieces counted, and add up."""
    pieces = read_pieces(paths)
    total: Counter[str] = Counter()

    async def take_turns() -> None:
        for path, piece in pieces:
            try:
                result = await client.add_task(
                    "wordcount", piece, on_status=progress.on_status, on_complete=progress.on_complete
                )
            except TaskException as error:
                raise Unusable(f"{path}: {error.data.decode('utf-8', 'replace')}") from error
            total.update(json.loads(result))

    try:
        await gatherResults([ensureDeferred(take_turns()) for _ in range(IN_FLIGHT)], consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        progress.end()
    return total


async def run(reactor: Any, options: argparse.Namespace) -> Counter[str]:
    """Count with all that it takes: a job server, a worker, a client. All of it is stopped at the end."""
    progress = Progress(sum(os.stat(path).st_size for path in options.files))
    server = options.server or await Gearmand().start(reactor)
    worker = worker_service(reactor, server)
    if options.worker:
        worker.startService()
    try:
        async with GearmanClient([server]) as client:
            return await count_words(client, options.files, progress)
    finally:
        await worker.stopService()


def table(counts: Counter[str], top: int) -> str:
    """The most frequent words, equally frequent ones by the alphabet, and the totals."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [f"{count:9,}  {word}" for word, count in ranked[:top]]
    return "\n".join([*rows, f"{counts.total():9,}  words in all, {len(counts):,} different ones"])


async def main(reactor: Any, options: argparse.Namespace) -> None:
    try:
        counts = await run(reactor, options)
    except (GearmanError, OSError, Unusable) as error:
        sys.exit(f"wordcount: {error}")
    print(table(counts, options.top))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count the words of text files, by Gearman jobs.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="text in UTF-8")
    parser.add_argument(
        "--server", type=server_address, metavar="HOST[:PORT]", help="a job server; without it, one is started"
    )
    parser.add_argument(
        "--no-worker", dest="worker", action="store_false", help="leave the jobs to workers that the server has"
    )
    parser.add_argument("--top", type=int, default=20, metavar="N", help="words in the table (default: %(default)s)")
    options = parser.parse_args()
    if options.top < 0:
        parser.error("--top must not be negative")
    if not (options.server or options.worker):
        parser.error("--no-worker needs a --server that has workers")
    return options


if __name__ == "__main__":
    react(main, [parse_arguments()])
