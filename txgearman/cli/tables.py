"""Prints records: as a table for people, as TAB-separated rows for scripts, as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .terminal import Terminal, printable

__all__ = ["Table", "cell", "print_table"]


@dataclass(frozen=True)
class Table:
    """What is to be printed.

    :ivar columns: their names, which are JSON's keys.
    :ivar rows: `str`, `bytes`, `int`, `bool`, None or tuples of `bytes`.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def cell(value: Any) -> str:
    """A value as one word of a row."""
    if isinstance(value, bytes):
        return printable(value)
    if isinstance(value, tuple):
        return " ".join(map(printable, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _plain(value: Any) -> Any:
    """A value as JSON has it. Bytes that are no UTF-8 are escaped, as in Python."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def as_json(table: Table) -> bytes:
    """A list of objects, one per row."""
    rows = [dict(zip(table.columns, map(_plain, row), strict=True)) for row in table.rows]
    return json.dumps(rows, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def as_rows(table: Table) -> bytes:
    """One line per row."""
    lines = ("\t".join(map(cell, row)) + "\n" for row in table.rows)
    return "".join(lines).encode("utf-8", "backslashreplace")


def as_rich(table: Table) -> Any:
    """A `rich.table.Table`. Numbers are set to the right."""
    from rich import box
    from rich.table import Table as RichTable

    drawn = RichTable(box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        numeric = any(type(row[number]) in (int, float) for row in table.rows)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(cell, row))
    return drawn


async def print_table(terminal: Terminal, table: Table, json: bool) -> None:
    """Print it as is fit for who reads it."""
    if json:
        await terminal.write(as_json(table))
    elif terminal.shows_output:
        terminal.rich().print(as_rich(table))
    else:
        await terminal.write(as_rows(table))
