"""A client in ``async def`` code.

    python examples/async_await.py 127.0.0.1:4730

Needs a gearmand there, and examples/worker.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.task import react
from txgearman import GearmanClient, TaskException

VERSES = [b"the rose is red", b"the violet is blue", b"the honey is sweet"]


async def main(reactor: Any, server: str) -> None:
    async with GearmanClient([server], timeout=30) as client:
        # One job, one result.
        print(await client.add_task("reverse", b"stressed"))

        # Several at a time: the Deferreds are there before the first result is.
        results = await gatherResults([client.add_task("wordcount", verse) for verse in VERSES])
        for verse, result in zip(VERSES, results, strict=True):
            print(verse, json.loads(result))

        # What the worker raised.
        try:
            await client.add_task("wordcount", b"\xff is not UTF-8")
        except TaskException as error:
            print("refused:", error.data.decode())


if __name__ == "__main__":
    react(main, sys.argv[1:])
