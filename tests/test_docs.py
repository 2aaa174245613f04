"""What the documents say of the tests is so."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent

DOCS: Final = TESTS.parent / "docs"
QUIRKS: Final = (DOCS / "what-servers-do.md").read_text("utf-8")
VERSIONS: Final = (DOCS / "gearman.md").read_text("utf-8").partition("## 16. ")[2]

LAST: Final = {"H": 15, "D": 6, "L": 6, "M": 7, "C": 5, "O": 1}
"""How many there are of each letter."""

ROWS: Final = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in QUIRKS.splitlines()
    if re.match(r"\| [A-Z]\d+ \|", line)
]

NAMES: Final = re.findall(r"`([\w.]+)::(\w+)`", QUIRKS + VERSIONS)


@cache
def names_in(module: str) -> set[str]:
    """The names of the tests that pytest finds in a module."""
    path = TESTS.joinpath(*module.split(".")).with_suffix(".py")
    body = ast.parse(path.read_text("utf-8")).body
    functions = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {name for name in functions if name.startswith("test_")}


def test_each_number_is_there_once() -> None:
    numbers = [f"{letter}{number}" for letter, last in LAST.items() for number in range(1, last + 1)]
    assert [row[0] for row in ROWS] == numbers


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_says_what_is_done_and_shows_it(row: list[str]) -> None:
    """Or that nothing can be done."""
    _, servers, library, tests = row
    assert servers
    assert library
    assert library.startswith("Nothing: ") or re.fullmatch(r"(`[\w.]+::test_\w+` ?)+", tests), tests


@pytest.mark.parametrize(("module", "name"), sorted(set(NAMES)))
def test_each_test_that_is_named_exists(module: str, name: str) -> None:
    assert name in names_in(module)


def test_a_name_of_no_test_would_be_found() -> None:
    """So that the rule above can fail."""
    assert "test_nothing" not in names_in("test_quirks")
    assert len(NAMES) > 40
