"""Tiers: sets of tests that a run is made of, chosen by ``--tier``.

memory
    What needs nothing but Python, in one process: all tests without a marker of another tier. It is the default, and
    takes 60 s or less on two cores.
daemon
    Real job servers, the C tools, and what waits for the buffers of real sockets.
process
    Examples, benchmarks, the programs in README and docs, the command: Python in processes of its own.
soak
    What takes longer than anybody waits for: chaos, a day, 200,000 jobs; in memory, whatever takes over 0.25 s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import pytest

from .programs import APT

__all__ = ["TIERS", "Guard", "chosen_tiers", "left_out", "parse_tiers", "tier_of"]

MEMORY: Final = "memory"
TIERS: Final = (MEMORY, "daemon", "process", "soak")

FIXTURES: Final = {
    "daemon": {
        "gearmand",
        "second_gearmand",
        "shared_gearmand",
        "geard",
        "shared_geard",
        "busy",
        "job_server_on_gearmand",
    },
    "process": {"pool"},
}
"""Fixtures that start servers or programs: a test that uses one is of that tier, without a marker of its own."""


def tier_of(item: pytest.Item) -> str:
    """Return the tier of a test; of several, the last in the list above."""
    marks = {mark.name for mark in item.iter_markers()}
    used = set(getattr(item, "fixturenames", ()))
    marks |= {tier for tier, fixtures in FIXTURES.items() if fixtures & used}
    return next((tier for tier in reversed(TIERS) if tier in marks), MEMORY)


def parse_tiers(text: str) -> list[str]:
    """Read the value of ``--tier``."""
    names = [name.strip() for name in text.split(",")]
    unknown = set(names) - {*TIERS, "all"}
    if unknown:
        raise pytest.UsageError(f"--tier must be of {', '.join(TIERS)}, all, not {', '.join(sorted(unknown))}")
    return list(TIERS) if "all" in names else names


def chosen_tiers(config: pytest.Config) -> set[str]:
    """Return the tiers that are to be run: tests that the command line names one by one run in any tier."""
    texts = config.getoption("tier")
    if texts:
        return {name for text in texts for name in parse_tiers(text)}
    return set(TIERS) if all("::" in argument for argument in config.args) else {MEMORY}


def left_out(counts: Mapping[str, int]) -> str:
    """Return a line that says how many tests of which other tiers were not run, and how to run them."""
    tiers = [tier for tier in TIERS if counts.get(tier)]
    if not tiers:
        return ""
    numbers = ", ".join(f"{counts[tier]:,} of {tier}" for tier in tiers)
    return f"not run: {numbers} (--tier={','.join(tiers)} -n auto runs them, --tier=all -n auto runs all)"


class Guard:
    """Holds the tier memory to its promise: no daemon, no tool, and no Python in a process of its own."""

    def __init__(self) -> None:
        self.tier: str | None = None
        """That of the test that is run."""

    def __call__(self, event: str, arguments: Any) -> None:
        """Hook of `sys.addaudithook`."""
        if event == "subprocess.Popen" and self.tier == MEMORY:
            command = arguments[1]
            program = os.path.basename(os.fsdecode(command if isinstance(command, (str, bytes)) else command[0]))
            if program.startswith("python") or program in APT:
                raise AssertionError(f"a test that runs {program} must be marked as daemon, process or soak")
