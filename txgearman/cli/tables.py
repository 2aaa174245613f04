"""Tables: for people on a terminal, as TAB-separated rows for scripts, as JSON for programs."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..validation import escape_backslashes
from .names import display_name
from .terminal import Terminal

__all__ = ["Table", "format_cell", "print_table", "rich_table"]


@dataclass(frozen=True)
class Table:
    """Columns and rows to print.

    :ivar columns: names of the columns, which are the keys in JSON.
    :ivar rows: cells of `str`, `bytes`, `int`, `bool`, None or tuples of `bytes`.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def format_cell(value: Any) -> str:
    """Return a value as the text of a cell, without a TAB or an end of line."""
    if isinstance(value, bytes):
        return display_name(value)
    if isinstance(value, tuple):
        return " ".join(map(display_name, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _json_value(value: Any) -> Any:
    """Return a value that JSON has. Bytes are text from which they can be told; JSON escapes control characters."""
    if isinstance(value, bytes):
        return escape_backslashes(value)
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
        numeric = any(type(row[number]) in (int, float) for row in table.rows)
        renderable.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        renderable.add_row(*map(format_cell, row))
    return renderable


async def print_table(terminal: Terminal, table: Table, *, json: bool) -> None:
    """Print the table to standard output: as JSON, or formatted for a terminal, or as TAB-separated rows."""
    if json:
        await terminal.write(format_json(table))
    elif terminal.is_stdout_tty:
        terminal.rich_console().print(rich_table(table))
    else:
        await terminal.write(format_rows(table))
