"""What the documentation shows of a record: tables in Markdown, and a chart of the clients side by side.

A command with ``--record`` writes them beside its record. After a change of this module,

    python -m benchmarks.pages docs/speed/*.json

writes those of all records anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from html import escape
from math import floor, log10
from pathlib import Path
from typing import Any, Final

__all__ = ["KINDS", "chart", "format_size", "page", "write_pages"]

WORKLOADS: Final = {
    "w1": "background jobs",
    "w2": "all in flight at once",
    "w3": "one at a time",
    "w4": "100 in flight",
}
"""The names of peerbench's workloads, and what they are."""

OWN_WORKLOADS: Final = {"background": WORKLOADS["w1"], "window": WORKLOADS["w4"]}
"""The same workloads, by their names in this package."""

OWN: Final = "txgearman"


def write_pages(path: Path) -> None:
    """Write the tables of a record beside it, and of a record of peers the chart."""
    record = json.loads(path.read_text("utf-8"))
    path.with_suffix(".md").write_text(page(record), "utf-8")
    if "peers" in record:
        path.with_suffix(".svg").write_text(chart(record), "utf-8")


def page(record: Mapping[str, Any]) -> str:
    """Return the tables of a record, below a line that says when and where it was measured."""
    (kind,) = KINDS.keys() & record.keys()
    return f"{_surroundings(record)}\n\n{KINDS[kind](record[kind])}\n"


def _surroundings(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    missing = " and ".join(name for name, there in record.get("build", {}).items() if not there)
    versions += f" (Python configured without {missing})" if missing else ""
    where = f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}"
    return f"Measured {record['date']} with {versions}, on {where}."


# Tables.


def _table(rows: list[list[str]]) -> str:
    """Return a table in Markdown. The first row is its head, the first column is text, the others are numbers."""
    head, *body = rows
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def format_size(size: int) -> str:
    """Return a number of bytes with its unit."""
    for unit, name in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _title(group: Mapping[str, Any]) -> str:
    return f"{WORKLOADS[group['workload']]}, {format_size(group['payload'])}"


def _peers(groups: list[dict[str, Any]]) -> str:
    """Return a table for each workload."""
    return "\n\n".join(f"**{_title(group)}** ({group['jobs']:,} jobs)\n\n{_clients(group)}" for group in groups)


def _clients(group: Mapping[str, Any]) -> str:
    has_latency = group["workload"] == "w3"
    head = ["client", "jobs/s", "speed to libgearman", "speed to floor", "µs of CPU per job", "CPU to floor"]
    rows = [[*head, "median µs"] if has_latency else head]
    for client in group["clients"]:
        row = [client["name"], _whole(client["jobs_per_second"]), _ratio(client["speed_to_libgearman"])]
        row += [_ratio(client["speed_to_floor"]), f"{client['cpu_us']:.2f}", _ratio(client["cpu_to_floor"])]
        rows.append([*row, _whole(client["median_us"])] if has_latency else row)
    return _table(rows)


_COLUMNS: Final[dict[str, tuple[str, Callable[[float], str]]]] = {
    "jobs_per_second": ("jobs/s", _whole),
    "speed_to_floor": ("speed to floor", _ratio),
    "cpu_us": ("µs of CPU per job", "{:.2f}".format),
    "cpu_to_floor": ("CPU to floor", _ratio),
    "bytes_per_job": ("bytes per job", _whole),
    "median_us": ("median µs", _whole),
    "pause_ms": ("longest pause, ms", _whole),
    "pause_cpu_ms": ("its CPU, ms", _whole),
    "collection_ms": ("longest collection, ms", _whole),
}
"""The columns of the library's own benchmarks, and how their values are formatted."""


def _cases(cases: list[dict[str, Any]]) -> str:
    """Return a table for each group of the library's own benchmark."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(case["group"], []).append(case)
    return "\n\n".join(_group(name, group) for name, group in groups.items())


def _group(name: str, group: list[dict[str, Any]]) -> str:
    """Return the table of a group: for each case, one row for each number of jobs."""
    keys = [key for key in _COLUMNS if any(key in case for case in group)]
    rows = [["case", "jobs", *(_COLUMNS[key][0] for key in keys)]]
    names = list(dict.fromkeys(case["case"] for case in group))
    for case in sorted(group, key=lambda case: names.index(case["case"])):
        figures = [_COLUMNS[key][1](case[key]) if key in case else "" for key in keys]
        rows.append([case["case"], f"{case['jobs']:,}", *figures])
    return f"**{name}** ({format_size(group[0]['payload'])})\n\n{_table(rows)}"


def _workers(workers: list[dict[str, Any]]) -> str:
    keys = [key for key in _COLUMNS if any(key in worker for worker in workers)]
    rows = [["worker", *(_COLUMNS[key][0] for key in keys), "speed of txgearman to it"]]
    for worker in workers:
        rows.append([worker["worker"], *(_COLUMNS[key][1](worker[key]) for key in keys), _ratio(worker["own_to_this"])])
    return _table(rows)


def _pythons(runs: list[dict[str, Any]]) -> str:
    rows = [["workload", "jobs", "Python", "jobs/s", "µs of CPU per job", "speed to CPython", "CPU to CPython"]]
    for run in runs:
        row = [OWN_WORKLOADS[run["workload"]], f"{run['jobs']:,}", run["python"]]
        row += [_whole(run["jobs_per_second"]), f"{run['cpu_us']:.2f}"]
        rows.append([*row, _ratio(run["speed_to_first"]), _ratio(run["cpu_to_first"])])
    return _table(rows)


KINDS: Final[dict[str, Callable[[list[dict[str, Any]]], str]]] = {
    "peers": _peers,
    "cases": _cases,
    "workers": _workers,
    "pythons": _pythons,
}
"""The kinds of records, by the key under which each has its rows."""

# The chart. docs/_static/txgearman.css has its colours and fonts.

_WIDTH: Final = 500
_LEFT: Final = 120.0
_LONGEST: Final = 300.0
_BAR: Final = 20.0
_TICKS: Final = 4


def chart(record: Mapping[str, Any]) -> str:
    """Return an SVG of the jobs per second of each client: bars, with an axis for each workload."""
    parts: list[str] = []
    top = 4.0
    for group in record["peers"]:
        rates = {client["name"]: client["jobs_per_second"] for client in group["clients"]}
        parts.append(_text(0, top + 14, f"{_title(group)}: jobs per second", "name", "start"))
        top += 24
        step = _step(max(rates.values()))
        bottom = top + _BAR * len(rates)
        parts += _axis(top, bottom, step)
        for name, rate in rates.items():
            parts += _bar(top, name, rate, rate / (_TICKS * step))
            top += _BAR
        top = bottom + 38
    title = f"Jobs per second of clients, txgearman {record['versions'][OWN]}"
    head = f'<svg viewBox="0 0 {_WIDTH} {top:g}" role="img" aria-label="{escape(title)}" class="chart"'
    head += f' xmlns="http://www.w3.org/2000/svg">\n<title>{escape(title)}</title>'
    return "\n".join([head, *parts, "</svg>\n"])


def _step(longest: float) -> float:
    """Return the smallest round step whose ticks reach as far as the longest bar."""
    least = longest / _TICKS
    power = 10.0 ** floor(log10(least))
    return next(power * digit for digit in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if power * digit >= least)


def _axis(top: float, bottom: float, step: float) -> Iterator[str]:
    for number in range(_TICKS + 1):
        x = _LEFT + _LONGEST * number / _TICKS
        yield f'<line class="tick" x1="{x:g}" y1="{top:g}" x2="{x:g}" y2="{bottom + 3:g}"/>'
        yield _text(x, bottom + 16, _whole(number * step), "note", "middle")


def _bar(top: float, name: str, rate: float, share: float) -> Iterator[str]:
    kind = "own" if name.startswith(OWN) else "bar"
    width = max(1.0, _LONGEST * share)
    middle = top + _BAR / 2 + 4
    yield _text(_LEFT - 8, middle, name, "note", "end")
    yield f'<rect class="{kind}" x="{_LEFT:g}" y="{top + 3:g}" width="{width:.1f}" height="{_BAR - 6:g}"/>'
    yield _text(_LEFT + width + 6, middle, _whole(rate), "note", "start")


def _text(x: float, y: float, words: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_pages(Path(name))
