"""Tables: for people on a terminal, as TAB-separated rows for scripts, as JSON for programs."""

from __future__ import annotations

import json as json_module
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from ..validation import escape_backslashes, printable_name, printable_text
from .terminal import Terminal

__all__ = ["Progress", "Table", "cut", "fit_table", "format_cell", "print_table", "rich_table", "sort_table"]


@dataclass(frozen=True)
class Table:
    """Columns and rows to print.

    :ivar columns: names of the columns, which are the keys in JSON.
    :ivar rows: cells of `str`, `bytes`, `int`, `float` for a rate, `bool`, None or tuples of `bytes`.
    :ivar wrong: positions of rows that show a fault. On a screen they stand out, and come first however it is sorted.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    wrong: Collection[int] = ()


@dataclass(frozen=True)
class Progress:
    """A cell: the progress that a worker has reported."""

    numerator: int
    denominator: int

    def __str__(self) -> str:
        return f"{self.numerator}/{self.denominator}"


def format_cell(value: Any) -> str:
    """Return a value as the text of a cell, without a TAB or an end of line."""
    if isinstance(value, bytes):
        return printable_name(value)
    if isinstance(value, tuple):
        return " ".join(map(printable_name, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:+.1f}"
    return "-" if value is None else printable_text(str(value))


def _json_value(value: Any) -> Any:
    """Return a value that JSON has. Bytes are text from which they can be restored; JSON escapes control characters."""
    if isinstance(value, bytes):
        return escape_backslashes(value)
    if isinstance(value, Progress):
        return asdict(value)
    return [_json_value(item) for item in value] if isinstance(value, tuple) else value


def format_json(table: Table) -> bytes:
    """Return the table as a JSON list of objects, one for each row.

    Text of others in it can't control a terminal: `json` itself leaves control characters such as U+009B as they are.
    """
    rows = [dict(zip(table.columns, map(_json_value, row), strict=True)) for row in table.rows]
    text = json_module.dumps(rows, ensure_ascii=False)
    if not text.isprintable():
        text = "".join(each if each.isprintable() else json_module.dumps(each)[1:-1] for each in text)
    return text.encode() + b"\n"


def format_rows(table: Table) -> bytes:
    """Return the table as lines of TAB-separated cells, without a heading."""
    lines = ("\t".join(map(format_cell, row)) + "\n" for row in table.rows)
    return "".join(lines).encode("utf-8", "backslashreplace")


def rich_table(table: Table) -> Any:
    """Return the table as a `rich.table.Table`, with numbers aligned to the right."""
    from rich import box
    from rich.table import Table as RichTable

    renderable = RichTable(box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        renderable.add_column(column, justify="right" if _is_numeric(table, number) else "left", overflow="fold")
    for row in table.rows:
        renderable.add_row(*map(format_cell, row))
    return renderable


def _is_numeric(table: Table, column: int) -> bool:
    return any(type(row[column]) in (int, float) for row in table.rows)


def sort_table(table: Table, column: int | None, *, reverse: bool) -> Table:
    """Return the table sorted by a column, the largest number or the first name first; None keeps its order.

    Rows that are wrong stay before the others.
    """
    positions = list(range(len(table.rows)))
    if column is not None:
        numeric = _is_numeric(table, column)
        keyed = {position: _sort_key(table.rows[position][column], numeric=numeric) for position in positions}
        positions.sort(key=keyed.__getitem__)
    if reverse:
        positions.reverse()
    positions.sort(key=lambda position: position not in table.wrong)
    rows = [table.rows[position] for position in positions]
    return Table(table.columns, rows, range(sum(position in table.wrong for position in positions)))


def _sort_key(value: Any, *, numeric: bool) -> tuple[bool, Any]:
    """Return the key of a cell; those without a value come last."""
    if numeric:
        return value is None, 0 if value is None else -value
    return value is None, format_cell(value)


_MIN_CUT: Final = 8
"""Columns of text are cut to this width at least; numbers are not cut."""


def fit_table(table: Table, width: int) -> list[str]:
    """Return the heading and the rows as lines that fit into the width: long text is cut."""
    cells = [list(table.columns), *([format_cell(value) for value in row] for row in table.rows)]
    numeric = [_is_numeric(table, column) for column in range(len(table.columns))]
    widths = [max(map(text_width, column)) for column in zip(*cells, strict=True)]
    excess = sum(widths) + 2 * len(widths) - 2 - width
    while excess > 0:
        texts = [column for column in range(len(widths)) if not numeric[column] and widths[column] > _MIN_CUT]
        if not texts:
            break
        widest, *others = sorted(texts, key=widths.__getitem__, reverse=True)
        next_width = widths[others[0]] if others else 0
        reduced = max(_MIN_CUT, widths[widest] - excess, min(next_width, widths[widest] - 1))
        excess -= widths[widest] - reduced
        widths[widest] = reduced
    return ["  ".join(map(_fit_cell, row, widths, numeric)).rstrip() for row in cells]


def _fit_cell(text: str, width: int, numeric: bool) -> str:
    shown = cut(text, width)
    space = " " * (width - text_width(shown))
    return space + shown if numeric else shown + space


def text_width(text: str) -> int:
    """Return how many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int) -> str:
    """Return a printable text that takes `width` columns of a terminal at most; an ellipsis ends one that was cut."""
    if text_width(text) <= width:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + "…"


async def print_table(terminal: Terminal, table: Table, *, json: bool) -> None:
    """Print the table to standard output: as JSON, or formatted for a terminal, or as TAB-separated rows."""
    if json:
        await terminal.write(format_json(table))
    elif terminal.has_screen:
        terminal.rich_console().print(rich_table(table))
    else:
        await terminal.write(format_rows(table))
