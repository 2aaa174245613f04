"""The screen of ``top`` and ``--watch``: its lines, its keys, and where there is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import Clock

from txgearman import NoServersAvailable, ServerError
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.screen import KEYS_HELP, View, watch
from txgearman.cli.tables import Table
from txgearman.cli.terminal import Terminal

from ..wire import outcome

UP, DOWN, PAGE_UP, PAGE_DOWN = b"\x1b[A", b"\x1bOB", b"\x1b[5~", b"\x1b[6~"

REFUSED = {"a:1": NoServersAvailable({"a:1": OSError("refused")}, next_attempts={"a:1": 1.5})}


class Console:
    """Stands for the console of rich: only its size is used."""

    size = (0, 0)


class RecordedScreen(Terminal):
    """A terminal that keeps the lines which are drawn.

    :ivar type_keys: what is called with typed keys.
    :ivar redraw: what is called after the size has changed.
    """

    has_screen = True
    size = (60, 12)

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.lines: list[str] = []
        self.styles: list[str] = []
        self.errors: list[str] = []
        self.console = Console()
        self.type_keys: Callable[[bytes], None] = NotImplemented
        self.redraw: Callable[[], None] = NotImplemented
        self.is_open = False

    @contextmanager
    def live_screen(self) -> Iterator[Any]:
        self.is_open = True
        yield self
        self.is_open = False

    @contextmanager
    def on_keys(self, received: Callable[[bytes], None]) -> Iterator[None]:
        self.type_keys = received
        yield

    @contextmanager
    def on_signals(self, redraw: Callable[[], None]) -> Iterator[None]:
        self.redraw = redraw
        yield

    def update(self, renderable: Any, *, refresh: bool) -> None:
        assert refresh
        if not hasattr(renderable, "renderables"):
            assert renderable.plain == "waiting for the answers of servers"
            return
        self.lines = [text.plain for text in renderable.renderables]
        self.styles = [text.style for text in renderable.renderables]

    def write_error(self, text: str) -> None:
        assert not self.is_open
        self.errors.append(text)


def table(count: int, wrong: int = 0) -> Table:
    rows = [(b"f%02d" % number, number) for number in range(count)]
    return Table(("function", "jobs"), rows, range(wrong))


class Watched:
    """A `watch` whose views come when the test says so.

    :ivar ended: what its Deferred has fired with.
    """

    def __init__(self, *views: View, **options: Any) -> None:
        self.clock = Clock()
        self.terminal = RecordedScreen(self.clock)
        self.queries: list[Deferred[View]] = []
        self.watching = ensureDeferred(watch(self.terminal, self._query, 2.0, **options))
        self.ended = outcome(self.watching)
        for view in views:
            self.show(view)

    async def _query(self) -> View:
        self.queries.append(Deferred())
        return await self.queries[-1]

    def show(self, view: View) -> None:
        self.queries[-1].callback(view)

    def type_keys(self, *keys: bytes) -> list[str]:
        """Type keys; return what the screen then shows."""
        for key in keys:
            self.terminal.type_keys(key)
        return self.terminal.lines

    @property
    def names(self) -> list[str]:
        """The functions on the screen."""
        return [line.split()[0] for line in self.terminal.lines if line.startswith("f") and line[1:3].isdigit()]


def test_screen_shows_errors_first_and_keys_last() -> None:
    watched = Watched(View("top", [table(2)], {**REFUSED, "b:1": ServerError("CODE", "no")}, "a note"))
    title, *rest = watched.terminal.lines
    assert re.fullmatch(r"top  \d\d:\d\d:\d\d", title)
    assert rest == [
        "a:1: refused",
        "b:1: CODE: no",
        "function  jobs",
        "f00          0",
        "f01          1",
        *[""] * 4,
        "a note",
        KEYS_HELP,
    ]
    assert watched.terminal.styles[1] == "bold red"
    assert watched.terminal.console.size == watched.terminal.size


def test_tables_before_the_last_are_cut() -> None:
    servers = Table(("server",), [(f"s{number}",) for number in range(9)], [0])
    watched = Watched(View("top", [servers, table(3, wrong=1)], {}))
    assert watched.terminal.lines[1:7] == ["server", "s0", "s1", "... and 7 more", "", "function  jobs"]
    assert watched.terminal.styles[2:4] == ["red", ""]
    assert watched.terminal.styles[7:9] == ["red", ""]
    assert len(watched.terminal.lines) == 12


def test_many_errors_leave_space_for_tables() -> None:
    errors = {f"{number}:1": ServerError("CODE", "no") for number in range(9)}
    watched = Watched(View("top", [table(1)], errors))
    assert watched.terminal.lines[2:5] == ["1:1: CODE: no", "... and 7 more servers", "function  jobs"]


def test_long_lines_are_cut() -> None:
    watched = Watched(View("top", [table(1)], {"a": ServerError("CODE", "x" * 99)}))
    assert watched.terminal.lines[1] == "a: CODE: " + "x" * 50 + "…"


def test_screen_is_drawn_in_its_new_size() -> None:
    watched = Watched(View("top", [table(30)], {}))
    watched.terminal.size = (40, 20)
    watched.terminal.redraw()
    assert len(watched.terminal.lines) == 20


def test_key_s_sorts_by_each_column_in_turn() -> None:
    watched = Watched(View("top", [table(3)], {}))
    assert watched.names == ["f00", "f01", "f02"]
    assert watched.type_keys(b"s")[0].endswith("  by function")
    assert watched.type_keys(b"s")[0].endswith("  by jobs")
    assert watched.names == ["f02", "f01", "f00"]
    assert watched.type_keys(b"r")[0].endswith("  by jobs, reversed")
    assert watched.names == ["f00", "f01", "f02"]
    assert " by " not in watched.type_keys(b"s")[0]


def test_keys_scroll_by_lines_and_pages() -> None:
    watched = Watched(View("top", [table(30)], {}))
    assert watched.names[0] == "f00"
    assert watched.terminal.lines[0].endswith("  1-9 of 30")
    for key, first in [
        (DOWN, "f01"),
        (b"j", "f02"),
        (UP, "f01"),
        (PAGE_DOWN, "f10"),
        (PAGE_UP, "f01"),
        (b"G", "f21"),
        (PAGE_DOWN, "f21"),
        (b"k", "f20"),
        (b"g", "f00"),
        (UP, "f00"),
        (b"x", "f00"),
        (b"\x1b[B\x1b[B", "f02"),
    ]:
        watched.type_keys(key)
        assert watched.names[0] == first, key
    assert len(watched.names) == 9
    assert watched.terminal.lines[0].endswith("  3-11 of 30")


def test_offset_shrinks_with_the_table() -> None:
    watched = Watched(View("top", [table(30)], {}))
    watched.type_keys(b"G")
    watched.clock.advance(2)
    watched.show(View("top", [table(2)], {}))
    assert watched.names == ["f00", "f01"]


def test_keys_before_the_first_view_are_harmless() -> None:
    watched = Watched()
    watched.type_keys(b"s", b"r", DOWN)
    watched.show(View("top", [table(1)], {}))
    assert watched.names == ["f00"]


def test_view_is_updated_after_each_interval() -> None:
    watched = Watched(View("top", [table(1)], {}))
    watched.clock.advance(1.9)
    assert len(watched.queries) == 1
    watched.clock.advance(0.1)
    watched.show(View("top", [table(2)], {}))
    assert watched.names == ["f00", "f01"]


@pytest.mark.parametrize("key", [b" ", b"p"])
def test_pause_delays_the_next_update(key: bytes) -> None:
    watched = Watched(View("top", [table(1)], {}))
    assert watched.type_keys(key)[0].endswith("PAUSED")
    watched.clock.advance(60)
    assert len(watched.queries) == 1
    assert not watched.type_keys(key)[0].endswith("PAUSED")
    assert len(watched.queries) == 2


def test_end_of_pause_within_interval_does_not_hasten_update() -> None:
    watched = Watched(View("top", [table(1)], {}))
    watched.type_keys(b" ", b" ")
    assert len(watched.queries) == 1
    watched.clock.advance(2)
    assert len(watched.queries) == 2


@pytest.mark.parametrize(
    ("errors", "code", "reported"),
    [({}, ExitCode.DONE, []), (REFUSED, ExitCode.NO_SERVER, ["txgearman: a:1: refused"])],
)
@pytest.mark.parametrize("in_query", [False, True])
def test_key_q_ends_with_exit_code_and_errors_of_last_view(
    errors: dict[str, Any], code: ExitCode, reported: list[str], in_query: bool
) -> None:
    watched = Watched(View("top", [table(1)], errors))
    watched.clock.advance(2.0 if in_query else 1.0)
    watched.terminal.type_keys(b"qq")
    assert watched.ended == [code]
    assert watched.terminal.errors == reported
    assert watched.clock.getDelayedCalls() == []


def test_key_q_before_the_first_view_ends_with_success() -> None:
    watched = Watched()
    watched.terminal.type_keys(b"q")
    assert watched.ended == [ExitCode.DONE]


def test_cancel_closes_screen() -> None:
    watched = Watched(View("top", [table(1)], {}))
    watched.watching.cancel()
    assert isinstance(watched.ended[0], CancelledError)


def test_count_limits_updates() -> None:
    watched = Watched(View("top", [table(1)], {}), count=2)
    watched.clock.advance(2)
    watched.show(View("top", [table(1)], {}))
    assert watched.ended == [ExitCode.DONE]
