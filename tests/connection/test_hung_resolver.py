"""A resolver that hangs, in a process of its own: that of a machine whose DNS servers are silent."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

PROGRAM = """
import socket
import threading
import time

socket.getaddrinfo = lambda *_, **__: threading.Event().wait()

from twisted.internet import task, threads

from txgearman import GearmanClient


async def main(reactor):
    client = GearmanClient([f"jobs-{number}" for number in range(30)])
    client.startService()
    await task.deferLater(reactor, 0)
    await threads.deferToThread(print, "the application has a thread", flush=True)
    await client.stopService()
    print(time.time(), flush=True)


task.react(main)
"""

pytestmark = pytest.mark.process


@pytest.mark.guarantee(number=11)
def test_process_ends_and_application_has_its_threads_though_resolver_hangs() -> None:
    """30 names are more than the threads of the reactor's pool."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    application, stopped = output.splitlines()
    assert application == "the application has a thread"
    assert time.time() - float(stopped) < 5
    assert process.returncode == 0
