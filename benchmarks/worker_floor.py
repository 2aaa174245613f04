"""The floor of workers: one in plain Python that parses no more of a job than its handle.

No worker in Python can be faster: each read is answered by one write, which has the empty result of each of its jobs
and a request for another one in its place.

python -m benchmarks.worker_floor --port PORT --jobs 20000
"""

from __future__ import annotations

import socket
import struct

from .common import Stopwatch, arguments

HEADER = struct.Struct(">4sII")
CAN_DO, GRAB_JOB, NO_JOB, JOB_ASSIGN, WORK_COMPLETE = 1, 9, 10, 11, 13
CHUNK = 256 * 1024

GRAB = HEADER.pack(b"\0REQ", GRAB_JOB, 0)
BEFORE_HANDLE = [HEADER.pack(b"\0REQ", WORK_COMPLETE, size + 1) for size in range(256)]
"""What precedes a handle in the result of a job, by the size of the handle."""
AFTER_HANDLE = b"\0" + GRAB


def work(connection: socket.socket, jobs: int, window: int) -> None:
    """Do so many jobs, and request so many at a time."""
    function = b"echo"
    connection.sendall(HEADER.pack(b"\0REQ", CAN_DO, len(function)) + function + GRAB * window)
    unpack = struct.Struct(">4xII").unpack_from
    rest = b""
    while jobs > 0:
        data = connection.recv(CHUNK)
        if not data:
            raise ConnectionError("the server has closed the connection")
        if rest:
            data = rest + data
        results: list[bytes] = []
        offset, end = 0, len(data)
        while offset + 12 <= end:
            kind, size = unpack(data, offset)
            start = offset + 12
            stop = start + size
            if stop > end:
                break
            if kind == JOB_ASSIGN:
                handle = data[start : data.index(0, start)]
                results += BEFORE_HANDLE[len(handle)], handle, AFTER_HANDLE
            elif kind != NO_JOB:
                raise ValueError(f"packet {kind}")
            offset = stop
        rest = data[offset:]
        connection.sendall(b"".join(results))
        jobs -= len(results) // 3


def main() -> None:
    options = arguments()
    connection = socket.create_connection(("127.0.0.1", options.port[0]))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    watch = Stopwatch()
    watch.start()
    work(connection, options.jobs, options.window)
    watch.stop()
    watch.report(options.jobs)


if __name__ == "__main__":
    main()
