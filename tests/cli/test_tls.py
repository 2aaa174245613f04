"""Servers behind TLS, with a private CA and client certificates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from txgearman.cli.exit_codes import ExitCode

from ..certificates import Authority
from ..daemons import Gearmand, Stunnel
from .harness import RunningCommand, run_command

pytestmark = pytest.mark.daemon("gearmand", "stunnel4")


class SecureServer:
    """A gearmand behind a stunnel that wants a client certificate.

    :ivar options: what a command needs to reach it.
    :ivar environment: the same, as variables.
    """

    def __init__(self, gearmand: Gearmand, directory: Path) -> None:
        authority = Authority(directory / "ca")
        wanted = [f"CAfile = {authority.roots}", "verifyChain = yes"]
        self.stunnel = Stunnel(gearmand.address, authority.issue("localhost"), *wanted)
        client = authority.issue("client@example.com")
        self.address = f"tls:localhost:{self.stunnel.port}"
        self.options = "-s", self.address, "--tls-ca", str(authority.roots), "--tls-cert", str(client)
        self.environment = {
            "GEARMAN_SERVERS": self.address,
            "GEARMAND_CA_CERTIFICATE": str(authority.roots),
            "GEARMAN_CLIENT_PEM": str(client),
            "GEARMAN_CLIENT_KEY": str(client),
        }


@pytest.fixture
def secure(gearmand: Gearmand, tmp_path: Path) -> Iterator[SecureServer]:
    server = SecureServer(gearmand, tmp_path)
    with server.stunnel:
        yield server


async def test_each_command_reaches_server_behind_tls(secure: SecureServer) -> None:
    worker = RunningCommand("work", "-c", "1", *secure.options, "shout=tests.cli.jobs:shout")
    assert await run_command("submit", *secure.options, "shout", "hello") == (0, b"HELLO", "")
    assert (await worker.finish()).code == 0
    handle = (await run_command(*secure.options, "submit", "-b", "shout")).out.decode().strip()
    assert handle.startswith(f"{secure.address}//")
    for words in (["version"], ["status"], ["ping"], ["job", handle], ["top", "-c", "1"], ["cancel", handle]):
        assert (await run_command(*words, *secure.options)).code == 0, words


async def test_environment_names_files_for_tls(secure: SecureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in secure.environment.items():
        monkeypatch.setenv(variable, value)
    assert (await run_command("version")).code == 0


async def test_server_of_unknown_ca_is_refused(secure: SecureServer) -> None:
    result = await run_command("version", "-s", secure.address)
    assert result.code == ExitCode.NO_SERVER
    assert "certificate verify failed" in result.err


async def test_missing_file_for_tls_is_usage_error(secure: SecureServer) -> None:
    result = await run_command("version", "-s", secure.address, "--tls-ca", "/nonexistent.pem")
    assert result.code == ExitCode.USAGE
    assert result.err.startswith("txgearman: --tls-ca must be a readable file, not '/nonexistent.pem'")
