"""TLS of gearmand's own (docs/gearman.md §12). Of builds without it, such as Debian's, one of these tests is."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import gatherResults

from txgearman import (
    GearmanAdmin,
    GearmanClient,
    GearmanWorker,
    NoServersAvailable,
    ServerState,
    TaskLost,
    TLSError,
    TLSOptions,
)
from txgearman.testing.gearmand import ask

from .certificates import Authority
from .connection.test_tls import Certificates, reversing
from .daemons import Gearmand
from .test_gearmand import outcome, until

pytestmark = pytest.mark.daemon("gearmand")

reactor: Any = global_reactor

THREADS: Final = 4
"""gearmand's default number of threads for connections."""

QUICK: Final[dict[str, Any]] = {"reconnect_delay": lambda attempt: 0.05}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def with_ssl(roots: Path, certificate: Path) -> Gearmand:
    options = {"ca-file": roots, "certificate": certificate, "key": certificate}
    return Gearmand("--ssl", *(f"--ssl-{name}={path}" for name, path in options.items()))


def handshake(server: Gearmand, roots: Path, **options: Any) -> str | None:
    """Connect with TLS; return its version, None if there is no handshake."""
    context = ssl.create_default_context(cafile=str(roots))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else this side refuses old versions itself
    for name, value in options.items():
        setattr(context, name, value)
    try:
        with (
            socket.create_connection(("127.0.0.1", server.port), 10.0) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return connection.version()
    except (ssl.SSLError, ConnectionError):
        return None


@pytest.fixture(scope="module")
def either(certificates: Certificates) -> Iterator[Gearmand]:
    """A gearmand with ``--ssl``, which has TLS only if it was built with it."""
    with with_ssl(certificates.ours.roots, certificates.server) as server:
        yield server


@pytest.fixture(scope="module")
def secure(either: Gearmand, certificates: Certificates) -> Gearmand:
    """A gearmand with TLS of its own. Its tests leave no job behind."""
    if handshake(either, certificates.ours.roots) is None:
        pytest.skip("is about a gearmand with TLS of its own; this one was built without")
    return either


def test_server_with_ssl_speaks_tls_or_plain_text(either: Gearmand, certificates: Certificates) -> None:
    """Without TLS in it, it listens in plain text, and says nothing."""
    secure = handshake(either, certificates.ours.roots) is not None
    try:
        plain = ask("127.0.0.1", either.port, "version").startswith("OK ")
    except ConnectionError:
        plain = False
    assert plain is not secure


@pytest.mark.parametrize(
    ("version", "spoken"),
    [("TLSv1_1", None), ("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_versions_of_tls(secure: Gearmand, certificates: Certificates, version: str, spoken: str | None) -> None:
    only = getattr(ssl.TLSVersion, version)
    assert handshake(secure, certificates.ours.roots, minimum_version=only, maximum_version=only) == spoken


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("kind", ["none", "trusted", "stranger"])
async def test_work_with_any_client_certificate(secure: Gearmand, certificates: Certificates, kind: str) -> None:
    """None is checked: not even that of an unknown CA."""
    files = {"none": None, "trusted": certificates.client, "stranger": certificates.stranger}
    tls = TLSOptions(trust_roots=certificates.ours.roots, certificate=files[kind])
    address = f"tls:{secure.address}"
    large = bytes(range(256)) * 12_000
    loads = [b"%d" % number for number in range(200)]
    async with (
        reversing(address, tls, max_jobs=50),
        GearmanClient([address], tls=tls) as client,
        GearmanAdmin([address], tls=tls) as admin,
    ):
        results = await gatherResults([client.add_task("reverse", load) for load in loads])
        assert results == [load[::-1] for load in loads]
        assert await client.add_task("reverse", large) == large[::-1]
        assert [row.function for row in (await admin.status()).one()] == [b"reverse"]


@pytest.mark.guarantee(number=14)
async def test_client_without_tls_or_with_other_roots_is_refused(secure: Gearmand, certificates: Certificates) -> None:
    theirs = TLSOptions(trust_roots=certificates.theirs.roots)
    for address, tls, text in (
        (secure.address, None, "the server may require TLS, which takes an address with tls:"),
        (f"tls:{secure.address}", theirs, "certificate verify failed"),
    ):
        async with GearmanClient([address], tls=tls) as client:
            error = await outcome(client.echo())
            assert type(error) is NoServersAvailable
            assert text in str(error)


async def test_certificate_of_intermediate_ca_is_not_sent(secure: Gearmand, tmp_path: Path) -> None:
    """Of the file with the server's certificate only the first is sent. (stunnel sends all.)"""
    authority = Authority(tmp_path / "ca")
    with with_ssl(authority.roots, authority.issue_through_intermediate("localhost", "127.0.0.1")) as server:
        address = f"tls:{server.address}"
        async with GearmanClient([address], tls=TLSOptions(trust_roots=authority.roots)) as client:
            await outcome(client.echo())
            assert isinstance(client.servers[0].last_error, TLSError)
            assert "an intermediate certificate is missing" in str(client.servers[0].last_error)


@pytest.mark.guarantee(number=7)
async def test_server_with_tls_is_restarted(secure: Gearmand, certificates: Certificates) -> None:
    with with_ssl(certificates.ours.roots, certificates.server) as server:
        address, tls = f"tls:{server.address}", certificates.options
        async with (
            GearmanClient([address], tls=tls, **QUICK) as client,
            GearmanWorker([address], tls=tls, **QUICK) as worker,
        ):
            lost, retried = client.add_task("work", b"abc"), client.add_task("work", b"abc", retries=1)
            await client.echo()
            server.stop()
            assert type(await outcome(lost)) is TaskLost
            server.start()
            worker.register_function("work", lambda job: job.workload[::-1])
            assert await retried == b"cba"


@pytest.mark.guarantee(number=10)
async def test_h11_silent_peers_block_each_thread(secure: Gearmand, certificates: Certificates) -> None:
    """A handshake that never comes holds a thread, and all connections of it. Clients of each kind notice."""
    tls = certificates.options
    with with_ssl(certificates.ours.roots, certificates.server) as server, ExitStack() as silent:
        address = f"tls:{server.address}"
        async with GearmanClient([address], tls=tls, heartbeat=0.2) as client:
            await client.echo()
            for _ in range(THREADS):
                silent.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            await until(lambda: client.servers[0].state is not ServerState.READY)
            assert "no answer to ECHO_REQ within 0.2 seconds" in str(client.servers[0].last_error)
        async with GearmanClient([address], tls=tls, connect_timeout=0.3) as client:
            error = await outcome(client.echo())
            assert (type(error), "no good answer" in str(error)) == (NoServersAvailable, True)
