"""TLS: the options, client and worker over it on real servers, and what is told where it fails.

stunnel speaks it in front of gearmand, since Debian's has none (GEARMAN.md section 12); geard has its own.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.ssl import AcceptableCiphers, Certificate, TLSVersion, optionsForClientTLS
from twisted.internet.task import Clock, deferLater

from txgearman import (
    ClientStopped,
    GearmanClient,
    GearmanWorker,
    Job,
    NoServersAvailable,
    ServerState,
    TLSError,
    TLSOptions,
)
from txgearman.servers import parse_address

from .certificates import FUTURE, PAST, Authority
from .daemons import Geard, Gearmand, Stunnel
from .test_gearmand import outcome, state, until

reactor: Any = global_reactor


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


async def test_p15_client_and_worker_through_stunnel(stunnel: Stunnel, certificates: Certificates) -> None:
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


async def test_client_certificates_with_stunnel(gearmand: Gearmand, certificates: Certificates) -> None:
    """Here, one from an intermediate CA, whose certificate must be sent along."""
    client_file = certificates.ours.issue_through_intermediate("worker@example.com")
    tls = replace(certificates.with_client, certificate=client_file)
    wanted = [f"CAfile = {certificates.ours.roots}", "verifyChain = yes"]
    with Stunnel(gearmand.address, certificates.server, *wanted) as stunnel:
        async with GearmanClient([f"tls:{stunnel.address}"], tls=tls) as client:
            assert list(await client.echo()) == [f"tls:{stunnel.address}"]


async def test_the_platforms_trust_roots_are_the_default(
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


async def test_the_name_may_be_another_than_the_hosts(gearmand: Gearmand, certificates: Certificates) -> None:
    certificate = certificates.ours.issue("jobs.example.com")
    with Stunnel(gearmand.address, certificate) as stunnel:
        for name in ("jobs.example.com", "JOBS.example.com"):
            tls = replace(certificates.options, server_name=name)
            async with GearmanClient([f"tls:{stunnel.address}"], tls=tls) as client:
                assert await client.echo()


async def test_a_host_name_is_resolved_and_verified(stunnel: Stunnel, certificates: Certificates) -> None:
    async with GearmanClient([f"tls:localhost:{stunnel.port}"], tls=certificates.options) as client:
        assert await client.echo()


async def test_more_options_reach_the_connection(gearmand: Gearmand, certificates: Certificates) -> None:
    more = {
        "lowerMaximumSecurityTo": TLSVersion.TLSv1_2,
        "acceptableCiphers": AcceptableCiphers.fromOpenSSLCipherString("ECDHE-ECDSA-AES256-GCM-SHA384"),
    }
    with Stunnel(gearmand.address, certificates.server, "sslVersion = TLSv1.3") as stunnel:
        tls = replace(certificates.options, certificate_options=more)
        async with GearmanClient([f"tls:{stunnel.address}"], tls=tls) as client:
            with pytest.raises(NoServersAvailable, match="the server speaks other versions of TLS"):
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
    """What a client that can't connect tells of each attempt in a minute.

    Each is followed by a delay that grows: there are some seven of them.
    """
    clock = Warp()
    client = GearmanClient([address], tls=tls, reactor=clock)
    client.startService()
    told = []
    while clock.seconds() < 60:
        await until(lambda: state(client) is ServerState.WAITING)
        (info,) = client.servers
        assert info.last_error is not None
        assert info.next_attempt is not None
        told.append(info.last_error)
        clock.advance(info.next_attempt)
    task = client.add_task("reverse")
    await until(lambda: state(client) is ServerState.WAITING)
    error = await outcome(task)
    assert isinstance(error, NoServersAvailable)
    assert str(told[-1]) in str(error)
    await client.stopService()
    assert 5 <= len(told) <= 9
    assert clock.connects == len(told) + 1
    return told


@dataclass(frozen=True)
class Fault:
    """A server that nobody should talk to, or that talks to nobody.

    :ivar told: a pattern of what is told of it.
    :ivar server: makes the certificate of stunnel.
    :ivar settings: makes more settings of stunnel.
    :ivar tls: the options of the client.
    """

    told: str
    server: Callable[[Certificates], Path] = lambda certificates: certificates.server
    settings: Callable[[Certificates], list[str]] = lambda certificates: []
    tls: Callable[[Certificates], TLSOptions] = lambda certificates: certificates.options


def wants_a_client_certificate(version: str) -> Callable[[Certificates], list[str]]:
    return lambda certificates: [f"CAfile = {certificates.ours.roots}", "verifyChain = yes", f"sslVersion = {version}"]


def stranger(certificates: Certificates) -> TLSOptions:
    return replace(certificates.options, certificate=certificates.stranger)


AFTER: Final = "no answer after the handshake; the server may want another client certificate: .*"
"""Of TLS 1.3: a busy machine may lose what the server says as it closes."""

FAULTS: Final = {
    "unknown CA": Fault(
        "certificate verify failed: its CA is none of the trust roots, or an intermediate certificate is missing",
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
        r".* alert handshake failure \(the server may want a client certificate, or other ciphers\)",
        settings=wants_a_client_certificate("TLSv1.2"),
    ),
    "no client certificate, TLS 1.3": Fault(
        rf".* alert certificate required \(the server wants a client certificate\)|{AFTER}",
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
        r".* alert certificate expired \(the server does not take the client certificate\)",
        settings=wants_a_client_certificate("TLSv1.2"),
        tls=lambda certificates: replace(
            certificates.options, certificate=certificates.ours.issue("worker@example.com", not_after=PAST)
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_p14_a_fault_is_told_in_words_and_backed_off(
    fault: Fault, gearmand: Gearmand, certificates: Certificates
) -> None:
    with Stunnel(gearmand.address, fault.server(certificates), *fault.settings(certificates)) as stunnel:
        told = await a_minute_of_failures(f"tls:{stunnel.address}", fault.tls(certificates))
    assert {type(error) for error in told} == {TLSError}
    assert all(error.__cause__ is not None for error in told)
    pattern = f"TLS: (?:{fault.told})"
    assert all_match(pattern, told), told


def all_match(pattern: str, errors: list[Exception]) -> bool:
    import re

    return all(re.fullmatch(pattern, str(error)) for error in errors)
