"""``txgearman top``."""

from __future__ import annotations

import signal

from twisted.internet.task import deferLater

from txgearman import Answers, FunctionStatus, GearmanClient, NoServersAvailable
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.top import History, server_table

from ..daemons import Gearmand, free_port
from .harness import RunningCommand, reactor, run_command


def answers(**servers: list[FunctionStatus]) -> Answers[tuple[FunctionStatus, ...]]:
    return Answers({address: tuple(functions) for address, functions in servers.items()}, {})


def test_functions_are_added_up_and_sorted_by_jobs() -> None:
    a = [FunctionStatus(b"idle", 0, 0, 3), FunctionStatus(b"busy", 5, 2, 2)]
    b = [FunctionStatus(b"busy", 10, 1, 1), FunctionStatus(b"also idle", 0, 0, 0)]
    table = History().update(answers(a=a, b=b), now=0.0)
    assert table.columns == ("function", "queued", "running", "workers", "change/s")
    assert table.rows == [(b"busy", 12, 3, 3, None), (b"also idle", 0, 0, 0, None), (b"idle", 0, 0, 3, None)]


def test_rate_is_change_per_second_since_last_update() -> None:
    history = History()
    history.update(answers(a=[FunctionStatus(b"f", 100, 0, 0)], b=[FunctionStatus(b"f", 7, 0, 0)]), now=10.0)
    table = history.update(answers(a=[FunctionStatus(b"f", 60, 0, 0)], b=[FunctionStatus(b"f", 17, 0, 0)]), now=12.0)
    assert table.rows == [(b"f", 77, 0, 0, "-15.0")]


def test_missing_answer_does_not_affect_rate() -> None:
    history = History()
    both = answers(a=[FunctionStatus(b"f", 100, 0, 0)], b=[FunctionStatus(b"f", 7, 0, 0)])
    history.update(both, now=0.0)
    history.update(answers(a=[FunctionStatus(b"f", 100, 0, 0)]), now=1.0)
    assert history.update(both, now=2.0).rows == [(b"f", 107, 0, 0, "+0.0")]


def test_server_table_has_row_for_each_server() -> None:
    functions = [FunctionStatus(b"f", 5, 2, 2), FunctionStatus(b"g", 1, 0, 2)]
    assert server_table(answers(a=functions, b=[])).rows == [("a", 4, 2, 2), ("b", 0, 0, 0)]


async def test_top_prints_table_at_each_update_without_terminal(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.add_task_bg("f")
    result = await run_command("top", "-c", "2", "-i", "0.01", "-s", gearmand.address)
    assert result == (ExitCode.DONE, b"f\t1\t0\t0\t-\nf\t1\t0\t0\t+0.0\n", "")


async def test_top_restores_screen_of_terminal(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.add_task_bg("f")
    unreachable = f"127.0.0.1:{free_port()}"
    top = RunningCommand("top", "-i", "0.05", "-s", gearmand.address, "-s", unreachable, terminal=True)
    shown = b""
    while b"+0.0" not in shown:
        shown += top.read_screen()
        await deferLater(reactor, 0.01)
    result = await top.finish(signal.SIGINT)
    shown += result.out
    assert result.code == 130
    for text in (gearmand.address, "refused", "queued", "running", "workers", "functions"):
        assert text.encode() in shown
    assert shown.index(b"\x1b[?1049h") < shown.index(b"\x1b[?1049l")
    assert shown.index(b"\x1b[?25l") < shown.rindex(b"\x1b[?25h")


def test_error_of_server_gives_empty_table() -> None:
    lost = Answers[tuple[FunctionStatus, ...]]({}, {"a": NoServersAvailable({"a": OSError()})})
    assert History().update(lost, now=0.0).rows == []
