"""Progress and warnings on standard error."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from txgearman.cli.progress import LineProgress, ProgressBar, make_progress
from txgearman.cli.terminal import Terminal
from txgearman.client.task import Task

from ..programs import open_terminal

HOSTILE = b"\x1b]0;x\x07\ttwo\r\n\xc2\x9b1mtxgearman: forged\xff\r\n"

SHOWN = "f: warning: \\x1b]0;x\\x07  two\nf: warning: \\u009b1mtxgearman: forged\\xff\n"


class Stderr:
    """Standard error of a terminal, which the test reads."""

    def __init__(self, source: int, descriptor: int) -> None:
        self._source = source
        self._descriptor = descriptor
        self.terminal = Terminal(Clock(), stdout=descriptor, stderr=descriptor)

    def read(self) -> str:
        os.write(self._descriptor, b"\0")
        read = b""
        while not read.endswith(b"\0"):
            read += os.read(self._source, 65536)
        return read[:-1].replace(b"\r\n", b"\n").decode()


@pytest.fixture(params=["pipe", "terminal"])
def stderr(request: pytest.FixtureRequest) -> Iterator[Stderr]:
    source, descriptor = os.pipe() if request.param == "pipe" else open_terminal()
    yield Stderr(source, descriptor)
    os.close(source)
    os.close(descriptor)


def test_each_line_of_warning_is_printable_and_says_whose_it_is(stderr: Stderr) -> None:
    with make_progress(stderr.terminal, quiet=False) as progress:
        progress.warning_received(Task("f"), HOSTILE)
    assert stderr.read().endswith(SHOWN)


def test_empty_warning_is_a_line(stderr: Stderr) -> None:
    with make_progress(stderr.terminal, quiet=False) as progress:
        progress.warning_received(Task("f"), b"")
    assert stderr.read() == "f: warning: \n"


def test_function_of_progress_is_printable_and_no_markup(stderr: Stderr) -> None:
    with make_progress(stderr.terminal, quiet=False) as progress:
        progress.status_received(Task(b"[/red]\x1b[2J\\"), 1, 4)
        shown = stderr.read()
    assert "[/red]\\x1b[2J\\\\" in shown
    assert ("1/4" in shown) is isinstance(progress, LineProgress)
    assert ("25%" in shown) is isinstance(progress, ProgressBar)


def test_quiet_hides_warnings_and_progress(stderr: Stderr) -> None:
    with make_progress(stderr.terminal, quiet=True) as progress:
        progress.warning_received(Task("f"), HOSTILE)
        progress.status_received(Task("f"), 1, 4)
    assert stderr.read() == ""
