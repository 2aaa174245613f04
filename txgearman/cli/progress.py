"""How far a job is, as a bar on a terminal and as lines elsewhere; and what its worker warns of."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..client.task import Task
from .terminal import Terminal, printable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Progress", "progress"]


class Progress(Protocol):
    """Shows how far something is."""

    def status(self, task: Task, numerator: int, denominator: int) -> None:
        """A job's WORK_STATUS."""

    def warning(self, task: Task, data: bytes) -> None:
        """A job's WORK_WARNING."""

    def lines(self, done: int) -> None:
        """So many lines of the input are done."""

    def clear(self) -> None:
        """Make space for output."""


class Lines(AbstractContextManager["Lines"]):
    """For a program that reads the standard error output."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __exit__(self, *_: object) -> None:
        pass

    def status(self, task: Task, numerator: int, denominator: int) -> None:
        self._terminal.say(f"{_name(task)}: {numerator}/{denominator}")

    def warning(self, task: Task, data: bytes) -> None:
        self._terminal.say_bytes(data)

    def lines(self, done: int) -> None:
        """Nobody wants a line per line."""

    def clear(self) -> None:
        """What is written stays."""


class Quiet(Lines):
    """For those who want to hear of nothing but errors."""

    def status(self, task: Task, numerator: int, denominator: int) -> None:
        pass

    def warning(self, task: Task, data: bytes) -> None:
        pass


class Bar(AbstractContextManager["Bar"]):
    """For people. The bar is there from the first status to the end, but while there is output."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._bar: Any = None
        self._up = False
        self._shown: Any = None
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()

    def status(self, task: Task, numerator: int, denominator: int) -> None:
        bar = self._visible()
        bar.update(self._shown, description=_name(task), completed=numerator, total=denominator or None)
        bar.refresh()

    def warning(self, task: Task, data: bytes) -> None:
        self.clear()
        self._terminal.say_bytes(data)

    def lines(self, done: int) -> None:
        now = self._terminal.reactor.seconds()
        if now - self._shown_at >= 0.1:  # more would cost more than the jobs
            self._shown_at = now
            bar = self._visible()
            bar.update(self._shown, description=f"{done} lines", completed=done, total=None)
            bar.refresh()

    def clear(self) -> None:
        if self._up:
            self._up = False
            self._bar.stop()

    def _visible(self) -> Any:
        if self._bar is None:
            from rich import progress as of_rich

            self._bar = of_rich.Progress(
                of_rich.TextColumn("{task.description}"),
                of_rich.BarColumn(),
                of_rich.TaskProgressColumn(),
                of_rich.TimeElapsedColumn(),
                console=self._terminal.rich(errors=True),
                auto_refresh=False,
                transient=True,
            )
            self._shown = self._bar.add_task("", total=None)
        if not self._up:
            self._up = True
            self._bar.start()
        return self._bar


def progress(terminal: Terminal, quiet: bool) -> Bar | Lines:
    """What is fit for who sees the standard error output."""
    if quiet:
        return Quiet(terminal)
    return Bar(terminal) if terminal.shows_errors else Lines(terminal)


def _name(task: Task) -> str:
    return task.function if isinstance(task.function, str) else printable(task.function)
