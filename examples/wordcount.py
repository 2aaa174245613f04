"""Count the words of text files, by jobs.

    python examples/wordcount.py FILE... [--server HOST[:PORT]] [--top N]

Each file is cut into pieces between its lines, and each piece is a job for the function ``wordcount``. Without
``--server``, the job server is one in memory, and nothing else has to run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, FirstError, ensureDeferred, gatherResults
from twisted.internet.task import react
from txgearman import GearmanClient, GearmanError, Task, TaskException
from txgearman.testing import MemoryJobServer
from worker import make_worker

PIECE: Final = 64 * 1024
"""Bytes of a job's text, up to the end of the line."""

IN_FLIGHT: Final = 8
"""Jobs at a time, so that a file of any length takes little memory."""


class Unusable(Exception):
    """Something that the run needs is not as it should be."""


class Progress:
    """How much of the files is counted, reported on stderr as the workers report it."""

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
    server = options.server or MemoryJobServer(reactor).endpoint()
    worker = make_worker(server)
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


def ending_with(reactor: Any, work: Deferred[Any]) -> Deferred[Any]:
    """Work that is cancelled when a signal stops the reactor, which then waits until all is cleared away."""
    ended: Deferred[None] = Deferred()

    def stop() -> Deferred[None]:
        work.cancel()
        return ended

    def tell(outcome: object) -> object:
        ended.callback(None)
        return outcome

    reactor.addSystemEventTrigger("before", "shutdown", stop)
    return work.addBoth(tell)


async def main(reactor: Any, options: argparse.Namespace) -> None:
    try:
        counts = await ending_with(reactor, ensureDeferred(run(reactor, options)))
    except CancelledError:
        sys.exit("wordcount: stopped")
    except (GearmanError, OSError, ValueError, Unusable) as error:
        sys.exit(f"wordcount: {error}")
    print(table(counts, options.top))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count the words of text files, by Gearman jobs.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="text in UTF-8")
    parser.add_argument("--server", metavar="HOST[:PORT]", help="a job server; without it, one in memory")
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
