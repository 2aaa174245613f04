"""The floor: a client in plain Python that packs its packets beforehand and only counts what comes back.

No client in Python can be faster than that; how near one comes does not depend on the machine.
"""

from __future__ import annotations

import select
import socket
import struct
import time

from .common import Stopwatch, arguments, payloads

HEADER = struct.Struct(">4xII")
SUBMIT_JOB, JOB_CREATED, WORK_COMPLETE, SUBMIT_JOB_BG = 7, 8, 13, 18
CHUNK = 256 * 1024


class Floor:
    """One connection, and how far it is."""

    def __init__(self, port: int, packets: list[bytes], background: bool, window: int, watch: Stopwatch) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.setblocking(False)
        self._each = len(packets[0])
        self._out = memoryview(b"".join(packets))
        self._last = JOB_CREATED if background else WORK_COMPLETE
        self._window = window
        self._jobs = len(packets)
        self._watch = watch
        self._sent = self._done = self._skip = 0
        self._rest = b""
        self._submitted = 0.0

    def run(self) -> None:
        """Do all jobs."""
        poll = select.poll()
        while self._done < self._jobs:
            limit = min(self._jobs, self._done + self._window) * self._each
            full = self._send(limit)
            poll.register(self._connection, select.POLLIN | (select.POLLOUT if full else 0))
            if poll.poll()[0][1] & select.POLLIN:
                self._count(self._connection.recv(CHUNK))

    def _send(self, limit: int) -> bool:
        """Send up to there; whether the socket took less."""
        while self._sent < limit:
            self._submitted = time.perf_counter()
            try:
                self._sent += self._connection.send(self._out[self._sent : min(limit, self._sent + CHUNK)])
            except BlockingIOError:
                return True
        return False

    def _count(self, data: bytes) -> None:
        """Count the jobs whose last packet this has; of a body no more than its length is looked at."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        if self._rest:
            data = self._rest + data
        offset, last = self._skip, len(data) - 12
        while offset <= last:
            kind, size = HEADER.unpack_from(data, offset)
            if kind == self._last:
                self._done += 1
                if self._window == 1:
                    self._watch.seconds.append(time.perf_counter() - self._submitted)
            offset += 12 + size
        self._skip = max(0, offset - len(data))
        self._rest = data[offset:]


def main() -> None:
    options = arguments()
    background = options.workload == "background"
    head = b"echo\0\0"
    kind = SUBMIT_JOB_BG if background else SUBMIT_JOB
    packets = [
        struct.pack(">4sII", b"\0REQ", kind, len(head) + len(payload)) + head + payload
        for payload in payloads(options.jobs, options.payload)
    ]
    window = {"latency": 1, "window": options.window}.get(options.workload, options.jobs)
    watch = Stopwatch()
    floor = Floor(options.port[0], packets, background, window, watch)
    watch.start()
    floor.run()
    watch.stop()
    watch.report(options.jobs)


if __name__ == "__main__":
    main()
