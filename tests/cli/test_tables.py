"""Tables: their order, and their width on a screen. Their cells are tested with the terminal."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from txgearman.cli.tables import (
    Progress,
    Table,
    cut,
    fit_table,
    format_json,
    format_rows,
    rich_table,
    sort_table,
    text_width,
)

TABLE = Table(
    ("function", "jobs", "change/s"),
    [(b"b", 2, None), (b"c", 10, -1.5), (b"a", 3, 2.0), (b"d", 10, 0.0)],
    wrong=[1],
)


def names(table: Table) -> str:
    return b"".join(row[0] for row in table.rows).decode()


@pytest.mark.parametrize(
    ("column", "order", "reversed_order"),
    [(None, "cbad", "cdab"), (0, "cabd", "cdba"), (1, "cdab", "cbad"), (2, "cadb", "cbda")],
)
def test_table_is_sorted_with_wrong_rows_first(column: int | None, order: str, reversed_order: str) -> None:
    assert names(sort_table(TABLE, column, reverse=False)) == order
    assert names(sort_table(TABLE, column, reverse=True)) == reversed_order


def test_wrong_rows_of_sorted_table_are_its_first() -> None:
    assert list(sort_table(TABLE, 0, reverse=False).wrong) == [0]


def test_lines_are_aligned() -> None:
    assert fit_table(TABLE, 80) == [
        "function  jobs  change/s",
        "b            2         -",
        "c           10      -1.5",
        "a            3      +2.0",
        "d           10      +0.0",
    ]


def test_widest_text_is_cut_until_the_line_fits() -> None:
    table = Table(("function", "server", "jobs"), [(b"f" * 30, "s" * 20, 12345678), (b"g", "s", 1)])
    assert fit_table(table, 40) == [
        "function        server              jobs",
        "fffffffffffff…  sssssssssssss…  12345678",
        "g               s                      1",
    ]


def test_numbers_are_not_cut() -> None:
    table = Table(("function", "jobs"), [(b"f" * 30, 1234567890)])
    assert fit_table(table, 10)[1] == "fffffff…  1234567890"


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本", 4, "日本"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("é" * 4, 3, "éé…"),
    ],
)
def test_text_is_cut_to_columns_of_terminal(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown
    assert text_width(shown) <= width


HOSTILE = b"\x1b]0;x\x07\r\n\tforged\xc2\x9b1m[red]:smile:"

SHOWN = "\\x1b]0;x\\x07\\r\\n\\tforged\\u009b1m[red]:smile:"


@pytest.mark.parametrize("value", [HOSTILE, HOSTILE.decode(), (HOSTILE,)], ids=["name", "text", "names"])
def test_cell_of_others_is_printable_in_each_format(value: object) -> None:
    table = Table(("column",), [(value,)])
    assert format_rows(table).decode() == SHOWN + "\n"
    assert fit_table(table, 80) == ["column", SHOWN]
    console = Console(file=StringIO(), width=80, markup=False, emoji=False)
    console.print(rich_table(table))
    assert isinstance(console.file, StringIO)
    assert SHOWN in console.file.getvalue()
    formatted = format_json(table).decode().rstrip("\n")
    assert formatted.isprintable()
    assert HOSTILE.decode() in json.loads(formatted)[0]["column"]


def test_progress_is_object_in_json() -> None:
    table = Table(("progress",), [(Progress(3, 8),)])
    assert format_rows(table) == b"3/8\n"
    assert json.loads(format_json(table)) == [{"progress": {"numerator": 3, "denominator": 8}}]
