"""Makes a record of what peerbench measured: clients in several languages, side by side.

    python -m benchmarks.peers w1.jsonl w2.jsonl --record docs/speed/1.0.0-peers.json

Peerbench writes a line of JSON for each run of a client. Its clients take turns, so that ratios are those of one turn.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from . import records

__all__ = ["FLOOR", "LIBGEARMAN", "groups", "read"]

LIBGEARMAN = "libgearman-uniq"
"""The client in C that the others are compared with. It is given uniques, since it is slow at making its own."""

FLOOR = "floor-py"
"""Plain Python that packs its packets beforehand and only counts what comes back."""

Run = dict[str, Any]


def read(paths: Iterable[Path]) -> list[Run]:
    """The runs in these files that went well."""
    lines = [line for path in paths for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [run for run in map(json.loads, lines) if not run.get("error")]


def _speed(run: Run) -> float:
    return float(run["n"] / run["wall_s"])


def _cpu(run: Run) -> float:
    return float((run["user_s"] + run["sys_s"]) / run["n"] * 1e6)


def _latency(run: Run) -> float:
    return float(run.get("lat_p50_us", 0))


def _ratio(runs: list[Run], others: list[Run], figure: Callable[[Run], float]) -> float | None:
    """The median of the ratios of each turn."""
    by_turn = {run["rep"]: figure(run) for run in others}
    ratios = [figure(run) / by_turn[run["rep"]] for run in runs if by_turn.get(run["rep"])]
    return median(ratios) if ratios else None


def _client(name: str, by_name: dict[str, list[Run]]) -> dict[str, Any]:
    runs = by_name[name]
    libgearman, floor = by_name.get(LIBGEARMAN, []), by_name.get(FLOOR, [])
    figures = {
        "name": name,
        "runs": len(runs),
        "jobs_per_second": median(map(_speed, runs)),
        "cpu_us": median(map(_cpu, runs)),
        "speed_to_libgearman": _ratio(runs, libgearman, _speed),
        "speed_to_floor": _ratio(runs, floor, _speed),
        "cpu_to_floor": _ratio(runs, floor, _cpu),
    }
    if any(map(_latency, runs)):
        figures["median_us"] = median(map(_latency, runs))
    return figures


def groups(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """A group for each workload and size of payload, with a row for each client, the fastest first."""
    sorted_runs: dict[tuple[str, int, int], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        sorted_runs[run["workload"], run["payload"], run["n"]][run["name"]].append(run)
    found = []
    for (workload, payload, jobs), by_name in sorted(sorted_runs.items()):
        clients = [_client(name, by_name) for name in by_name]
        clients.sort(key=lambda client: -client["jobs_per_second"])
        found.append({"workload": workload, "payload": payload, "jobs": jobs, "clients": clients})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("files", nargs="+", type=Path, help="what peerbench wrote")
    parser.add_argument("--record", type=Path, required=True, help="a file to write the figures to, as JSON")
    options = parser.parse_args()
    records.write(options.record, {"peers": groups(read(options.files))})


if __name__ == "__main__":
    main()
