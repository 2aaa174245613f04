"""Each guarantee is held by tests, and no test names one that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .guarantees import holders, table, titles


def numbers_in(source: str) -> set[int]:
    """The guarantees that tests in a module say they hold."""
    return {int(number) for number in re.findall(r"^ *@pytest\.mark\.guarantee\(number=(\d+)\)$", source, re.MULTILINE)}


def test_guarantees_are_numbered_from_one_without_gaps() -> None:
    assert list(titles()) == list(range(1, 19))


def test_tests_name_each_guarantee_and_no_other() -> None:
    sources = [path.read_text("utf-8") for path in Path(__file__).parent.rglob("test_*.py")]
    assert set().union(*map(numbers_in, sources)) == set(titles())


@pytest.mark.guarantee(number=1)
def test_table_lists_the_tests_of_a_guarantee(request: pytest.FixtureRequest) -> None:
    lines = table(holders([request.node])).splitlines()
    assert lines[:2] == [f"1. {titles()[1]}: 1 tests, 1 cases", f"    {request.node.nodeid}"]
