"""Raw connections of the contract suite to a job server of any kind: the codec, and nothing else of the library.

Each test is run against gearmand, `MemoryJobServer` on a port of another process, and `MemoryJobServer` in memory. No
test may depend on which of them it is.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txgearman.packets import ECHO_REQ, ECHO_RES, HEADER_SIZE, JOB_CREATED, PACKET_TYPES, RES, Packet, PacketType
from txgearman.testing import MemoryJobServer

from ..daemons import Gearmand
from ..programs import gearmand_version

TIMEOUT: Final = 10.0
"""Seconds to wait for an answer that a server sends at once."""


class Peer(ABC):
    """One connection to a job server. The test decides whether it is a client's, a worker's or an administrator's."""

    def __init__(self) -> None:
        self._received = b""
        self._echoes = 0

    # Different for each kind of connection.

    @abstractmethod
    def send(self, *packets: bytes) -> None:
        """Write these bytes in one piece."""

    @abstractmethod
    def _more(self) -> bytes:
        """Wait for more bytes, and return them; none if the server has closed the connection."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    # Common to all.

    def _await(self, count: int) -> bytes:
        while len(self._received) < count:
            more = self._more()
            assert more, f"the server closed the connection; before: {self._received!r}"
            self._received += more
        return self._received

    def receive(self) -> Packet:
        """Return the next packet from the server, with as many arguments as its type has."""
        header = self._await(HEADER_SIZE)
        assert header[:4] == RES, f"not a packet from a server: {header!r}"
        packet_type = PACKET_TYPES[int.from_bytes(header[4:8], "big")]
        end = HEADER_SIZE + int.from_bytes(header[8:12], "big")
        body = self._await(end)[HEADER_SIZE:end]
        self._received = self._received[end:]
        count = len(packet_type.arguments)
        return packet_type, body.split(b"\0", count - 1) if count else []

    def ask(self, packet: bytes) -> Packet:
        """Send a request, and return the next packet."""
        self.send(packet)
        return self.receive()

    def submit(self, packet: bytes) -> bytes:
        """Send a submit that is answered by JOB_CREATED, and return the job's handle."""
        packet_type, (handle,) = self.ask(packet)
        assert packet_type is JOB_CREATED
        return handle

    def so_far(self) -> list[Packet]:
        """Return every packet that the server has sent to this connection up to now.

        A server processes requests in order: those of another connection are processed once that connection has had
        an answer, so call this there first.
        """
        self._echoes += 1
        mark = b"so far %d" % self._echoes
        self.send(ECHO_REQ.request(mark))
        packets = []
        while (packet := self.receive()) != (ECHO_RES, [mark]):
            packets.append(packet)
        return packets

    def receive_type(self, packet_type: PacketType) -> list[bytes]:
        """Return the arguments of the next packet, which must be of this type."""
        found, arguments = self.receive()
        assert found is packet_type, f"{found} {arguments}"
        return arguments

    def line(self) -> bytes:
        """Return the next line of text, with its end."""
        while b"\n" not in self._received:
            self._await(len(self._received) + 1)
        line, end, self._received = self._received.partition(b"\n")
        return line + end

    def command(self, text: bytes) -> bytes:
        """Send a command of the text protocol, without its line end; return its answer of one line, with its end."""
        self.send(text + b"\r\n")
        return self.line()

    def table(self, text: bytes) -> list[bytes]:
        """Send a command whose answer is a list; return its lines, sorted, without their ends and the final "."."""
        self.send(text + b"\r\n")
        lines = []
        while (line := self.line()) != b".\n":
            lines.append(line.removesuffix(b"\n"))
        return sorted(lines)

    def is_closed(self) -> bool:
        """Wait until the server closes the connection or sends something, and return which."""
        return not (self._received or self._more())


class SocketPeer(Peer):
    """Connection over TCP."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *packets: bytes) -> None:
        self._socket.sendall(b"".join(packets))

    def _more(self) -> bytes:
        try:
            return self._socket.recv(1 << 20)
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self._socket.close()


class _Received(Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class MemoryPeer(Peer):
    """Connection in memory, on a clock that need not be advanced."""

    def __init__(self, clock: Clock, endpoint: Any) -> None:
        super().__init__()
        self._clock = clock
        connected: list[_Received] = []
        endpoint.connect(Factory.forProtocol(_Received)).addCallback(connected.append)
        clock.advance(0)
        (self._protocol,) = connected
        self._transport: Any = self._protocol.transport

    def send(self, *packets: bytes) -> None:
        self._transport.write(b"".join(packets))
        self._clock.advance(0)

    def _more(self) -> bytes:
        self._clock.advance(0)
        data, self._protocol.data = self._protocol.data, b""
        assert data or self._protocol.lost, f"the server has sent no more than {self._received!r}"
        return data

    def close(self) -> None:
        self._transport.loseConnection()
        self._clock.advance(0)


class Server(ABC):
    """A job server that was started for the test."""

    kind: str

    release = "1.1"
    """The release of gearmand that it is, or behaves as."""

    def __init__(self) -> None:
        self._peers: list[Peer] = []

    def peer(self) -> Peer:
        """Open a new connection."""
        peer = self._connect()
        self._peers.append(peer)
        return peer

    def close(self) -> None:
        """Close the connections, and stop the server."""
        for peer in self._peers:
            peer.close()
        self._stop()

    def until(self, condition: Callable[[], object]) -> None:
        """Poll a condition until it is true: a server notices only after a while that a connection was closed."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, "the condition was never true"

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Let this many seconds pass on the server's clock, for what the server does by time."""

    @abstractmethod
    def _connect(self) -> Peer: ...

    @abstractmethod
    def _stop(self) -> None: ...


class RealServer(Server):
    """gearmand, in another process."""

    kind = "gearmand"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._gearmand = Gearmand(*options)
        self._gearmand.start()
        self.release = ".".join(gearmand_version().split(".")[:2])

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _connect(self) -> Peer:
        return SocketPeer(self._gearmand.port)

    def _stop(self) -> None:
        self._gearmand.stop()


class MemoryServers:
    """A process that starts a `MemoryJobServer` on a free port for each line of options it reads."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.memory_servers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
        )

    def start(self, *options: str) -> int:
        """Start one; return its port."""
        assert self._process.stdin
        assert self._process.stdout
        print(*options, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class MemoryServerOnTCP(Server):
    """`MemoryJobServer` on a port, in another process."""

    kind = "memory on TCP"

    def __init__(self, servers: MemoryServers, *options: str) -> None:
        super().__init__()
        self._port = servers.start(*options)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _connect(self) -> Peer:
        return SocketPeer(self._port)

    def _stop(self) -> None:
        """Do nothing: it ends with its process."""


class MemoryServer(Server):
    """`MemoryJobServer` in this process, without a port."""

    kind = "memory"

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.server = MemoryJobServer(**options)
        self.clock = self.server.clock
        self._endpoint = self.server.endpoint()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def _connect(self) -> Peer:
        return MemoryPeer(self.clock, self._endpoint)

    def _stop(self) -> None:
        self.clock.advance(0)
        assert not self.clock.getDelayedCalls()
