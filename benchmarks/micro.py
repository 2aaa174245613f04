"""CPU time of the parts of a job, without server and socket: ``python -m benchmarks.micro``."""

from __future__ import annotations

import timeit
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgearman import Task
from txgearman.client.task import TaskOwner
from txgearman.connection.timers import DeadlineQueue
from txgearman.packets import JOB_CREATED, RES, SUBMIT_JOB, WORK_COMPLETE, Decoder

JOBS = 1000
PAYLOAD = b"0123456789012345"
OWNER = TaskOwner()
ANSWERS = b"".join(
    [JOB_CREATED.response(b"H:host:%d" % number) for number in range(JOBS)]
    + [WORK_COMPLETE.response(b"H:host:%d" % number, PAYLOAD) for number in range(JOBS)]
)


def deferreds() -> None:
    for _ in range(JOBS):
        deferred: Deferred[bytes] = Deferred()
        deferred.addCallbacks(len, str)
        deferred.callback(b"")


def cancellable() -> None:
    for _ in range(JOBS):
        deferred: Deferred[bytes] = Deferred(nothing)
        deferred.addCallbacks(len, str)
        deferred.callback(b"")


def nothing(deferred: Deferred[bytes]) -> None:
    """Canceller that all Deferreds share, as in the library."""


def tasks() -> None:
    for _ in range(JOBS):
        Task("echo", PAYLOAD)._begin(OWNER)


def encode() -> None:
    for _ in range(JOBS):
        SUBMIT_JOB.request(b"echo", b"", PAYLOAD)


def decode() -> None:
    Decoder(RES).feed(ANSWERS)


def deadlines() -> None:
    kept: DeadlineQueue[int] = DeadlineQueue(Clock(), print)
    for number in range(JOBS):
        kept.add(number, 30.0)
    for number in range(JOBS):
        kept.discard(number)


PARTS: dict[str, Callable[[], None]] = {
    "fire a Deferred with a callback": deferreds,
    "fire a Deferred with a canceller": cancellable,
    "make a Task and its Deferred": tasks,
    "encode a submit": encode,
    "decode two answers": decode,
    "add and discard a time-out": deadlines,
}


def main() -> None:
    for name, part in PARTS.items():
        seconds = min(timeit.repeat(part, number=1, repeat=50)) / JOBS
        print(f"{name:40} {seconds * 1e6:6.2f} µs")


if __name__ == "__main__":
    main()
