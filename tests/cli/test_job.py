"""``txgearman job``."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from txgearman import GearmanClient, GearmanWorker, Job
from txgearman.cli.exit_codes import ExitCode
from txgearman.testing import MemoryJobServer

from ..daemons import Geard, Gearmand, free_port
from .harness import RunningCommand, reactor, run_command, run_command_for_geard, usage_error


class Server:
    """A job server in memory, which is reached over TCP, with a client.

    :ivar address: its address.
    """

    def __init__(self) -> None:
        self.memory = MemoryJobServer(reactor)
        self.address = self.memory.listen()
        self.client = GearmanClient([self.address])


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # pytest-twisted has no types
async def server() -> AsyncIterator[Server]:
    opened = Server()
    yield opened
    await opened.client.stopService()
    await opened.memory.close()


async def test_job_prints_status_of_handle(server: Server) -> None:
    handle = await server.client.add_task_bg("f")
    bare = handle.handle.decode()
    for text in (str(handle), bare):
        assert await run_command("job", text, "-s", server.address) == (
            0,
            f"{bare}\t{server.address}\tyes\tno\t-\t-\n".encode(),
            "",
        )
    taken = server.memory.take("f")
    taken.send_status(3, 8)
    assert (await run_command("job", bare, "-s", server.address)).rows == [
        [bare, server.address, "yes", "yes", "3/8", "-"]
    ]


async def test_unknown_job_has_row_and_exit_code(server: Server) -> None:
    assert await run_command("job", "H:none:1", "-s", server.address) == (
        ExitCode.REFUSED,
        f"H:none:1\t{server.address}\tno\tno\t-\t-\n".encode(),
        "txgearman: H:none:1: no server has this job\n",
    )


async def test_handle_without_server_is_asked_of_all(server: Server) -> None:
    other = Server()
    bare = (await other.client.add_task_bg("f")).handle.decode()
    options = "-s", server.address, "-s", other.address
    result = await run_command("job", bare, "H:none:1", *options)
    assert result.rows == [[bare, other.address, "yes", "no", "-", "-"], ["H:none:1", "-", "no", "no", "-", "-"]]
    assert result.code == ExitCode.REFUSED
    await other.client.stopService()
    await other.memory.close()


async def test_server_that_is_down_is_reported(server: Server) -> None:
    bare = (await server.client.add_task_bg("f")).handle.decode()
    down = f"127.0.0.1:{free_port()}"
    result = await run_command("job", bare, "H:none:1", "-s", down, "-s", server.address)
    assert [row[:3] for row in result.rows] == [[bare, server.address, "yes"], ["H:none:1", "-", "no"]]
    assert result.code == ExitCode.NO_SERVER
    assert result.err.splitlines()[0].startswith(f"txgearman: {down}: Connection was refused")
    assert len(result.err.splitlines()) == 1  # the job may be on the server that is down
    alone = await run_command("job", "H:none:1", "-s", down)
    assert (alone.code, alone.out) == (ExitCode.NO_SERVER, b"")


async def test_json_has_numbers_of_progress(server: Server) -> None:
    handle = await server.client.add_task_bg("f")
    server.memory.take("f").send_status(3, 8)
    (row,) = json.loads((await run_command("job", str(handle), "--json")).out)
    assert row == {
        "job": handle.handle.decode(),
        "server": server.address,
        "known": True,
        "running": True,
        "progress": {"numerator": 3, "denominator": 8},
        "clients": None,
    }


async def test_watch_ends_when_the_job_has_ended(server: Server) -> None:
    handle = await server.client.add_task_bg("f")
    watching = RunningCommand("job", str(handle), "--watch", "10ms")
    await watching.wait_for("\tyes\tno\t-\t-\n")
    taken = server.memory.take("f")
    await watching.wait_for("\tyes\tyes\t-\t-\n")
    taken.complete(b"")
    result = await watching.finish()
    assert (result.code, result.err) == (0, "")
    assert result.rows[-1][2:] == ["no", "no", "-", "-"]


async def test_watch_of_unknown_job_ends_at_once(server: Server) -> None:
    result = await run_command("job", "H:none:1", "-w", "-s", server.address)
    assert (result.code, len(result.rows)) == (ExitCode.REFUSED, 1)


async def test_watch_waits_for_server_that_is_down() -> None:
    watching = RunningCommand("job", "H:none:1", "-w", "10ms", "-s", f"127.0.0.1:{free_port()}")
    await watching.wait_for("Connection was refused", times=2)
    assert (await watching.finish(signal.SIGINT)).code == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "use one or more HANDLEs, or --unique KEY"),
        (["H:1", "--unique", "u"], "use one or more HANDLEs, or --unique KEY"),
    ],
)
def test_either_handles_or_unique_are_needed(arguments: list[str], message: str) -> None:
    assert usage_error("job", *arguments) == message


@pytest.mark.parametrize("arguments", [["//"], ["x" * 64], ["-u", "-"], ["-u", "u" * 64], ["H:1", "-s", "a:b:c"]])
async def test_invalid_name_of_job_is_usage_error(arguments: list[str]) -> None:
    result = await run_command("job", *arguments)
    assert (result.code, result.out) == (ExitCode.USAGE, b"")


@pytest.mark.daemon
async def test_unique_reports_waiting_clients_of_gearmand(gearmand: Gearmand, second_gearmand: Gearmand) -> None:
    options = "-s", second_gearmand.address, "-s", gearmand.address
    async with GearmanClient([gearmand.address]) as client, GearmanClient([gearmand.address]) as other:
        waiting = [each.add_task("f", b"", unique="u\xff") for each in (client, other)]
        await client.add_task_bg("g")  # the tasks before it have reached the server
        await other.add_task_bg("g")
        result = await run_command("job", "--unique", "u\xff".encode(), *options)
        assert result.rows == [["uÿ", gearmand.address, "yes", "no", "-", "2"]]

        def function(job: Job) -> bytes:
            job.send_status(1, 4)
            return b""

        async with GearmanWorker([gearmand.address]) as worker:
            worker.register_function("f", function)
            for task in waiting:
                await task
    assert (await run_command("job", "-u", "u\xff".encode(), *options)).code == ExitCode.REFUSED


@pytest.mark.daemon
async def test_progress_on_gearmand_is_printed(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        handle = await client.add_task_bg("f")
        ended: Deferred[bytes] = Deferred()

        def function(job: Job) -> Deferred[bytes]:
            job.send_status(3, 8)
            return ended

        async with GearmanWorker([gearmand.address]) as worker:
            worker.register_function("f", function)
            watching = RunningCommand("job", str(handle), "-w", "10ms")
            await watching.wait_for("\tyes\tyes\t3/8\t-\n")
            ended.callback(b"")
            assert (await watching.finish()).code == 0


@pytest.mark.daemon
async def test_unique_on_geard_is_refused(geard: Geard) -> None:
    result = await run_command_for_geard("job", "-u", "u", "-s", geard.address)
    assert result.code == ExitCode.REFUSED
    assert result.err.startswith(f"txgearman: {geard.address}: ")
