"""Code that blocks the reactor for longer than an attempt may take, such as a program that loads a model at its start.

The server is in a thread, so that it answers meanwhile.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.task import deferLater

from txgearman import GearmanClient
from txgearman.packets import ECHO_REQ, ECHO_RES, GET_STATUS, OPTION_REQ, OPTION_RES, REQ, STATUS_RES, Decoder

reactor: Any = global_reactor

CONNECT_TIMEOUT = 0.05
BLOCKED = 0.1


class ThreadedServer:
    """A job server for one connection, which answers requests about jobs, options and echoes.

    :ivar asked: set once it has received a request.
    :ivar may_answer: it answers nothing before this is set.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._listening, self._listening.accept()[0] as connection:
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        decoder = Decoder(REQ)
        while data := connection.recv(1000):
            self.asked.set()
            self.may_answer.wait(10)
            for packets in decoder.packets(data):
                for packet_type, arguments in packets:
                    if packet_type is GET_STATUS:
                        connection.sendall(STATUS_RES.response(arguments[0], b"0", b"0", b"0", b"0"))
                    else:
                        answer = {ECHO_REQ: ECHO_RES, OPTION_REQ: OPTION_RES}[packet_type]
                        connection.sendall(answer.response(*arguments))


def block(server: ThreadedServer) -> None:
    """Let the server answer, and block the reactor until the time of the attempt is over."""
    server.may_answer.set()
    time.sleep(BLOCKED)


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_server_is_reached_though_reactor_is_blocked_from_start(host: str) -> None:
    """The socket is connected then, but the reactor has not noticed it: nothing was sent."""
    server = ThreadedServer()
    address = f"{host}:{server.port}"
    async with GearmanClient([address], connect_timeout=CONNECT_TIMEOUT) as client:
        block(server)
        assert list(await client.echo()) == [address]


@pytest.mark.guarantee(number=10)
async def test_answer_that_arrives_while_reactor_is_blocked_is_read_before_attempt_times_out() -> None:
    server = ThreadedServer()
    address = f"127.0.0.1:{server.port}"
    async with GearmanClient([address], connect_timeout=CONNECT_TIMEOUT) as client:
        echo = client.echo()
        while not server.asked.is_set():
            await deferLater(reactor, 0.001)
        reactor.callFromThread(block, server)  # before the timers of that turn
        assert list(await echo) == [address]
