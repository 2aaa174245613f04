"""A client in a process of its own, for tests that look at how much memory it takes.

    python -m tests.memory_process stream ADDRESS nothing|waiting|sharing
    python -m tests.memory_process stalled ADDRESS TASKS BYTES

It prints lines of words: what it is about to do, then numbers. The memory that the process has grown by is in KiB.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater, react
from twisted.protocols.basic import LineOnlyReceiver

from txgearman import ClientStopped, GearmanClient

SLOW: Final = 0.005
"""Seconds that the consumer of a stream takes for each chunk."""


def resident_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


class Console(LineOnlyReceiver):
    """Whoever started the process."""

    delimiter = b"\n"

    def __init__(self) -> None:
        self.line: Deferred[bytes] = Deferred()

    def lineReceived(self, line: bytes) -> None:
        self.line.callback(line)


async def stream(reactor: Any, address: str, beside: str) -> None:
    """Iterate slowly over one job's data.

    :param beside: which other task the client has: none, one that nobody does, or one of the same job.
    """
    async with GearmanClient([address]) as client:
        await client.echo()
        before, most, size, chunks = resident_kib(), 0, 0, 0
        if beside != "nothing":
            function = {"waiting": "nobody_does_this", "sharing": "big"}[beside]
            other = client.add_task(function, unique="u", on_data=lambda *_: None)
            other.addErrback(lambda failure: failure.trap(ClientStopped))
        async with aclosing(client.stream("big", unique="u")) as parts:
            async for part in parts:
                size += len(part)
                chunks += 1
                most = max(most, resident_kib())
                await deferLater(reactor, SLOW)
    print("grown", most - before, "bytes", size, "chunks", chunks, flush=True)


async def stalled(reactor: Any, address: str, count: str, size: str) -> None:
    """Submit tasks with one workload to a server that is stopped when we say that we are ready."""
    console = Console()
    StandardIO(console)
    workload = bytes(int(size))
    outcomes: dict[type[BaseException], int] = {}

    def count_outcome(failure: Any) -> None:
        outcomes[failure.type] = outcomes.get(failure.type, 0) + 1

    client = GearmanClient([address], server_timeout=600.0)
    await client.echo()
    print("ready", flush=True)
    await console.line
    before = resident_kib()
    for _ in range(int(count)):
        client.add_task("work", workload).addErrback(count_outcome)
    await deferLater(reactor, 0.5)
    grown = resident_kib() - before
    written = client.servers[0].in_flight
    await client.stopService()
    print("grown", grown, "written", written, "stopped", outcomes.get(ClientStopped, 0), flush=True)


def main(reactor: Any, mode: str, *arguments: str) -> Deferred[None]:
    modes: dict[str, Any] = {"stream": stream, "stalled": stalled}
    return ensureDeferred(modes[mode](reactor, *arguments))


if __name__ == "__main__":
    import sys

    react(main, sys.argv[1:])
