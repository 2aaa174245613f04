"""`Gearmand` runs a real gearmand, and has what suites use that run on `MemoryJobServer` as well."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred

from txgearman import NoServersAvailable, TaskException, TaskFailed, TaskLost
from txgearman.testing import AnyJobServer, Gearmand, GearmandMissing, JobServerOnGearmandMixin, gearmand

from ..wire import outcome

reactor: Any = global_reactor


@pytest.fixture
def server(job_server_on_gearmand: Gearmand) -> Gearmand:
    return job_server_on_gearmand


def is_alive(server: Gearmand) -> bool:
    try:
        os.kill(server._interruptions.process.pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_test_plays_the_worker(server: Gearmand) -> None:
    """As on a server in memory."""
    client, either = server.client(), played(server)
    first, second = client.add_task("reverse", b"abc", unique="u"), client.add_task("reverse", b"d")
    job = await either.next_job("reverse")
    assert (job.workload, job.unique) == (b"abc", b"u")
    assert server.command("status") == "reverse\t2\t1\t1\n.\n"  # it has taken no other one
    job.send_data(b"x")
    job.send_warning(b"y")
    job.send_status(1, 2)
    job.complete(b"cba")
    assert await first == b"cba"
    (await either.next_job("reverse")).fail()
    with pytest.raises(TaskFailed):
        await second
    failing = client.add_task("reverse")
    (await either.next_job("reverse")).send_exception(b"no")
    with pytest.raises(TaskException, match="no"):
        await failing


def played(server: AnyJobServer) -> AnyJobServer:
    """As a suite has it that runs on any server."""
    return server


async def test_worker_and_admin_client(server: Gearmand) -> None:
    server.worker().register_function("shout", lambda job: job.workload.upper())
    assert await server.client().add_task("shout", b"abc") == b"ABC"
    versions = await server.admin().version()
    assert server.command("version") == f"OK {versions.one()}\n"
    assert repr(server) == f"<Gearmand {server.address}>"
    assert server.clock is reactor


@pytest.mark.job_server(job_retries=1, arguments=["--round-robin"])
async def test_options(server: Gearmand) -> None:
    """A job whose worker is lost fails."""
    client = server.client()
    task = client.add_task("reverse")
    await server.next_job("reverse")
    server._services[-1].stopService()
    with pytest.raises(TaskFailed):
        await task
    assert "--round-robin" in server._interruptions.process.command
    assert len(server.log(2).splitlines()) == 2


async def test_it_comes_back_at_the_same_address(server: Gearmand) -> None:
    address = server.address
    before = await server.client().add_task_bg("mail")
    with server.go_down(lose_jobs=True) as outer, server.go_down(lose_jobs=True):
        assert not is_alive(server)
        with pytest.raises(ConnectionRefusedError):
            server.command("status")
    assert (outer.ended, server.address, server.command("status")) == (True, address, ".\n")
    assert await server.client().add_task_bg("mail") == before  # the first handle of the new process


async def test_it_keeps_no_jobs(server: Gearmand) -> None:
    with pytest.raises(ValueError, match="lose_jobs must be True for gearmand, which keeps no jobs, not False"):
        server.go_down(lose_jobs=False)
    assert is_alive(server)


async def test_it_falls_silent(server: Gearmand) -> None:
    client = server.client(server_timeout=0.2)
    await client.add_task_bg("mail")
    with server.fall_silent() as outer, server.fall_silent(), pytest.raises((TaskLost, NoServersAvailable)):
        await client.add_task_bg("mail")
    assert outer.ended
    assert server.command("version").startswith("OK ")


async def test_command_names_what_came_before_the_end(server: Gearmand) -> None:
    with pytest.raises(ConnectionResetError, match=rf"^{server.address} closed the connection; before: b''$"):
        server.command(" ".join(["status"] * 20))


def left_silent(server: Gearmand) -> None:
    server.fall_silent()


def left_down(server: Gearmand) -> None:
    server.go_down(lose_jobs=True)


def left_down_and_silent(server: Gearmand) -> None:
    server.go_down(lose_jobs=True)
    server.fall_silent()


def left_waiting(server: Gearmand) -> None:
    server.next_job("reverse")


def left_alone(server: Gearmand) -> None:
    pass


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("leave", [left_silent, left_down, left_down_and_silent, left_waiting, left_alone])
async def test_nothing_is_left_of_it(leave: Callable[[Gearmand], None]) -> None:
    server = Gearmand()
    server.worker(drain_timeout=3600)
    leave(server)
    closed = server.close()
    assert not is_alive(server)
    await closed


@pytest.mark.daemon("gearmand")
async def test_next_job_can_be_cancelled() -> None:
    server = Gearmand()
    taken: Deferred[Any] = server.next_job("reverse")
    fired = outcome(taken)
    taken.cancel()
    (error,) = fired
    assert type(error).__name__ == "CancelledError"
    await server.close()


# What goes wrong at the start.


@pytest.fixture
def none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gearmand, "_DIRECTORIES", ())
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("TXGEARMAN_GEARMAND", raising=False)


def test_missing_program_is_named_with_its_package(none_is_installed: None) -> None:
    with pytest.raises(GearmandMissing, match=r"^needs gearmand, which is not installed: apt-get install gearman-job"):
        Gearmand()


def test_named_program_that_is_not_there_is_an_error(none_is_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXGEARMAN_GEARMAND", "/opt/gearmand/no-such")
    with pytest.raises(GearmandMissing, match=r"^needs gearmand, and TXGEARMAN_GEARMAND names no .*: /opt/gearmand/no"):
        Gearmand()


def program(directory: Path, text: str) -> str:
    directory.mkdir()
    path = directory / "gearmand"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_named_program_comes_before_those_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And Perl's job server, which has the same name, is passed over."""
    perl = program(tmp_path / "perl", "#!/usr/bin/perl\n")
    other, named = program(tmp_path / "other", "#!/bin/sh\n"), program(tmp_path / "named", "")
    monkeypatch.setenv("PATH", os.pathsep.join(os.path.dirname(path) for path in (perl, other)))
    monkeypatch.delenv("TXGEARMAN_GEARMAND", raising=False)
    assert gearmand.gearmand_program() == other
    monkeypatch.setenv("TXGEARMAN_GEARMAND", named)
    assert gearmand.gearmand_program() == named


@pytest.mark.daemon("gearmand")
def test_failing_start_has_the_log() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)^gearmand does not start: .*gearmand .* --no-such .*no-such"):
        Gearmand(arguments=["--no-such"])


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        yield used.getsockname()[1]


@pytest.mark.daemon("gearmand")
async def test_used_port_is_passed_over(used_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gearmand, "_PATIENCE", 0.2)
    ports = [gearmand.free_port(), used_port]
    monkeypatch.setattr(gearmand, "free_port", ports.pop)
    server = Gearmand()
    assert ports == []
    await server.close()


@pytest.mark.daemon("gearmand")
async def test_slow_start_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gearmand, "_PATIENCE", 0.001)
    monkeypatch.setattr(gearmand, "_is_used", lambda port: False)
    server = Gearmand()
    assert server.command("version").startswith("OK ")
    await server.close()


@pytest.mark.daemon("gearmand")
def test_port_that_is_in_use_is_not_free(used_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [used_port + 1, used_port]
    monkeypatch.setattr(random.SystemRandom, "choice", lambda self, ports: chosen.pop())
    assert gearmand.free_port() != used_port


@pytest.mark.daemon("gearmand")
async def test_port_that_another_has_taken_meanwhile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gearmand, "_PATIENCE", 0.2)
    server = Gearmand()
    down = server.go_down(lose_jobs=True)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", server._interruptions.process.port))
        taken.listen()
        with pytest.raises(RuntimeError, match="gearmand does not start: "):
            down.end()
    await server.close()


# With trial.


class Case(JobServerOnGearmandMixin):
    """What the mixin needs of a trial `TestCase`, which would run the reactor that runs these tests."""

    job_server_options = {"job_handle_prefix": "H:trial", "name": "jobs"}  # noqa: RUF012  # as the tests of users

    def __init__(self) -> None:
        self.cleanups: list[Callable[[], Deferred[None]]] = []

    def addCleanup(self, cleanup: Callable[[], Deferred[None]]) -> None:  # noqa: N802  # trial's name
        self.cleanups.append(cleanup)


@pytest.mark.daemon("gearmand")
@pytest.mark.parametrize("failed", [False, True])
async def test_mixin_ends_gearmand(failed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A failing test prints the end of its log."""
    case = Case()
    server = case.job_server
    assert (await server.client().add_task_bg("mail")).handle == b"H:trial:1"
    case._test_failed = failed
    (cleanup,) = case.cleanups
    await cleanup()
    assert (is_alive(server), "job_server" in vars(case)) == (False, False)
    assert ("the last lines of the log of gearmand:\n" in capsys.readouterr().out) == failed


@pytest.mark.parametrize(("required", "error"), [(False, SkipTest), (True, GearmandMissing)])
def test_mixin_skips_a_test_without_gearmand(
    required: bool, error: type[Exception], none_is_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Case, "gearmand_required", required)
    with pytest.raises(error, match="needs gearmand, which is not installed"):
        Case().job_server  # noqa: B018  # it raises
