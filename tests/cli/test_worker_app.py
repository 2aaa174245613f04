"""``txgearman work --app`` and ``--http``: workers of programs, and pages with metrics and health."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from txgearman import GearmanClient
from txgearman.cli.exit_codes import ExitCode

from ..daemons import Gearmand, free_port
from .harness import RunningCommand, parse_command, usage_error

APPS = "tests.cli.apps"


@pytest.fixture(autouse=True)
def served(gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_GEARMAND", gearmand.address)


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def client(gearmand: Gearmand) -> AsyncIterator[GearmanClient]:
    async with GearmanClient([gearmand.address]) as client:
        yield client


async def get(url: str) -> tuple[int, str]:
    """Return the status and the text of a page."""

    def read() -> tuple[int, str]:
        try:
            with urlopen(url, timeout=10) as page:
                return page.status, page.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    return await deferToThread(read)


async def url_of(command: RunningCommand) -> str:
    """Wait until the pages are served; return their URL."""
    await command.wait_for("/metrics")
    match = re.search(r"serving (http://\S+)/metrics", command.stderr())
    assert match is not None
    return match[1]


@pytest.mark.parametrize("name", ["make_worker", "worker"])
async def test_worker_of_program_runs_jobs(client: GearmanClient, name: str) -> None:
    command = RunningCommand("work", "--app", f"{APPS}:{name}")
    assert await client.add_task("upper", b"abc", timeout=10) == b"ABC"
    assert (await command.finish(signal.SIGTERM)).code == ExitCode.DONE


async def test_job_that_outlives_the_drain_is_cut_off(client: GearmanClient) -> None:
    command = RunningCommand("work", "--drain", "0.1", "--app", f"{APPS}:make_worker")
    client.add_task("never_end", on_created=lambda task: None).addErrback(lambda _: None)
    await client.add_task("upper", timeout=10)
    result = await command.finish(signal.SIGTERM)
    assert (result.code, "cut off 1 jobs" in result.err) == (ExitCode.FAILED, True)


async def test_pages_of_a_worker(gearmand: Gearmand, client: GearmanClient) -> None:
    command = RunningCommand("work", "-s", gearmand.address, "--http", "0", "f=tests.cli.jobs:shout")
    url = await url_of(command)
    await client.add_task("f", b"abc", timeout=10)
    status, text = await get(f"{url}/metrics")
    assert (status, 'txgearman_jobs_total{function="f",outcome="done"} 1.0' in text) == (200, True)
    assert f'txgearman_server_ready{{server="{gearmand.address}"}} 1.0' in text
    assert await get(f"{url}/healthz") == (200, "ok\n")
    assert await get(f"{url}/readyz") == (200, "ok\n")
    await command.finish(signal.SIGTERM)


async def test_pages_of_a_worker_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics are those that the program has registered; there may be none of ours."""
    monkeypatch.setenv("TEST_GEARMAND", f"127.0.0.1:{free_port()}")
    command = RunningCommand("work", "--http", "127.0.0.1:0", "--app", f"{APPS}:make_worker")
    url = await url_of(command)
    assert (await get(f"{url}/metrics"))[0] == 200
    status, text = await get(f"{url}/readyz")
    assert (status, text.startswith("GearmanWorker: 127.0.0.1:")) == (503, True)
    await command.finish(signal.SIGTERM)


def test_log_of_a_worker_of_a_program_may_be_verbose() -> None:
    _, verbosity = parse_command("work", "-vv", "--app", f"{APPS}:make_worker")
    assert verbosity == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "Missing argument 'FUNCTION'"),
        (["--app", f"{APPS}:make_worker", "-j", "3"], "--app excludes '-j' / '--jobs': the worker has its own"),
        (["--app", f"{APPS}:make_worker", "f", "cat"], "--app excludes"),
        (["-s", "h", "--app", f"{APPS}:make_worker"], "--app excludes"),
    ],
)
def test_invalid_combination_is_a_usage_error(arguments: list[str], text: str) -> None:
    assert text in usage_error("work", *arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--app", "apps"], "--app must be package.module:worker, not 'apps'"),
        (["--app", "nowhere_at_all:worker"], "can't import nowhere_at_all:worker"),
        (["--app", f"{APPS}:NOT_A_WORKER"], "--app must name a GearmanWorker, or a callable that makes one, not 'wor"),
        (["--app", f"{APPS}:make_nothing"], "--app must name a GearmanWorker, or a callable that makes one, not None"),
        (["--http", "x", "--app", f"{APPS}:make_worker"], "--http must be PORT or HOST:PORT"),
        (["--http", "x", "f=tests.cli.jobs:shout"], "--http must be PORT or HOST:PORT"),
    ],
)
async def test_invalid_name_or_address_exits_with_2(arguments: list[str], text: str) -> None:
    result = await RunningCommand("work", *arguments).finish()
    assert (result.code, text in result.err) == (ExitCode.USAGE, True)


async def test_module_with_a_syntax_error_exits_with_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_app.py").write_text("worker = (\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = await RunningCommand("work", "--app", "broken_app:worker").finish()
    assert result.code == ExitCode.USAGE
    assert re.search(r"can't import broken_app:worker: .*broken_app\.py, line 1", result.err)
