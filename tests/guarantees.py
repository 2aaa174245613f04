"""Which tests hold which guarantee: what ``pytest --guarantees`` prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = Path(__file__).parent.parent / "docs" / "guarantees.md"


def titles() -> dict[int, str]:
    """The guarantees of docs/guarantees.md: their titles, by their numbers."""
    found = re.findall(r"^(\d+)\. \*\*(.+?)\*\*", PAGE.read_text("utf-8"), re.MULTILINE)
    return {int(number): title.rstrip(".") for number, title in found}


def numbers_of(item: pytest.Item) -> list[int]:
    """The guarantees that a test says it holds."""
    return [mark.kwargs["number"] for mark in item.iter_markers("guarantee")]


def holders(items: Iterable[pytest.Item]) -> dict[int, dict[str, int]]:
    """For each guarantee, the tests that hold it, and how many cases each has."""
    found: dict[int, dict[str, int]] = {number: {} for number in titles()}
    for item in items:
        name = item.nodeid.partition("[")[0]
        for number in numbers_of(item):
            found[number][name] = found[number].get(name, 0) + 1
    return found


def table(tests: Mapping[int, Mapping[str, int]]) -> str:
    """The table, as text."""
    lines = []
    for number, title in titles().items():
        cases = tests[number]
        lines.append(f"{number}. {title}: {len(cases)} tests, {sum(cases.values())} cases")
        lines += [f"    {name}" for name in cases]
    return "\n".join(lines)
