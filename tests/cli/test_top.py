"""``txgearman top``."""

from __future__ import annotations

import signal

from twisted.internet.task import deferLater

from txgearman import Answers, FunctionStatus, GearmanClient, NoServersAvailable
from txgearman.cli.exit_codes import Exit
from txgearman.cli.top import History, server_rows

from ..daemons import Gearmand, free_port
from .harness import Started, command, reactor


def answers(**servers: list[FunctionStatus]) -> Answers[tuple[FunctionStatus, ...]]:
    return Answers({address: tuple(functions) for address, functions in servers.items()}, {})


def test_functions_of_all_servers_are_added_up_the_busiest_first() -> None:
    a = [FunctionStatus(b"idle", 0, 0, 3), FunctionStatus(b"busy", 5, 2, 2)]
    b = [FunctionStatus(b"busy", 10, 1, 1), FunctionStatus(b"also idle", 0, 0, 0)]
    table = History().table(answers(a=a, b=b), now=0.0)
    assert table.columns == ("function", "queued", "running", "workers", "change/s")
    assert table.rows == [(b"busy", 12, 3, 3, None), (b"also idle", 0, 0, 0, None), (b"idle", 0, 0, 3, None)]


def test_rates_are_those_of_the_time_between_two_looks() -> None:
    history = History()
    history.table(answers(a=[FunctionStatus(b"f", 100, 0, 0)], b=[FunctionStatus(b"f", 7, 0, 0)]), now=10.0)
    table = history.table(answers(a=[FunctionStatus(b"f", 60, 0, 0)], b=[FunctionStatus(b"f", 17, 0, 0)]), now=12.0)
    assert table.rows == [(b"f", 77, 0, 0, "-15.0")]


def test_a_server_that_does_not_answer_changes_no_rate() -> None:
    history = History()
    both = answers(a=[FunctionStatus(b"f", 100, 0, 0)], b=[FunctionStatus(b"f", 7, 0, 0)])
    history.table(both, now=0.0)
    history.table(answers(a=[FunctionStatus(b"f", 100, 0, 0)]), now=1.0)
    assert history.table(both, now=2.0).rows == [(b"f", 107, 0, 0, "+0.0")]


def test_each_server_has_a_row() -> None:
    functions = [FunctionStatus(b"f", 5, 2, 2), FunctionStatus(b"g", 1, 0, 2)]
    assert server_rows(answers(a=functions, b=[])).rows == [("a", 4, 2, 2), ("b", 0, 0, 0)]


async def test_to_a_program_it_is_a_table_each_time(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.add_task_bg("f")
    ran = await command("top", "-c", "2", "-i", "0.01", "-s", gearmand.address)
    assert ran == (Exit.DONE, b"f\t1\t0\t0\t-\nf\t1\t0\t0\t+0.0\n", "")


async def test_on_a_terminal_it_has_the_screen_and_gives_it_back(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.add_task_bg("f")
    nobody = f"127.0.0.1:{free_port()}"
    top = Started("top", "-i", "0.05", "-s", gearmand.address, "-s", nobody, terminal=True)
    shown = b""
    while b"+0.0" not in shown:
        shown += top.shown_so_far()
        await deferLater(reactor, 0.01)
    ran = await top.end(signal.SIGINT)
    shown += ran.out
    assert ran.code == 130
    for text in (gearmand.address, "refused", "queued", "running", "workers", "functions"):
        assert text.encode() in shown
    assert shown.index(b"\x1b[?1049h") < shown.index(b"\x1b[?1049l")
    assert shown.index(b"\x1b[?25l") < shown.rindex(b"\x1b[?25h")


def test_the_error_of_a_server_is_an_answer_too() -> None:
    lost = Answers[tuple[FunctionStatus, ...]]({}, {"a": NoServersAvailable({"a": OSError()})})
    assert History().table(lost, now=0.0).rows == []
