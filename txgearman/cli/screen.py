"""The whole screen of a terminal, kept up to date: what is wrong first, then tables that keys sort and scroll.

`watch` repeats a query and shows each `View`. Where there is no screen (a pipe, a file, TERM=dumb), it prints rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import deferLater

from ..errors import GearmanError
from .exit_codes import ExitCode
from .server_errors import describe_error, exit_code_of, report_errors
from .tables import Table, cut, fit_table, print_table, sort_table
from .terminal import Terminal

if TYPE_CHECKING:
    from rich.text import Text
    from typing_extensions import Self

__all__ = ["View", "answer_limit", "watch"]

KEYS_HELP: Final = "q quit  s sort  r reverse  arrows scroll  space pause"

_KEY: Final = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)

_SCROLL_KEYS: Final = {
    b"k": -1,
    b"\x1b[A": -1,
    b"\x1bOA": -1,
    b"j": 1,
    b"\x1b[B": 1,
    b"\x1bOB": 1,
}
"""Lines to scroll, by key: the arrows have two sequences, of which the terminal's mode selects one."""

_PAGE_KEYS: Final = {b"\x1b[5~": -1, b"b": -1, b"\x1b[6~": 1, b"f": 1}
_HOME_KEYS: Final = {b"g", b"\x1b[H", b"\x1bOH", b"\x1b[1~"}
_END_KEYS: Final = {b"G", b"\x1b[F", b"\x1bOF", b"\x1b[4~"}


@dataclass(frozen=True)
class View:
    """What one update shows.

    :ivar title: the command.
    :ivar tables: the last one has the most space; it can be sorted and scrolled. The others are cut if they are long.
    :ivar errors: the errors of servers, by address, which are shown first.
    :ivar note: explains the last table.
    :ivar is_last: whether there is nothing more to show.
    """

    title: str
    tables: Sequence[Table]
    errors: Mapping[str, GearmanError]
    note: str = ""
    is_last: bool = False


def answer_limit(terminal: Terminal, timeout: float, interval: float) -> float | None:
    """Return the seconds that a server may take for its answer to a repeated query; None for no such limit.

    On a screen, the answers of others are not to wait for those of a server that hangs longer than for the next update,
    or than a second.
    """
    return min(timeout, max(1.0, interval)) if terminal.has_screen else None


async def watch(
    terminal: Terminal,
    query: Callable[[], Coroutine[Any, Any, View]],
    interval: float,
    *,
    count: int | None = None,
    json: bool = False,
) -> ExitCode:
    """Show a view every `interval` seconds: until the last one, the key q or a signal, or `count` times.

    :param query: makes the next view.
    :return: the exit code of the last view that was shown.
    """
    display = Screen(terminal) if terminal.has_screen and not json else Rows(terminal, json=json)
    view, shown = None, 0
    with display:
        while shown != count and not display.has_quit and not (view and view.is_last):
            try:
                if shown:
                    await display.until_quit(display.sleep(interval))
                view = await display.until_quit(ensureDeferred(query()))
            except CancelledError:
                if not display.has_quit:
                    raise
            else:
                await display.show(view)
                shown += 1
    return display.finish(view.errors) if view is not None else ExitCode.DONE


class Rows:
    """Output of views where there is no screen: the last table of each, and errors on standard error.

    :ivar has_quit: whether the user has quit.
    """

    has_quit = False

    def __init__(self, terminal: Terminal, *, json: bool) -> None:
        self._terminal = terminal
        self._json = json

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def show(self, view: View) -> None:
        """Print the last table and the errors."""
        await print_table(self._terminal, view.tables[-1], json=self._json)
        report_errors(self._terminal, view.errors)

    def finish(self, errors: Mapping[str, GearmanError]) -> ExitCode:
        """Return the exit code for the errors of the last view."""
        return exit_code_of(errors)

    def sleep(self, interval: float) -> Deferred[None]:
        """Wait for the next update."""
        return deferLater(self._terminal.reactor, interval)

    def until_quit(self, waiting: Deferred[Any]) -> Deferred[Any]:
        """Return the Deferred: there is no key to quit with."""
        return waiting


class Screen:
    """Output of views on the whole screen of the terminal.

    :ivar has_quit: whether the user has quit.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.has_quit = False
        self._terminal = terminal
        self._opened = ExitStack()
        self._live: Any = None
        self._waiting: Deferred[Any] | None = None  # cancelled by the key q
        self._wake: Callable[[], None] | None = None  # ends the sleep, once it is over
        self._view: View | None = None
        self._updated_at = 0.0
        self._paused = False
        self._sort: int | None = None  # column by which the last table is sorted; None for the order of the view
        self._reverse = False
        self._offset = 0  # rows of the last table above the screen
        self._page = 1  # its rows on the screen

    def __enter__(self) -> Self:
        self._live = self._opened.enter_context(self._terminal.live_screen())
        self._live.update(_line("waiting for the answers of servers", self._terminal.size[0]), refresh=True)
        self._opened.enter_context(self._terminal.on_keys(self.keys_received))
        self._opened.enter_context(self._terminal.on_signals(self.draw))
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    # What the loop of updates waits for.

    async def show(self, view: View) -> None:
        """Show a view instead of the last one."""
        self._view = view
        self._updated_at = time.time()
        self.draw()

    def finish(self, errors: Mapping[str, GearmanError]) -> ExitCode:
        """Report the errors of the last view, whose screen is gone; return the exit code."""
        return report_errors(self._terminal, errors)

    def sleep(self, interval: float) -> Deferred[None]:
        """Wait for the next update, which comes with the end of a pause at the earliest."""
        woken: Deferred[None] = Deferred()

        def over() -> None:
            self._wake = lambda: woken.callback(None)
            self._end_sleep()

        timer = self._terminal.reactor.callLater(interval, over)

        def clean_up(result: None) -> None:
            self._wake = None
            if timer.active():
                timer.cancel()
            return result

        return woken.addBoth(clean_up)

    def _end_sleep(self) -> None:
        if self._wake is not None and not self._paused:
            self._wake()

    def until_quit(self, waiting: Deferred[Any]) -> Deferred[Any]:
        """Return the Deferred, which the key q cancels."""
        self._waiting = waiting
        return waiting

    # Keys.

    def keys_received(self, data: bytes) -> None:
        """Handle what was typed."""
        for key in _KEY.findall(data):
            self._key_received(key)
        if not self.has_quit:
            self.draw()

    def _key_received(self, key: bytes) -> None:
        if key in (b"q", b"Q"):
            self._quit()
        elif key in (b" ", b"p"):
            self._paused = not self._paused
            self._end_sleep()
        elif key == b"s":
            columns = len(self._view.tables[-1].columns) if self._view else 0
            following = 0 if self._sort is None else self._sort + 1
            self._sort, self._reverse = (following if following < columns else None), False
        elif key == b"r":
            self._reverse = not self._reverse
        elif key in _HOME_KEYS:
            self._offset = 0
        else:
            self._offset += _SCROLL_KEYS.get(key, 0) + _PAGE_KEYS.get(key, 0) * self._page
            self._offset += 2**31 if key in _END_KEYS else 0  # `draw` limits it

    def _quit(self) -> None:
        if not self.has_quit:
            self.has_quit = True
            assert self._waiting is not None
            self._waiting.cancel()

    # Drawing.

    def draw(self) -> None:
        """Draw the last view again."""
        if self._view is not None:
            from rich.console import Group

            width, height = self._terminal.size
            self._live.console.size = (width, height)
            body = list(self._body(self._view, width, height - 1))
            self._live.update(Group(_line(self._header(self._view), width, "reverse"), *body), refresh=True)

    def _body(self, view: View, width: int, height: int) -> Iterator[Text]:
        problems = [describe_error(address, error) for address, error in view.errors.items()]
        shown, left = _limit(problems, max(1, height // 4))
        for problem in shown:
            yield _line(problem, width, "bold red")
        if left:
            yield _line(f"... and {left} more servers", width, "bold red")
        rest = height - len(shown) - bool(left)
        for table in view.tables[:-1]:
            lines = list(_table_lines(table, width, max(1, rest // 2 - 3)))
            yield from lines
            rest -= len(lines)
        yield from self._main_table(view, width, rest)

    def _header(self, view: View) -> str:
        table = view.tables[-1]
        clock = time.strftime("%H:%M:%S", time.localtime(self._updated_at))
        order = "" if self._sort is None else f"  by {table.columns[self._sort]}"
        reverse = ", reversed" if self._reverse else ""
        rows, last = len(table.rows), self._offset + self._page
        part = f"  {self._offset + 1}-{min(last, rows)} of {rows}" if rows > self._page else ""
        return f"{view.title}  {clock}{'  PAUSED' if self._paused else ''}{part}{order}{reverse}"

    def _main_table(self, view: View, width: int, rest: int) -> Iterator[Text]:
        """Return the lines of the last table from the current offset on, and those of the foot, which fill the rest."""
        table = sort_table(view.tables[-1], self._sort, reverse=self._reverse)
        self._page = max(1, rest - 2 - bool(view.note))
        self._offset = max(0, min(self._offset, len(table.rows) - self._page))
        heading, *rows = fit_table(table, width)
        yield _line(heading, width, "bold")
        shown = rows[self._offset : self._offset + self._page]
        for position, row in enumerate(shown, self._offset):
            yield _line(row, width, "red" if position in table.wrong else "")
        for _ in range(self._page - len(shown)):
            yield _line("", width)
        if view.note:
            yield _line(view.note, width, "dim")
        yield _line(KEYS_HELP, width, "dim")


def _limit(items: Sequence[str], limit: int) -> tuple[Sequence[str], int]:
    """Return the first items, and how many more there are; a single one more is not left out."""
    return (items, 0) if len(items) <= limit + 1 else (items[:limit], len(items) - limit)


def _table_lines(table: Table, width: int, limit: int) -> Iterator[Text]:
    heading, *rows = fit_table(table, width)
    yield _line(heading, width, "bold")
    shown, left = _limit(rows, limit)
    for position, row in enumerate(shown):
        yield _line(row, width, "red" if position in table.wrong else "")
    if left:
        yield _line(f"... and {left} more", width)
    yield _line("", width)


def _line(text: str, width: int, style: str = "") -> Text:
    from rich.text import Text

    return Text(cut(text, width), style=style, no_wrap=True, overflow="crop")
