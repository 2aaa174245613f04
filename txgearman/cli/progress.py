"""Progress of jobs, and warnings of their workers, on standard error: a bar on a terminal, lines of text otherwise."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..client.task import Task
from ..models import decode_text
from ..validation import printable_name
from .terminal import Terminal

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Progress", "make_progress"]

REFRESH_INTERVAL: Final = 0.1
"""Minimum seconds between two refreshes of the bar for lines: a refresh costs more than a short job."""


class Progress(Protocol):
    """A display of progress."""

    def status_received(self, task: Task, numerator: int, denominator: int) -> None:
        """Show a WORK_STATUS."""

    def warning_received(self, task: Task, data: bytes) -> None:
        """Show a WORK_WARNING."""

    def lines_done(self, count: int) -> None:
        """Show how many lines of the input are done."""

    def clear(self) -> None:
        """Hide the display before output is written."""


def _write_warning(terminal: Terminal, task: Task, data: bytes) -> None:
    """Write each line of a warning to standard error, so that it can't be taken for a line of this program."""
    for line in data.removesuffix(b"\n").split(b"\n"):
        text = decode_text(line.removesuffix(b"\r")).expandtabs()
        terminal.write_error(f"{printable_name(task.function)}: warning: {text}")


class LineProgress(AbstractContextManager["LineProgress"]):
    """Progress as lines of text, where standard error is not a terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __exit__(self, *_: object) -> None:
        pass

    def status_received(self, task: Task, numerator: int, denominator: int) -> None:
        self._terminal.write_error(f"{printable_name(task.function)}: {numerator}/{denominator}")

    def warning_received(self, task: Task, data: bytes) -> None:
        _write_warning(self._terminal, task, data)

    def lines_done(self, count: int) -> None:
        """Show nothing: it would be a line for each line of output."""

    def clear(self) -> None:
        """Do nothing: lines of text remain."""


class NoProgress(LineProgress):
    """No progress and no warnings, for ``--quiet``."""

    def status_received(self, task: Task, numerator: int, denominator: int) -> None:
        pass

    def warning_received(self, task: Task, data: bytes) -> None:
        pass


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """Progress as a bar on a terminal. It is shown from the first status on, and hidden while output is written."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._bar: Any = None
        self._is_shown = False
        self._bar_task: Any = None
        self._refreshed_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()

    def status_received(self, task: Task, numerator: int, denominator: int) -> None:
        self._show(description=printable_name(task.function), completed=numerator, total=denominator or None)

    def warning_received(self, task: Task, data: bytes) -> None:
        self.clear()
        _write_warning(self._terminal, task, data)

    def lines_done(self, count: int) -> None:
        now = self._terminal.reactor.seconds()
        if now - self._refreshed_at >= REFRESH_INTERVAL:
            self._refreshed_at = now
            self._show(description=f"{count} lines", completed=count, total=None)

    def clear(self) -> None:
        if self._is_shown:
            self._is_shown = False
            self._bar.stop()

    def _show(self, **values: Any) -> None:
        if self._bar is None:
            self._bar = self._make_bar()
            self._bar_task = self._bar.add_task("", total=None)
        if not self._is_shown:
            self._is_shown = True
            self._bar.start()
        self._bar.update(self._bar_task, **values)
        self._bar.refresh()

    def _make_bar(self) -> Any:
        from rich import progress  # imported late: it is slow, and most commands show no bar

        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            console=self._terminal.rich_console(errors=True),
            auto_refresh=False,
            transient=True,
        )


def make_progress(terminal: Terminal, *, quiet: bool) -> ProgressBar | LineProgress:
    """Return the display that suits standard error."""
    if quiet:
        return NoProgress(terminal)
    return ProgressBar(terminal) if terminal.is_stderr_tty else LineProgress(terminal)
