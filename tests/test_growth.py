"""No cost grows faster than the work: lines of the library that are executed, at three small sizes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from benchmarks.growth import FLAT, LINEAR, ROWS, Row, exponent, measure, show, steps
from txgearman.validation import printable_text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_cost_does_not_grow_faster_than_work(row: Row) -> None:
    costs = measure(row, row.few, steps)
    assert exponent(row.few, costs) <= row.limit, costs


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_sizes_are_multiples(row: Row) -> None:
    for smallest, middle, largest in (row.sizes, row.few):
        assert largest * smallest == middle * middle


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (lambda size: 1000.0, 0.0),
        (lambda size: 1000.0 + size % 7, 0.0),
        (lambda size: 1000.0 - size, 0.0),
        (lambda size: 1000.0 + 5 * size, 1.0),
        (lambda size: 1000.0 + size**2, 2.0),
    ],
)
def test_exponent_of_known_cost(cost: Callable[[int], float], expected: float) -> None:
    sizes = (10, 20, 40)
    assert exponent(sizes, [cost(size) for size in sizes]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("walk", "limit"),
    [
        (lambda size: printable_text("text"), FLAT),
        (lambda size: [printable_text("text") for _ in range(size)], LINEAR),
        (lambda size: [printable_text("text") for _ in range(size * size)], 2.0),
    ],
)
def test_steps_of_known_walk(walk: Callable[[int], object], limit: float) -> None:
    row = Row("", lambda size: lambda: walk(size), (10, 20, 40), (10, 20, 40), limit)
    found = exponent(row.few, measure(row, row.few, steps))
    assert limit - 0.15 < found <= limit


def test_row_above_its_limit_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("a walk", lambda size: lambda: [printable_text("") for _ in range(size)], (10, 20, 40), (1, 2, 4), FLAT)
    show(row, row.few, True)
    show(Row("the same", row.prepare, row.sizes, row.few, LINEAR), row.few, True)
    marked, unmarked = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"a walk +1/2/4 +\d+ +\d+ +\d+ +1\.00 !", marked)
    assert re.fullmatch(r"the same +1/2/4 +\d+ +\d+ +\d+ +1\.00", unmarked)


def test_cpu_time_of_row_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.process_time", iter(float(number) for number in range(100)).__next__)
    show(Row("work", lambda size: list, (10, 20, 40), (1, 2, 4), FLAT), (1, 2, 4), False)
    assert re.fullmatch(r"work +1/2/4 +1,000\.00 +1,000\.00 +1,000\.00 +0\.00\n", capsys.readouterr().out)
