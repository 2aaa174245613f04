"""A worker in plain Python that gives workloads back, as fast as Python can, for the clients that are measured.

python -m benchmarks.echo_worker PORT
"""

from __future__ import annotations

import socket
import struct
import sys

HEADER = struct.Struct(">4sII")
GRAB_JOB = HEADER.pack(b"\0REQ", 9, 0)
PRE_SLEEP = HEADER.pack(b"\0REQ", 4, 0)
NOOP, NO_JOB, JOB_ASSIGN, WORK_COMPLETE = 6, 10, 11, 13
WIDTH = 256
"""Requests for a job that are out at a time."""


def main(port: int) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(HEADER.pack(b"\0REQ", 1, 4) + b"echo" + GRAB_JOB)
    print("READY", flush=True)
    out, rest = 1, b""
    while data := connection.recv(256 * 1024):
        answers, answered, slept, rest = work(rest + data)
        out -= answered
        if out == 0 and slept:
            answers.append(PRE_SLEEP)
        elif not slept or answers:
            answers.append(GRAB_JOB * (WIDTH - out))
            out = WIDTH
        if answers:
            connection.sendall(b"".join(answers))


def work(data: bytes) -> tuple[list[bytes], int, bool, bytes]:
    """Do the jobs in there.

    :return: what to send, how many requests were answered, whether one found no job and no wake-up came after it, and
        what is not whole yet.
    """
    answers: list[bytes] = []
    answered, slept, offset = 0, False, 0
    while len(data) - offset >= 12:
        _, kind, size = HEADER.unpack_from(data, offset)
        end = offset + 12 + size
        if end > len(data):
            break
        if kind == JOB_ASSIGN:
            handle, _, workload = data[offset + 12 : end].split(b"\0", 2)
            result = handle + b"\0" + workload
            answers.append(HEADER.pack(b"\0REQ", WORK_COMPLETE, len(result)) + result)
        slept = kind == NO_JOB
        answered += kind != NOOP
        offset = end
    return answers, answered, slept, data[offset:]


if __name__ == "__main__":
    main(int(sys.argv[1]))
