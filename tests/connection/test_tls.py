"""TLS: its options, client and worker over it on real servers, and its errors.

stunnel speaks it in front of gearmand, since Debian's has none (docs/gearman.md §12); geard has its own.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import OpenSSL
import pytest
from cryptography.hazmat.primitives import serialization
from OpenSSL.SSL import SysCallError, ZeroReturnError
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.ssl import Certificate, CertificateOptions, TLSVersion, optionsForClientTLS
from twisted.internet.task import Clock
from twisted.protocols.portforward import ProxyFactory

from txgearman import (
    ClientStopped,
    GearmanAdmin,
    GearmanClient,
    GearmanWorker,
    Job,
    NoServersAvailable,
    ServerState,
    TaskLost,
    TLSError,
    TLSOptions,
)
from txgearman.connection.protocol import CLOSE_TIMEOUT
from txgearman.connection.tls import explain_error

from ..certificates import FUTURE, PAST, Authority
from ..daemons import Geard, Gearmand, Stunnel
from ..test_gearmand import outcome, state, until

reactor: Any = global_reactor

PATIENCE: Final = 10.0
"""Seconds that what is soon to be may take on a busy machine."""


class Certificates:
    """Whose certificates there are in these tests."""

    def __init__(self, directory: Path) -> None:
        self.ours = Authority(directory / "ours")
        self.theirs = Authority(directory / "theirs")
        self.server = self.ours.issue("localhost", "127.0.0.1", "::1")
        self.client = self.ours.issue("worker@example.com")
        self.stranger = self.theirs.issue("worker@example.com")
        self.options = TLSOptions(trust_roots=self.ours.roots)
        self.with_client = TLSOptions(trust_roots=self.ours.roots, certificate=self.client)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def stunnel(gearmand: Gearmand, certificates: Certificates) -> Iterator[Stunnel]:
    """One in front of the test's gearmand."""
    with Stunnel(gearmand.address, certificates.server) as server:
        yield server


def reverse(job: Job) -> bytes:
    return job.workload[::-1]


def reversing(address: str, tls: TLSOptions, **options: Any) -> GearmanWorker:
    worker = GearmanWorker([address], tls=tls, **options)
    worker.register_function("reverse", reverse)
    return worker


# Work over TLS.


async def test_administration_through_stunnel(stunnel: Stunnel, certificates: Certificates) -> None:
    """Its certificate is trusted only because of the options."""
    address = f"tls:{stunnel.address}"
    async with GearmanAdmin([address], tls=certificates.options) as admin:
        assert (await admin.version()).one().startswith(("1.", "2."))
    async with GearmanAdmin([address]) as admin:
        answers = await admin.version()
    assert not answers.results
    assert "certificate verify failed" in str(answers.errors[address])


@pytest.mark.guarantee(number=15)
async def test_client_and_worker_through_stunnel(stunnel: Stunnel, certificates: Certificates) -> None:
    """One job, many at once, and one of many records of TLS."""
    address = f"tls:{stunnel.address}"
    large = bytes(range(256)) * 12_000
    loads = [b"%d" % number for number in range(2000)]
    tls = certificates.options
    async with reversing(address, tls, max_jobs=50), GearmanClient([address], tls=tls) as client:
        assert await client.add_task("reverse", b"abc") == b"cba"
        results = await gatherResults([client.add_task("reverse", load) for load in loads])
        assert results == [load[::-1] for load in loads]
        assert await client.add_task("reverse", large) == large[::-1]
        handle = await client.add_task_bg("reverse", b"abc")
        assert handle.server == client.servers[0].address == address
        assert not (await client.get_status(handle)).numerator


@pytest.mark.daemon("gear")
async def test_client_certificates_with_geard(certificates: Certificates) -> None:
    """It wants them, and speaks TLS 1.2 alone."""
    files = {"ca": certificates.ours.roots, "cert": certificates.server, "key": certificates.server}
    with Geard(*(f"--ssl-{name}={path}" for name, path in files.items())) as geard:
        address = f"tls:{geard.address}"
        tls = certificates.with_client
        async with reversing(address, tls, max_jobs=5), GearmanClient([address], tls=tls) as client:
            loads = [b"%d" % number for number in range(200)]
            results = await gatherResults([client.add_task("reverse", load) for load in loads])
            assert results == [load[::-1] for load in loads]


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.mark.parametrize("version", ["24.2.1", OpenSSL.__version__])
async def test_client_certificates_with_stunnel(
    version: str, gearmand: Gearmand, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, one from an intermediate CA, whose certificate must be sent along. What pyOpenSSL takes has changed."""
    monkeypatch.setattr(OpenSSL, "__version__", version)
    client_file = certificates.ours.issue_through_intermediate("worker@example.com")
    tls = replace(certificates.with_client, certificate=client_file)
    wanted = [f"CAfile = {certificates.ours.roots}", "verifyChain = yes"]
    with Stunnel(gearmand.address, certificates.server, *wanted) as stunnel:
        async with GearmanClient([f"tls:{stunnel.address}"], tls=tls) as client:
            assert list(await client.echo()) == [f"tls:{stunnel.address}"]


async def test_trust_roots_of_platform_are_the_default(
    stunnel: Stunnel, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL reads this variable at each new context."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ours.roots))
    async with GearmanClient([f"tls:{stunnel.address}"]) as client:
        assert await client.echo()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.theirs.roots))
    async with GearmanClient([f"tls:{stunnel.address}"]) as client:
        with pytest.raises(NoServersAvailable, match="TLS: certificate verify failed"):
            await client.echo()


async def test_server_name_can_differ_from_host(gearmand: Gearmand, certificates: Certificates) -> None:
    certificate = certificates.ours.issue("jobs.example.com")
    with Stunnel(gearmand.address, certificate) as stunnel:
        for name in ("jobs.example.com", "JOBS.example.com"):
            tls = replace(certificates.options, server_name=name)
            async with GearmanClient([f"tls:{stunnel.address}"], tls=tls) as client:
                assert await client.echo()


async def test_host_name_is_resolved_and_verified(stunnel: Stunnel, certificates: Certificates) -> None:
    async with GearmanClient([f"tls:localhost:{stunnel.port}"], tls=certificates.options) as client:
        assert await client.echo()


async def test_certificate_options_apply_to_connection(gearmand: Gearmand, certificates: Certificates) -> None:
    with Stunnel(gearmand.address, certificates.server, "sslVersion = TLSv1.2") as stunnel:
        tls = replace(certificates.options, certificate_options={"raiseMinimumTo": TLSVersion.TLSv1_3})
        async with GearmanClient([f"tls:{stunnel.address}"], tls=tls) as client:
            with pytest.raises(NoServersAvailable, match="the server supports other versions of TLS"):
                await client.echo()


# Faults.


class Warp(Clock):
    """Real sockets, and a time that passes when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.connects = 0

    def connectTCP(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802  # the reactor's
        self.connects += 1
        return reactor.connectTCP(*arguments, **options)


async def a_minute_of_failures(address: str, tls: TLSOptions | None) -> list[Exception]:
    """Return the errors of the attempts of a client that can't connect, in a minute.

    Each is followed by a delay that grows: there are some seven of them.
    """
    clock = Warp()
    client = GearmanClient([address], tls=tls, reactor=clock)
    client.startService()
    reported = []
    while clock.seconds() < 60:
        await until(lambda: state(client) is ServerState.WAITING)
        (info,) = client.servers
        assert info.last_error is not None
        assert info.next_attempt is not None
        reported.append(info.last_error)
        clock.advance(info.next_attempt)
    task = client.add_task("reverse")
    await until(lambda: state(client) is ServerState.WAITING)
    error = await outcome(task)
    assert isinstance(error, NoServersAvailable)
    assert str(reported[-1]) in str(error)
    await client.stopService()
    assert 5 <= len(reported) <= 9
    assert clock.connects == len(reported) + 1
    return reported


@dataclass(frozen=True)
class Fault:
    """A server that clients must not accept, or that does not accept the client.

    :ivar reported: pattern of the error.
    :ivar server: makes the certificate of stunnel.
    :ivar settings: makes more settings of stunnel.
    :ivar tls: the options of the client.
    """

    reported: str
    server: Callable[[Certificates], Path] = lambda certificates: certificates.server
    settings: Callable[[Certificates], list[str]] = lambda certificates: []
    tls: Callable[[Certificates], TLSOptions] = lambda certificates: certificates.options


def wants_a_client_certificate(version: str) -> Callable[[Certificates], list[str]]:
    return lambda certificates: [f"CAfile = {certificates.ours.roots}", "verifyChain = yes", f"sslVersion = {version}"]


def stranger(certificates: Certificates) -> TLSOptions:
    return replace(certificates.options, certificate=certificates.stranger)


AFTER: Final = r"no answer after the handshake \(the server may require another client certificate\): .*"
"""Of TLS 1.3: a busy machine may lose what the server says as it closes."""

FAULTS: Final = {
    "unknown CA": Fault(
        "certificate verify failed: its CA is not one of the trust roots, or an intermediate certificate is missing",
        server=lambda certificates: certificates.theirs.issue("127.0.0.1"),
    ),
    "another host": Fault(
        r"certificate verify failed: it is not for 127\.0\.0\.1: .*",
        server=lambda certificates: certificates.ours.issue("127.0.0.2", "elsewhere.example.com"),
    ),
    # Twisted 26.10 would take this one.
    "the certificate of a client": Fault(
        r"certificate verify failed: it is not for 127\.0\.0\.1: .*",
        server=lambda certificates: certificates.client,
    ),
    "another name": Fault(
        r"certificate verify failed: it is not for jobs\.example\.com: .*",
        tls=lambda certificates: replace(certificates.options, server_name="jobs.example.com"),
    ),
    "the certificate of a client, by name": Fault(
        r"certificate verify failed: it is not for jobs\.example\.com: .*",
        server=lambda certificates: certificates.client,
        tls=lambda certificates: replace(certificates.options, server_name="jobs.example.com"),
    ),
    "expired": Fault(
        "certificate verify failed: it has expired",
        server=lambda certificates: certificates.ours.issue("127.0.0.1", not_after=PAST),
    ),
    "not yet valid": Fault(
        "certificate verify failed: it is not valid yet",
        server=lambda certificates: certificates.ours.issue("127.0.0.1", not_before=FUTURE, not_after=FUTURE),
    ),
    "no client certificate, TLS 1.2": Fault(
        r".* alert handshake failure \(the server may require a client certificate, or other ciphers\)",
        settings=wants_a_client_certificate("TLSv1.2"),
    ),
    "no client certificate, TLS 1.3": Fault(
        rf".* alert certificate required \(the server requires a client certificate\)|{AFTER}",
        settings=wants_a_client_certificate("TLSv1.3"),
    ),
    "a client certificate of another CA, TLS 1.2": Fault(
        r".* alert unknown ca \(the server does not trust who issued the client certificate\)",
        settings=wants_a_client_certificate("TLSv1.2"),
        tls=stranger,
    ),
    "a client certificate of another CA, TLS 1.3": Fault(
        rf".* alert unknown ca \(the server does not trust who issued the client certificate\)|{AFTER}",
        settings=wants_a_client_certificate("TLSv1.3"),
        tls=stranger,
    ),
    "an expired client certificate": Fault(
        r".* alert certificate expired \(the server does not accept the client certificate\)",
        settings=wants_a_client_certificate("TLSv1.2"),
        tls=lambda certificates: replace(
            certificates.options, certificate=certificates.ours.issue("worker@example.com", not_after=PAST)
        ),
    ),
}


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_fault_is_explained_and_backed_off(fault: Fault, gearmand: Gearmand, certificates: Certificates) -> None:
    with Stunnel(gearmand.address, fault.server(certificates), *fault.settings(certificates)) as stunnel:
        reported = await a_minute_of_failures(f"tls:{stunnel.address}", fault.tls(certificates))
    assert {type(error) for error in reported} == {TLSError}
    assert all(error.__cause__ is not None for error in reported)
    pattern = f"TLS: (?:{fault.reported})"
    assert [error for error in reported if not re.fullmatch(pattern, str(error))] == []


class Talker(Protocol):
    """A server that greets in plain text whoever comes."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"220 mail.example.com ESMTP\r\n")


@contextmanager
def listening(protocol: type[Protocol]) -> Iterator[str]:
    port = reactor.listenTCP(0, ServerFactory.forProtocol(protocol), interface="127.0.0.1")
    yield f"127.0.0.1:{port.getHost().port}"
    port.stopListening()


@pytest.mark.guarantee(number=14)
async def test_plain_text_server_at_tls_address(gearmand: Gearmand, certificates: Certificates) -> None:
    """gearmand closes the connection; others answer."""
    reported = await a_minute_of_failures(f"tls:{gearmand.address}", certificates.options)
    assert {type(error) for error in reported} == {TLSError}
    assert all(str(error).startswith("TLS: no handshake (the server may speak plain text): ") for error in reported)
    with listening(Talker) as address:
        reported = await a_minute_of_failures(f"tls:{address}", certificates.options)
    assert {type(error) for error in reported} == {TLSError}
    assert all(str(error).endswith("(the server may speak plain text)") for error in reported)


@pytest.mark.guarantee(number=14)
async def test_tls_server_at_plain_text_address(stunnel: Stunnel) -> None:
    """It says nothing, so nobody can tell; but that it may be so is reported."""
    reported = await a_minute_of_failures(stunnel.address, None)
    assert all("the server may require TLS, which takes an address with tls:" in str(error) for error in reported)


@pytest.mark.daemon("stunnel4")
@pytest.mark.guarantee(number=14)
async def test_tunnel_to_closed_port(certificates: Certificates) -> None:
    with Stunnel("127.0.0.1:1", certificates.server) as stunnel:
        reported = await a_minute_of_failures(f"tls:{stunnel.address}", certificates.options)
    assert {type(error) for error in reported} == {TLSError}
    assert all(str(error).startswith("TLS: no answer after the handshake (") for error in reported)


class Listener(Protocol):
    """A server that hears, and says nothing (H11, H12)."""

    heard: ClassVar[list[bytes]] = []

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data[:2])


@pytest.mark.guarantee(number=10)
async def test_server_that_never_completes_handshake(certificates: Certificates) -> None:
    clock = Warp()
    Listener.heard.clear()
    with listening(Listener) as address:
        client = GearmanClient([f"tls:{address}"], tls=certificates.options, reactor=clock, connect_timeout=5.0)
        client.startService()
        while clock.seconds() < 60:
            waiting = client.add_task("reverse")
            await until(lambda: len(Listener.heard) == clock.connects)
            clock.advance(5.0)
            error = await outcome(waiting)
            assert isinstance(error, NoServersAvailable)
            assert "TLS: no handshake (the server may speak plain text): " in str(error)
            assert "no good answer within 5.0 seconds" in str(error)
            await until(lambda: client.servers[0].next_attempt)
            clock.advance(client.servers[0].next_attempt or 0)
        await client.stopService()
    assert 9 <= clock.connects <= 12  # each task brings the next one forward, by a second at most after the last


@pytest.mark.daemon("stunnel4")
@pytest.mark.guarantee(number=10)
async def test_tunnel_to_silent_server(certificates: Certificates) -> None:
    """The handshake is complete: it is not an error of TLS."""
    with listening(Listener) as address, Stunnel(address, certificates.server) as stunnel:
        client = GearmanClient([f"tls:{stunnel.address}"], tls=certificates.options, connect_timeout=0.5)
        async with client:
            with pytest.raises(NoServersAvailable) as caught:
                await client.echo()
    (reason,) = caught.value.reasons.values()
    assert not isinstance(reason, TLSError)
    assert "no good answer within 0.5 seconds" in str(reason)


async def test_later_loss_is_not_reported_as_tls_error(stunnel: Stunnel, certificates: Certificates) -> None:
    async with GearmanClient([f"tls:{stunnel.address}"], tls=certificates.options) as client:
        await client.echo()
        stunnel.stop()
        await until(lambda: state(client) is ServerState.WAITING)
        assert not isinstance(client.servers[0].last_error, TLSError)
        stunnel.start()
        await until(lambda: state(client) is ServerState.READY)


class Forger(ProxyFactory):
    """Leads to a server, and may say to a client what the server has not said."""

    noisy = False

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.connections: list[Any] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:
        connection: Any = super().buildProtocol(addr)
        self.connections.append(connection)
        return connection


@pytest.mark.guarantee(number=14)
async def test_forged_data_is_reported(stunnel: Stunnel, certificates: Certificates) -> None:
    forger = Forger(stunnel.port)
    port = reactor.listenTCP(0, forger, interface="127.0.0.1")
    async with GearmanClient([f"tls:127.0.0.1:{port.getHost().port}"], tls=certificates.options) as client:
        await client.echo()
        task = client.add_task("nobody_does_this")
        await until(lambda: client.servers[0].in_flight)
        forger.connections[0].transport.write(b"\x17\x03\x03\x00\x20" + b"forged" * 5 + b"..")
        error = await outcome(task)
        assert isinstance(error, TaskLost)
        assert isinstance(error.__cause__, TLSError)
        assert re.match("TLS: .*bad record mac", str(error.__cause__))
        await until(lambda: state(client) is ServerState.READY)
    port.stopListening()


def described(certificates: Certificates, stunnel: Stunnel, host: str) -> str:
    """A description with options of its own."""
    roots = certificates.ours.roots.parent
    return f"tls:{host}:{stunnel.port}:trustRoots={roots}:endpoint=tcp\\:127.0.0.1\\:{stunnel.port}"


async def test_description_with_options_is_verified_by_twisted(stunnel: Stunnel, certificates: Certificates) -> None:
    """The fault that Twisted finds is reported as well."""
    address = described(certificates, stunnel, "localhost")
    async with GearmanClient([address]) as client:
        assert list(await client.echo()) == [address]
    async with GearmanClient([described(certificates, stunnel, "jobs.example.com")]) as client:
        with pytest.raises(NoServersAvailable, match=r"TLS: certificate verify failed: .*jobs\.example\.com"):
            await client.echo()


async def test_endpoint_of_the_caller(stunnel: Stunnel, certificates: Certificates) -> None:
    root = Certificate.loadPEM(certificates.theirs.roots.read_bytes())
    creator = optionsForClientTLS("127.0.0.1", trustRoot=root)
    endpoint = wrapClientTLS(creator, TCP4ClientEndpoint(reactor, "127.0.0.1", stunnel.port))
    async with GearmanClient([endpoint]) as client:
        with pytest.raises(NoServersAvailable, match=r"endpoint:0: TLS: certificate verify failed$"):
            await client.echo()


async def test_fault_is_explained_to_worker(stunnel: Stunnel, certificates: Certificates) -> None:
    worker = reversing(f"tls:{stunnel.address}", replace(certificates.options, trust_roots=certificates.theirs.roots))
    async with worker:
        await until(lambda: worker.servers[0].state is ServerState.WAITING)
        assert str(worker.servers[0].last_error).startswith("TLS: certificate verify failed: its CA is not one")


# Stopping.


@pytest.mark.guarantee(number=11)
async def test_stop_during_handshake(certificates: Certificates) -> None:
    Listener.heard.clear()
    with listening(Listener) as address:
        client = GearmanClient([f"tls:{address}"], tls=certificates.options)
        worker = reversing(f"tls:{address}", certificates.options)
        task = client.add_task("reverse")
        worker.startService()
        await until(lambda: len(Listener.heard) == 2)
        assert Listener.heard == [b"\x16\x03"] * 2  # a handshake of TLS
        start = time.monotonic()
        stopped = gatherResults([client.stopService(), worker.stopService()])
        assert isinstance(await outcome(task), ClientStopped)
        await stopped
        assert time.monotonic() - start < CLOSE_TIMEOUT + PATIENCE


@pytest.mark.guarantee(number=11)
async def test_stop_while_peer_does_not_read(stunnel: Stunnel, certificates: Certificates) -> None:
    client = GearmanClient([f"tls:{stunnel.address}"], tls=certificates.options)
    await client.echo()
    stunnel.signal(signal.SIGSTOP)
    tasks = [client.add_task_bg("reverse", bytes(4_000_000)) for _ in range(5)]
    start = time.monotonic()
    stopped = client.stopService()
    assert {type(await outcome(task)) for task in tasks} == {ClientStopped}
    await stopped
    assert CLOSE_TIMEOUT - 0.5 < time.monotonic() - start < CLOSE_TIMEOUT + PATIENCE


async def test_stop_sends_written_data_first(gearmand: Gearmand, stunnel: Stunnel, certificates: Certificates) -> None:
    """More than the buffers on the way hold; further tasks were not written yet."""
    client = GearmanClient([f"tls:{stunnel.address}"], tls=certificates.options)
    await client.echo()
    tasks = [client.add_task_bg("keep", bytes(20_000_000)) for _ in range(3)]
    written = client.servers[0].in_flight
    assert written
    start = time.monotonic()
    stopped = client.stopService()
    assert {type(await outcome(task)) for task in tasks} == {ClientStopped}
    await stopped
    assert time.monotonic() - start < CLOSE_TIMEOUT  # it closed because it was done
    await until(lambda: f"keep\t{written}\t0\t0" in gearmand.admin("status"))


# What can't be meant.


@pytest.fixture
def files(tmp_path: Path, certificates: Certificates) -> dict[str, Path]:
    """Files that are wrong in one way each, by their names."""
    server, other = (path.read_text() for path in (certificates.server, certificates.client))
    key, certificate = server.split("-----BEGIN CERTIFICATE-----")
    broken = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"
    texts = {
        "empty": "",
        "key": key,
        "other key": other.split("-----BEGIN CERTIFICATE-----")[0],
        "certificate": f"-----BEGIN CERTIFICATE-----{certificate}",
        "broken certificate": broken.format("CERTIFICATE"),
        "broken key": server.replace(key, broken.format("PRIVATE KEY")),
        "encrypted key": encrypted(key),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "directory").mkdir()
    return {name: tmp_path / name for name in (*texts, "directory", "nothing")}


def encrypted(key: str) -> str:
    pem = serialization.load_pem_private_key(key.encode(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    return pem.decode()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"trust_roots": "nothing"}, "trust_roots must be a readable file, not '.*nothing': .*No such file"),
        ({"trust_roots": "empty"}, "trust_roots must be a file or directory with a certificate, not '.*empty'"),
        ({"trust_roots": "directory"}, "trust_roots must be a file or directory with a certificate, not '.*directory'"),
        ({"trust_roots": "key"}, "trust_roots must be a file or directory with a certificate, not '.*key'"),
        ({"trust_roots": "broken certificate"}, "trust_roots must be valid certificates, not '.*broken certificate': "),
        ({"certificate": "nothing"}, "certificate must be a readable file, not '.*nothing': .*No such file"),
        ({"certificate": "directory"}, "certificate must be a readable file, not '.*directory': "),
        ({"certificate": "key"}, "certificate must be a file with a certificate, not '.*key'"),
        ({"certificate": "certificate"}, "private_key must be a file with a private key, not '.*certificate'"),
        (
            {"certificate": "certificate", "private_key": "nothing"},
            "private_key must be a readable file, not '.*nothing'",
        ),
        (
            {"certificate": "certificate", "private_key": "empty"},
            "private_key must be a file with a private key, not '.*empty'",
        ),
        ({"certificate": "broken key"}, "private_key must be a valid, unencrypted key, not '.*broken key': "),
        (
            {"certificate": "certificate", "private_key": "encrypted key"},
            "private_key must be a valid, unencrypted key, not '.*encrypted key': .*encrypted",
        ),
        ({"certificate": "certificate", "private_key": "other key"}, "private_key must be the key of certificate: "),
        ({"private_key": "key"}, "private_key must be None if certificate is None"),
    ],
)
def test_invalid_files_are_refused(arguments: dict[str, str], complaint: str, files: dict[str, Path]) -> None:
    paths: dict[str, Any] = {name: files[file] for name, file in arguments.items()}
    with pytest.raises(ValueError, match=f"^{complaint}"):
        TLSOptions(**paths)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("arguments", "kind", "complaint"),
    [
        ({"trust_roots": 1}, TypeError, "trust_roots must be a path, not int"),
        ({"trust_roots": "a\0b"}, ValueError, "trust_roots must be a readable file, not 'a\\\\x00b': "),
        ({"certificate": b"/c.pem"}, TypeError, "certificate must be a path, not bytes"),
        ({"server_name": b"host"}, TypeError, "server_name must be str, not bytes"),
        ({"server_name": ""}, ValueError, "server_name: the host must be valid in a certificate, not ''"),
        ({"server_name": "a..b"}, ValueError, "server_name: the host must be valid in a certificate, not 'a..b'"),
        ({"certificate_options": [1]}, TypeError, "certificate_options must be a mapping, not list"),
        (
            {"certificate_options": {"trustRoot": None}},
            ValueError,
            "certificate_options must not have trustRoot: use trust_roots",
        ),
        (
            {"certificate_options": {"nonsense": 1}},
            TypeError,
            "certificate_options must be valid for CertificateOptions: ",
        ),
        (
            {
                "certificate_options": {
                    "raiseMinimumTo": TLSVersion.TLSv1_3,
                    "lowerMaximumSecurityTo": TLSVersion.TLSv1_2,
                }
            },
            ValueError,
            "certificate_options must be valid .*: .*raiseMinimumTo",
        ),
    ],
)
def test_invalid_options_are_refused(arguments: Any, kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=f"^{complaint}"):
        TLSOptions(**arguments)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("kind", [GearmanAdmin, GearmanClient, GearmanWorker])
def test_tls_options_without_tls_address_are_refused(kind: Any, certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="tls must be None if job_servers has no address such as 'tls:host:port'"):
        kind(["jobs"], tls=certificates.options)
    assert len(kind(["jobs", "tls:jobs"], tls=certificates.options).job_servers) == 2


@pytest.mark.guarantee(number=8)
def test_host_that_is_invalid_in_certificates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"job_servers: the host must be valid in a certificate, not 'a_b'"):
        GearmanClient(["tls:a_b:4730"])


def test_options_are_a_value(certificates: Certificates) -> None:
    """They may be kept in settings and logged: they show no key."""
    same = TLSOptions(trust_roots=certificates.ours.roots, certificate=certificates.client)
    assert same == certificates.with_client
    assert same != certificates.options
    assert hash(same) == hash(certificates.with_client)
    assert "PRIVATE" not in repr(same)
    assert str(certificates.client) in repr(same)
    with pytest.raises(FrozenInstanceError):
        same.server_name = "other"  # type: ignore[misc]  # that is the point


async def test_trust_roots_in_a_directory(stunnel: Stunnel, certificates: Certificates, tmp_path: Path) -> None:
    """Whatever else is there."""
    (tmp_path / "a.crt").write_bytes(certificates.theirs.roots.read_bytes())
    (tmp_path / "b.pem").write_bytes(certificates.ours.roots.read_bytes())
    (tmp_path / "c.pem").write_bytes(certificates.ours.roots.read_bytes())
    (tmp_path / "README").write_bytes(b"\xff")
    async with GearmanClient([f"tls:{stunnel.address}"], tls=TLSOptions(trust_roots=str(tmp_path))) as client:
        assert await client.echo()


def test_old_versions_are_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they are asked for; Twisted 22.4 would speak TLS 1.0."""
    made: list[dict[str, Any]] = []

    def note(**options: Any) -> CertificateOptions:
        made.append(options)
        return CertificateOptions(**options)

    monkeypatch.setattr("twisted.internet.ssl.CertificateOptions", note)
    TLSOptions()
    TLSOptions(certificate_options={"insecurelyLowerMinimumTo": TLSVersion.TLSv1_0})
    assert [options.get("raiseMinimumTo") for options in made] == [TLSVersion.TLSv1_2, None]


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("missing", ["OpenSSL", "service_identity"])
def test_options_need_extra_tls(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for call in (TLSOptions, lambda: GearmanClient(["tls:jobs"])):
        with pytest.raises(ValueError, match=rf"^TLS needs txgearman\[tls\], which is not installed: .*{missing}"):
            call()


@pytest.mark.process
def test_everything_else_works_without_extra_tls() -> None:
    """In a process where pyOpenSSL can't be imported."""
    script = """
import sys
sys.modules["OpenSSL"] = None
import txgearman
print(txgearman.GearmanClient(["jobs:4730"]).servers[0].address)
for address in ("tls:jobs:4730", "tls:jobs:4730:timeout=3"):
    try:
        txgearman.GearmanWorker([address])
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    there, *errors = done.stdout.splitlines()
    assert there == "jobs:4730"
    assert len(errors) == 2
    assert all("TLS needs txgearman[tls], which is not installed" in error for error in errors)


@pytest.mark.parametrize("error", [SysCallError(104, "ECONNRESET"), ZeroReturnError()])
def test_openssl_errors_without_reasons(error: Exception) -> None:
    """They are rare: Twisted makes others of them."""

    class ServerConnection:
        _tls_established = ready = True
        _certificate_fault = ""

    assert str(explain_error(error, ServerConnection())) == f"TLS: {error!r}"
