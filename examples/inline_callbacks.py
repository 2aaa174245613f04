"""A client in ``inlineCallbacks`` code: a background job, and then a foreground one that reports its progress.

    python examples/inline_callbacks.py 127.0.0.1:4730

Needs a gearmand there, and examples/worker.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater, react
from txgearman import GearmanClient, JobHandle, Task

TEXT = b"row, row, row your boat\n" * 1000


def show_status(task: Task, numerator: int, denominator: int) -> None:
    print(f"{numerator} of {denominator} lines, {task}")


@inlineCallbacks
def main(reactor: Any, server: str) -> Generator[Deferred[Any], Any, None]:
    client = GearmanClient([server], timeout=30)
    try:
        handle: JobHandle = yield client.add_task_bg("reverse", b"some day")
        print("in the background:", handle)
        status = yield client.get_status(handle)
        while status.known:  # a server forgets a job that is done
            yield deferLater(reactor, 0.05)
            status = yield client.get_status(handle)
        print("done")

        result: bytes = yield client.add_task("wordcount", TEXT, on_status=show_status)
        print(json.loads(result))
    finally:
        yield client.stopService()


if __name__ == "__main__":
    react(main, sys.argv[1:])
