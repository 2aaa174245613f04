"""A Gearman worker with three functions to try a client on.

    python examples/worker.py --server 127.0.0.1:4730

``reverse`` turns its workload round; ``wordcount`` takes UTF-8 text and returns, as JSON, how often each word is in it;
``lines`` sends each line of its workload as a part of the result.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater, react
from twisted.python.log import startLogging
from txgearman import GearmanWorker, Job

WORD: Final = re.compile(r"\w+(?:['\u2019]\w+)*")

LINES_AT_A_TIME: Final = 100


def reverse(job: Job) -> bytes:
    """Turn the workload round."""
    return job.workload[::-1]


async def wordcount(job: Job) -> bytes | None:
    """Count the words of a text, in lower case, with a status for every few lines."""
    from twisted.internet import reactor

    try:
        lines = job.workload.decode().splitlines()
    except UnicodeDecodeError as error:  # the client's mistake, and not for the worker's log
        job.send_exception(str(error).encode())
        return None
    counts: Counter[str] = Counter()
    for start in range(0, len(lines), LINES_AT_A_TIME):
        piece = lines[start : start + LINES_AT_A_TIME]
        counts.update(words("\n".join(piece)))
        job.send_status(start + len(piece), len(lines))
        await deferLater(reactor, 0)  # gives others their turn, and the reactor time to send
    return json.dumps(counts, ensure_ascii=False).encode()


def lines(job: Job) -> Iterator[bytes]:
    """The lines, one by one."""
    yield from job.workload.splitlines()


def words(text: str) -> Iterator[str]:
    """The words of a text: what ``\\w`` takes for one, with the apostrophes inside it, whatever its case."""
    for match in WORD.finditer(unicodedata.normalize("NFC", text)):
        yield match[0].casefold()


def make_worker(server: str | IStreamClientEndpoint) -> GearmanWorker:
    """A worker with these functions."""
    worker = GearmanWorker([server], client_id="example")
    worker.register_function("reverse", reverse)
    worker.register_function("lines", lines)
    worker.register_function("wordcount", wordcount)
    return worker


async def main(reactor: Any, server: str) -> None:
    startLogging(sys.stderr, setStdout=False)
    worker = make_worker(server)
    worker.startService()
    # A signal stops the reactor, which first waits until the jobs that run are done.
    reactor.addSystemEventTrigger("before", "shutdown", worker.stopService)
    await worker.when_ready()
    print(f"ready: reverse, lines and wordcount at {server}", flush=True)
    await Deferred()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A Gearman worker with the functions reverse and wordcount.")
    parser.add_argument("--server", default="127.0.0.1:4730", metavar="HOST[:PORT]", help="default: %(default)s")
    react(main, [parser.parse_args().server])
