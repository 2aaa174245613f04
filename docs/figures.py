"""What the page about speed shows: tables and plots of the records in ``docs/speed``, which the benchmarks wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pictures
import tables

RECORDS: Final = Path(__file__).parent / "speed"

WORKLOADS: Final = {
    "w1": "background jobs",
    "w2": "all in flight at once",
    "w3": "one at a time",
    "w4": "100 in flight",
}
"""What peerbench calls them, and what they are."""

OWN_WORKLOADS: Final = {"background": WORKLOADS["w1"], "window": WORKLOADS["w4"]}
"""The same, by their names in ``benchmarks``."""

OWN: Final = "txgearman"


def releases() -> list[str]:
    """Those that there are records of, the newest first."""
    found = {path.name.rpartition("-")[0] for path in RECORDS.glob("*.json")}
    return sorted(found, key=lambda release: [int(part) for part in release.split(".")], reverse=True)


def record(kind: str, release: str) -> dict[str, Any]:
    """The record of a kind: ``cases``, ``workers``, ``peers`` or ``pythons``."""
    found: dict[str, Any] = json.loads((RECORDS / f"{release}-{kind}.json").read_text("utf-8"))
    return found


def surroundings(kind: str, release: str) -> str:
    """When, where, and with what it was measured."""
    read = record(kind, release)
    machine = read["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in read["versions"].items())
    build = read.get("build", {})
    missing = " and ".join(name for name, there in build.items() if not there)
    versions += f" (Python configured without {missing})" if missing else ""
    where = f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}"
    return f"Measured {read['date']} with {versions}, on {where}."


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def size(payload: int) -> str:
    """A number of bytes, in words."""
    for unit, name in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if payload >= unit and payload % unit == 0:
            return f"{payload // unit} {name}"
    return f"{payload} bytes"


def _title(group: dict[str, Any]) -> str:
    return f"{WORKLOADS[group['workload']]}, {size(group['payload'])}"


# Tables.


def _whole(value: float) -> str:
    return f"{value:,.0f}"


_COLUMNS: Final[dict[str, tuple[str, Callable[[float], str]]]] = {
    "jobs_per_second": ("jobs/s", _whole),
    "speed_to_floor": ("of the floor", _ratio),
    "cpu_us": ("µs of CPU a job", "{:.2f}".format),
    "cpu_to_floor": ("CPU of the floor's", _ratio),
    "bytes_per_job": ("bytes a job", _whole),
    "median_us": ("median µs", _whole),
    "pause_ms": ("longest pause, ms", _whole),
    "pause_cpu_ms": ("ms of CPU of one", _whole),
    "collection_ms": ("longest collection, ms", _whole),
}
"""What the tables of the library's own benchmark show, and how."""


def peers(release: str) -> str:
    """A table for each workload."""
    parts = []
    for group in record("peers", release)["peers"]:
        latency = group["workload"] == "w3"
        head = ["client", "jobs/s", "of libgearman", "of the floor", "µs of CPU a job", "CPU of the floor's"]
        rows = [[*head, "median µs"] if latency else head]
        for client in group["clients"]:
            row = [client["name"], f"{client['jobs_per_second']:,.0f}", _ratio(client["speed_to_libgearman"])]
            row += [_ratio(client["speed_to_floor"]), f"{client['cpu_us']:.2f}", _ratio(client["cpu_to_floor"])]
            rows.append([*row, f"{client['median_us']:.0f}"] if latency else row)
        parts.append(f"**{_title(group)}** ({group['jobs']:,} jobs)\n\n{tables.markdown(rows)}")
    return "\n\n".join(parts)


def cases(release: str) -> str:
    """A table for each group of the library's own benchmark."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in record("cases", release)["cases"]:
        groups.setdefault(case["group"], []).append(case)
    return "\n\n".join(_cases(name, group) for name, group in groups.items())


def _cases(name: str, group: list[dict[str, Any]]) -> str:
    """The table of a group: its cases, and for each as many rows as there are numbers of jobs."""
    keys = [key for key in _COLUMNS if any(key in case for case in group)]
    rows = [["case", "jobs", *(_COLUMNS[key][0] for key in keys)]]
    names = list(dict.fromkeys(case["case"] for case in group))
    for case in sorted(group, key=lambda case: names.index(case["case"])):
        figures = [_COLUMNS[key][1](case[key]) if key in case else "" for key in keys]
        rows.append([case["case"], f"{case['jobs']:,}", *figures])
    return f"**{name}** ({size(group[0]['payload'])})\n\n{tables.markdown(rows)}"


def workers(release: str) -> str:
    """The table of workers."""
    rows = [["worker", "jobs/s", "µs of CPU a job", "this library's speed to its"]]
    for worker in record("workers", release)["workers"]:
        row = [worker["worker"], f"{worker['jobs_per_second']:,.0f}", f"{worker['cpu_us']:.2f}"]
        rows.append([*row, _ratio(worker["own_to_this"])])
    return tables.markdown(rows)


def pythons(release: str) -> str:
    """The table of interpreters."""
    rows = [["workload", "jobs", "Python", "jobs/s", "µs of CPU a job", "speed", "CPU"]]
    for run in record("pythons", release)["pythons"]:
        row = [OWN_WORKLOADS[run["workload"]], f"{run['jobs']:,}", run["python"]]
        row += [f"{run['jobs_per_second']:,.0f}", f"{run['cpu_us']:.2f}"]
        rows.append([*row, _ratio(run["speed_to_first"]), _ratio(run["cpu_to_first"])])
    return tables.markdown(rows)


# The plot.

_WIDTH: Final = 720.0
_LEFT: Final = 190.0
_LONGEST: Final = 400.0
_BAR: Final = 22.0


def plot(release: str) -> str:
    """Jobs per second of each client, as bars: a panel for each workload, each with a scale of its own."""
    parts: list[str] = []
    top = 10.0
    for group in record("peers", release)["peers"]:
        parts.append(pictures.text(10, top + 16, _title(group), "name", "start"))
        top += 26
        fastest = max(client["jobs_per_second"] for client in group["clients"])
        for client in group["clients"]:
            parts += _bar(top, client["name"], client["jobs_per_second"], fastest)
            top += _BAR
        top += 16
    return pictures.picture(f"Jobs per second of clients, txgearman {release}", _WIDTH, top, parts)


def _bar(top: float, name: str, value: float, longest: float) -> list[str]:
    kind = "tip" if name.startswith(OWN) else "bar"
    width = max(1.0, _LONGEST * value / longest)
    middle = top + _BAR / 2 + 4
    return [
        pictures.text(_LEFT - 10, middle, name, "note", "end"),
        f'<rect class="{kind}" x="{_LEFT:g}" y="{top + 2:g}" width="{width:.1f}" height="{_BAR - 5:g}"/>',
        pictures.text(_LEFT + width + 8, middle, f"{value:,.0f} jobs/s", "note", "start"),
    ]


FIGURES: Final = {"peers": peers, "cases": cases, "workers": workers, "pythons": pythons}
