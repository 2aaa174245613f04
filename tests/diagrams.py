"""The diagrams of docs/how-it-works.md: the arrows of each, as its source, its SVG and the table below it have them."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["DOCS", "Arrow", "arrows", "drawn", "rows_of_table", "written"]

DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = (DOCS / "how-it-works.md").read_text("utf-8")


class Arrow(NamedTuple):
    """A transition between two states."""

    number: int
    start: str
    end: str


def arrows(name: str) -> set[tuple[str, str]]:
    """Return the transitions in the table below a diagram."""
    return {(arrow.start, arrow.end) for arrow in explained(name)}


def explained(name: str) -> list[Arrow]:
    _, found, rest = PAGE.partition(f":file: pictures/{name}.svg\n")
    assert found
    return [Arrow(int(row[0]), row[1], row[2]) for row in rows_of_table(rest, "| | from | to | when |")]


def rows_of_table(text: str, head: str) -> list[list[str]]:
    """Return the cells below the first head of a table that begins so."""
    _, found, rest = text.partition(f"\n{head}")
    assert found, head
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def written(name: str) -> list[Arrow]:
    """Return the arrows in the source of a diagram, by number."""
    source = (DOCS / "pictures" / f"{name}.dot").read_text("utf-8")
    found = re.findall(r'^ *("[^"]+"|\w+) -> ("[^"]+"|\w+) \[label=(\d+)', source, re.MULTILINE)
    return sorted(Arrow(int(number), start.strip('"'), end.strip('"')) for start, end, number in found)


def drawn(name: str) -> list[Arrow]:
    """Return the arrows in the SVG of a diagram, by number."""
    svg = (DOCS / "pictures" / f"{name}.svg").read_text("utf-8")
    edges = re.findall(r'class="edge">\n<title>(.*?)-&gt;(.*?)</title>.*?>(\d+)</text>', unescape_dash(svg), re.DOTALL)
    return sorted(Arrow(int(number), unescape(start), unescape(end)) for start, end, number in edges)


def unescape_dash(svg: str) -> str:
    return svg.replace("&#45;", "-")
