"""All benchmarks, against the floor of the same run: ``python -m benchmarks``.

The cases of a group are run in turn, several times, each time in a process and with a gearmand of its own; the table
has medians, and the median of the ratios of each turn. Absolute figures are the machine's; the ratios are ours.

A row is marked with ``!`` where a job takes more CPU time than the case allows, in times the floor's. With ``--gate``
the command fails then. The limits are on CPU time: jobs per second depend on how the cores are shared with the server.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

from . import records
from .cases import FLOOR, GROUPS, Group, measure

__all__ = ["run", "show"]

Row = dict[str, Any]


def run(group: Group, jobs: int, turns: int, python: str = sys.executable) -> list[Row]:
    """Run the cases of a group in turn, with so many jobs each; medians, and ratios of each turn."""
    found = [{case: measure(group, case, jobs, python) for case in group.cases} for _ in range(turns)]
    rows = []
    for case in group.cases:
        results = [(turn[case], turn.get(FLOOR)) for turn in found]
        own = [figures for figures, _ in results if figures is not None]
        if not own:
            continue
        row: Row = {"group": group.name, "case": case.name, "jobs": jobs, "payload": group.payload}
        row |= {key: median(figures[key] for figures in own) for key in own[0]}
        pairs = [(figures, floor) for figures, floor in results if figures is not None and floor is not None]
        if pairs:
            row["speed_to_floor"] = median(own["jobs_per_second"] / floor["jobs_per_second"] for own, floor in pairs)
            row["cpu_to_floor"] = median(own["cpu_us"] / floor["cpu_us"] for own, floor in pairs)
        if case.most_cpu is not None:
            row["most_cpu"] = case.most_cpu
        rows.append(row)
    return rows


def is_above(row: Row) -> bool:
    """Check whether a job took more CPU time than the case allows."""
    return bool("most_cpu" in row and row["cpu_to_floor"] > row["most_cpu"])


def show(row: Row) -> None:
    """Print it."""
    ratios = f"{row['speed_to_floor']:6.2f} {row['cpu_to_floor']:6.2f}" if "speed_to_floor" in row else " " * 13
    limit = f"{'!' if is_above(row) else ' '} CPU at most {row['most_cpu']:g}" if "most_cpu" in row else ""
    more = f"{row['median_us']:.0f} µs each" if "median_us" in row else ""
    if "pause_ms" in row:
        more = f"longest pause {row['pause_ms']:.0f} ms, of CPU {row['pause_cpu_ms']:.0f} ms"
        more += f", collection {row['collection_ms']:.0f} ms"
    figures = f"{row['jobs_per_second']:11,.0f} {row['cpu_us']:9.2f} {row['bytes_per_job']:10,.0f} {ratios}"
    print(f"  {row['case']:34} {figures} {limit}{more}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--turns", type=int, default=5, help="how often each case is run")
    parser.add_argument("--only", default="", help="the groups whose names have this in them")
    parser.add_argument("--jobs", type=int, default=[], nargs="+", help="how many jobs, not the groups' own")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with the library, which is measured")
    parser.add_argument("--gate", action="store_true", help="fail if a job takes more CPU time than it may")
    parser.add_argument("--record", type=Path, help="a file to write the figures to, as JSON")
    options = parser.parse_args()
    print(records.describe_build(options.python))
    rows = []
    for group in GROUPS:
        if options.only in group.name:
            for jobs in options.jobs or group.sizes:
                print(f"{group.name}: {jobs:,} jobs of {group.payload:,} bytes")
                print(f"  {'':34} {'jobs/s':>11} {'µs of CPU':>9} {'B per job':>10}  speed    CPU, to the floor's")
                for row in run(group, jobs, options.turns, options.python):
                    rows.append(row)
                    show(row)
    if options.record:
        records.write(options.record, {"turns": options.turns, "cases": rows}, options.python)
    above = [f"{row['group']}: {row['case']}" for row in rows if is_above(row)]
    if options.gate and above:
        raise SystemExit(f"more CPU time than allowed: {'; '.join(above)}")


if __name__ == "__main__":
    main()
