"""The benchmarks run, and measure what they say; how fast anything is, no test says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import txgearman
from benchmarks import peers, pythons, records, workers
from benchmarks.__main__ import is_above, run, show
from benchmarks.cases import FLOOR, GROUPS, Case, Group, measure
from benchmarks.small_tests import ALONE, RUNNERS
from benchmarks.stalls import STALL_STYLES
from benchmarks.styles import STYLES

from .processes import ROOT

pytestmark = pytest.mark.process("gearmand", "stunnel4", "libgearman", "gear")

FEW = 20

KINDS = {
    (case.module, case.client, case.style, case.servers): (group, case)
    for group in reversed(GROUPS)
    for case in reversed(group.cases)
}
"""The first case of each kind, with its group."""


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_each_kind_of_case_does_its_jobs(kind: tuple[str, str, str, int]) -> None:
    group, case = KINDS[kind]
    found = measure(group, case, FEW)
    assert found is not None
    assert found["jobs_per_second"] > 0
    assert ("pause_ms" in found) == (case.module == "stalls")


def test_each_style_is_measured() -> None:
    assert {case.style for group in GROUPS for case in group.cases if case.module == "client"} == set(STYLES)
    assert {case.style for group in GROUPS for case in group.cases if case.module == "stalls"} == set(STALL_STYLES)


@pytest.mark.parametrize("case", [FLOOR, Case("cpipe", module="cpipe"), Case("own"), Case("own", "await")])
def test_one_after_the_other_has_a_median(case: Case) -> None:
    found = measure(Group("few", "latency", (case,)), case, FEW)
    assert found is not None
    assert found["median_us"] > 0


def test_worker_in_python_does_the_jobs_where_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.servers.compiled", lambda name: None)
    found = measure(Group("few", "window", (Case("own"),)), Case("own"), FEW)
    assert found is not None
    assert found["jobs_per_second"] > 0


def test_row_has_ratios_to_floor_and_limit() -> None:
    group = Group("few", "flight", (FLOOR, Case("own", most_cpu=1000.0)))
    floor, own = run(group, 2000, 1)
    assert (floor["case"], floor["speed_to_floor"], floor["cpu_to_floor"]) == ("floor", 1, 1)
    assert (own["group"], own["case"], own["jobs"], own["payload"], own["most_cpu"]) == ("few", "own", 2000, 16, 1000)
    assert own["cpu_to_floor"] == own["cpu_us"] / floor["cpu_us"]


def test_case_that_can_not_be_compiled_has_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.cases.compiled", lambda name: None)
    rows = run(Group("few", "flight", (Case("cpipe", module="cpipe"), Case("own"))), FEW, 1)
    assert [row["case"] for row in rows] == ["own"]
    assert "cpu_to_floor" not in rows[0]


def test_row_above_its_limit_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"case": "own", "jobs_per_second": 1e5, "cpu_us": 2.0, "bytes_per_job": 100.0}
    row |= {"speed_to_floor": 0.5, "cpu_to_floor": 2.6, "most_cpu": 2.5}
    show(row)
    show({**row, "most_cpu": 2.7})
    above, below = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"  own +100,000 +2\.00 +100 +0\.50 +2\.60 ! CPU at most 2\.5", above)
    assert re.fullmatch(r"  own +100,000 +2\.00 +100 +0\.50 +2\.60   CPU at most 2\.7", below)
    assert is_above(row)


# Workers.


def test_workers_are_compared_on_the_same_jobs(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """gear is there with the tests; a Python without aiogear leaves that out, and says so."""
    found = workers.commands({"aiogear": "/usr/bin/false"})
    assert set(found) == {"txgearman", "floor", "gear", "libgearman"}
    rows = workers.compare(found, 100, 1)
    assert "aiogear is not installed" in capfd.readouterr().err
    counts = [("txgearman", 100), ("floor", 100), ("gear", 1), ("libgearman", 100)]
    assert [(row["worker"], row["jobs"]) for row in rows] == counts
    assert (rows[1]["speed_to_floor"], rows[1]["cpu_to_floor"]) == (1, 1)
    assert rows[0]["own_to_this"] == 1
    assert all(row["jobs_per_second"] > 0 for row in rows)


# Interpreters.


@pytest.mark.soak
def test_pythons_are_compared_with_the_first() -> None:
    first, second = pythons.compare([sys.executable, sys.executable], pythons.group_of("window"), 1000, 1)
    assert first["python"] == second["python"] == pythons.name_of(sys.executable)
    assert (first["jobs"], first["speed_to_first"], first["cpu_to_first"]) == (1000, 1, 1)
    assert second["speed_to_first"] == pytest.approx(second["jobs_per_second"] / first["jobs_per_second"])


# Records.


def test_a_record_tells_where_it_was_measured_and_with_what(tmp_path: Path) -> None:
    records.write(tmp_path / "record.json", {"turns": 3, "workers": []})
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert record["turns"] == 3
    assert record["versions"]["txgearman"] == txgearman.__version__
    assert record["versions"]["gearmand"].startswith("1.")
    assert record["machine"]["cores"] > 0
    assert set(record["build"]) == {"PGO", "LTO"}


@pytest.mark.parametrize(
    ("arguments", "description"),
    [
        ("--enable-optimizations --with-lto", "Python 3.11.7, built with PGO and LTO"),
        ("--with-lto", "Python 3.11.7, configured without PGO: "),
        ("", "Python 3.11.7, configured without PGO and LTO: "),
    ],
)
def test_build_of_python_is_described(arguments: str, description: str, tmp_path: Path) -> None:
    """An interpreter that prints what another configuration would."""
    python = tmp_path / "python"
    there = ["--enable-optimizations" in arguments, "--with-lto" in arguments]
    python.write_text(f"#!/bin/sh\necho 3.11.7 {there[0]} {there[1]}\n")
    python.chmod(0o755)
    assert records.describe_build(str(python)).startswith(description)


def line(name: str, turn: int, wall: float, cpu: float, **more: Any) -> str:
    figures = {"name": name, "rep": turn, "n": 1000, "wall_s": wall, "user_s": cpu, "sys_s": 0.0}
    return json.dumps({**figures, "workload": "w2", "payload": 16, **more})


def test_a_record_of_peers_has_the_ratios_of_each_turn(tmp_path: Path) -> None:
    """A turn that was slow for all is none for the ratios; a run that failed does not count."""
    lines = [
        *(line("floor-py", turn, 0.1 * (turn + 1), 0.01 * (turn + 1)) for turn in range(3)),
        *(line("txgearman", turn, 0.4 * (turn + 1), 0.1 * (turn + 1)) for turn in range(3)),
        line("gear", 0, 4.0, 1.0),
        line("gear", 1, 4.0, 1.0, error="hangs"),
        line("txgearman", 0, 1.0, 1.0, workload="w3", lat_p50_us=120),
    ]
    (tmp_path / "runs.jsonl").write_text("\n".join(lines) + "\n\n")
    flight, latency = peers.groups(peers.read([tmp_path / "runs.jsonl"]))
    assert [client["name"] for client in flight["clients"]] == ["floor-py", "txgearman", "gear"]
    own, gear = flight["clients"][1:]
    assert (own["speed_to_floor"], own["cpu_to_floor"]) == (pytest.approx(0.25), pytest.approx(10))
    assert (own["jobs_per_second"], own["speed_to_libgearman"]) == (pytest.approx(1250), None)
    assert (gear["runs"], gear["speed_to_floor"]) == (1, pytest.approx(0.025))
    assert latency["clients"][0]["median_us"] == 120


# The test kit.


@pytest.mark.soak
def test_small_tests_are_measured_by_each_runner() -> None:
    command = [sys.executable, "-m", "benchmarks.small_tests", f"--tests={FEW}", "--turns=1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=ROOT)
    heading, *rows = done.stdout.splitlines()
    assert heading.split()[-2:] == ["least", "median"]
    assert [re.fullmatch(r"(.+?) +-?\d+\.\d\d +-?\d+\.\d\d", row)[1] for row in rows] == [ALONE, *RUNNERS]  # type: ignore[index]  # each row matches


# The commands.

COMMANDS = {
    "cases": ["benchmarks", "--turns=1", "--only=server in memory", "--jobs", "20"],
    "workers": ["benchmarks.workers", "--turns=1", "--jobs=100"],
    "peers": ["benchmarks.peers", "runs.jsonl"],
    "pythons": ["benchmarks.pythons", sys.executable, "--turns=1", "--jobs", "1000"],
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.soak] * (kind == "pythons")) for kind in COMMANDS]
)
def test_command_writes_record_and_its_tables(kind: str, tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(line("floor-py", 0, 0.1, 0.01) + "\n" + line("txgearman", 0, 0.4, 0.1))
    record = tmp_path / f"1.0.0-{kind}.json"
    command = [sys.executable, "-m", *COMMANDS[kind], f"--record={record}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=tmp_path, env=environment)
    page = record.with_suffix(".md").read_text("utf-8")
    assert re.match(r"Measured \d{4}-\d\d-\d\d with txgearman .*, Twisted .*, on .*\.\n", page)
    assert record.with_suffix(".svg").exists() == (kind == "peers")
    expected = {
        "cases": "| single tasks | 20 | ",
        "workers": "| libgearman |",
        "peers": "| txgearman | 2,500 | ",
        "pythons": f"| 100 in flight | 1,000 | {pythons.name_of(sys.executable)} |",
    }
    assert expected[kind] in page
