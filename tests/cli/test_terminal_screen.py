"""What a terminal does for a screen that is kept up to date: its keys, its modes, and lines for standard error."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txgearman.cli.terminal import MAX_HELD, Terminal

from ..programs import open_terminal
from .harness import reactor


class Turns(Clock):
    """A reactor whose turns the test makes."""

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.callLater(0, call)

    def addReader(self, reader: object) -> None:  # noqa: N802  # Twisted's name
        pass

    def removeReader(self, reader: object) -> None:  # noqa: N802  # Twisted's name
        pass


class Pty:
    """A terminal whose master side the test has."""

    def __init__(self) -> None:
        self.master, self.slave = open_terminal()
        self.terminal = Terminal(reactor, self.slave, self.slave, self.slave)

    @property
    def is_canonical(self) -> bool:
        """Whether the terminal waits for ends of lines."""
        return bool(termios.tcgetattr(self.slave)[3] & termios.ICANON)

    def output(self) -> bytes:
        os.write(self.slave, b"\0")
        shown = b""
        while not shown.endswith(b"\0"):
            shown += os.read(self.master, 65536)
        return shown[:-1].replace(b"\r\n", b"\n")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe to read from and to write to."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def pty() -> Iterator[Pty]:
    opened = Pty()
    yield opened
    os.close(opened.master)
    os.close(opened.slave)


async def test_keys_are_received_at_once_and_mode_is_restored(pty: Pty) -> None:
    typed: Deferred[bytes] = Deferred()
    with pty.terminal.on_keys(typed.callback):
        assert not pty.is_canonical
        os.write(pty.master, b"\x1b[A")
        assert await typed == b"\x1b[A"
    assert pty.is_canonical
    assert not [reader for reader in reactor.getReaders() if reader.fileno() == pty.slave]


async def test_reading_of_keys_ends_with_the_terminal(monkeypatch: pytest.MonkeyPatch, pty: Pty) -> None:
    ended: Deferred[None] = Deferred()

    def read(*_: object) -> bytes:
        reactor.callLater(0, ended.callback, None)
        return b""

    with pty.terminal.on_keys(lambda _: pytest.fail("no key was typed")):
        monkeypatch.setattr("txgearman.cli.terminal.os.read", read)
        os.write(pty.master, b"x")
        await ended
        assert not [reader for reader in reactor.getReaders() if reader.fileno() == pty.slave]
        monkeypatch.undo()


def test_reading_of_keys_ends_with_the_reactor(pty: Pty) -> None:
    """Which calls this for each reader that is left when it stops."""
    with pty.terminal.on_keys(lambda _: None):
        (reader,) = [reader for reader in reactor.getReaders() if reader.fileno() == pty.slave]
        reader.connectionLost(Failure(ConnectionDone()))
        assert reader not in reactor.getReaders()


def test_no_keys_are_read_without_terminal(pipe: tuple[int, int]) -> None:
    with Terminal(reactor, pipe[0], pipe[1], pipe[1]).on_keys(lambda _: None):
        assert not [reader for reader in reactor.getReaders() if reader.fileno() == pipe[0]]


def test_no_keys_are_read_in_background(monkeypatch: pytest.MonkeyPatch, pty: Pty) -> None:
    monkeypatch.setattr("txgearman.cli.terminal.os.tcgetpgrp", lambda _: os.getpgrp() + 1)
    with pty.terminal.on_keys(lambda _: None):
        assert pty.is_canonical


def test_lines_for_terminal_are_held_while_another_screen_is_shown(pty: Pty) -> None:
    with pty.terminal.live_screen():
        for number in range(MAX_HELD + 1):
            pty.terminal.write_error(f"warning {number}")
        assert b"warning" not in pty.output()
    shown = pty.output()
    assert shown.index(b"\x1b[?1049l") < shown.index(b"warning 1\n")
    assert (shown.count(b"warning"), shown.count(b"warning 0\n")) == (MAX_HELD, 0)


def test_lines_for_file_are_not_held(pty: Pty, pipe: tuple[int, int]) -> None:
    terminal = Terminal(reactor, pty.slave, pty.slave, pipe[1])
    with terminal.live_screen():
        terminal.write_error("warning")
        assert os.read(pipe[0], 100) == b"warning\n"


def test_ctrl_z_restores_terminal_until_process_continues(monkeypatch: pytest.MonkeyPatch, pty: Pty) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGWINCH)]
    seen: list[object] = []

    def stopped(pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGSTOP)
        seen.extend([pty.is_canonical, pty.output().endswith(b"\x1b[?25h\x1b[?1049l")])

    monkeypatch.setattr("txgearman.cli.terminal.os.kill", stopped)
    clock = Turns()
    pty.terminal.reactor = clock
    shows, reads = pty.terminal.live_screen(), pty.terminal.on_keys(lambda _: None)
    with shows, reads, pty.terminal.on_signals(lambda: seen.append("drawn")):
        signal.raise_signal(signal.SIGTSTP)
        clock.advance(0)
        assert seen == [True, True, "drawn"]
        assert not pty.is_canonical
        assert pty.output() == b"\x1b[?1049h\x1b[H\x1b[?25l"
        signal.raise_signal(signal.SIGWINCH)
        clock.advance(0)
        assert seen[3:] == ["drawn"]
    assert [signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGWINCH)] == before


def test_ignored_ctrl_z_stays_ignored(pty: Pty) -> None:
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        with pty.terminal.on_signals(lambda: None):
            assert signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTSTP, before)


def test_immediate_exit_restores_terminal(pty: Pty) -> None:
    with pty.terminal.live_screen(), pty.terminal.on_keys(lambda _: None):
        pty.output()
        pty.terminal.clean_up()
        assert pty.is_canonical
        assert pty.output().endswith(b"\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize(("name", "has_screen"), [("xterm", True), ("dumb", False), ("unknown", False), ("", False)])
def test_screen_depends_on_type_of_terminal(
    monkeypatch: pytest.MonkeyPatch, pty: Pty, name: str, has_screen: bool
) -> None:
    monkeypatch.setenv("TERM", name)
    assert pty.terminal.has_screen is has_screen


def test_file_is_no_screen(monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert not Terminal(reactor, pipe[0], pipe[1], pipe[1]).has_screen


def test_size_of_terminal_is_that_of_its_window(pty: Pty) -> None:
    assert pty.terminal.size == (80, 24)
    fcntl.ioctl(pty.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 40, 0, 0))
    assert pty.terminal.size == (40, 10)


def test_line_for_standard_error_stays_one_printable_line(pty: Pty) -> None:
    pty.terminal.write_error("txgearman: \x1b]0;x\x07\r\nforged \x9b1m")
    assert pty.output() == b"txgearman: \\x1b]0;x\\x07\\r\\nforged \\u009b1m\n"


def test_lines_for_standard_error_are_printable(pty: Pty) -> None:
    pty.terminal.write_error_lines("Traceback\n  Error: \x1b[2J\n")
    assert pty.output() == b"Traceback\n  Error: \\x1b[2J\n"


def test_no_keys_are_read_where_terminals_have_no_modes(monkeypatch: pytest.MonkeyPatch, pty: Pty) -> None:
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "termios", None)
    with pty.terminal.on_keys(lambda _: None):
        assert not [reader for reader in reactor.getReaders() if reader.fileno() == pty.slave]
