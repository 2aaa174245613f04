"""The benchmarks run, and measure what they say; how fast anything is, no test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import figures
import pytest

import txgearman
from benchmarks import peers, pythons, records, workers
from benchmarks.__main__ import BY_NAME, CASES, Case, measure, run
from benchmarks.servers import job_server

from .test_examples import ROOT

pytestmark = pytest.mark.process("gearmand", "stunnel4", "libgearman", "gear")

FEW = 20


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with job_server() as port:
        yield port


@pytest.mark.parametrize("case", [case for case in CASES if case.compared], ids=lambda case: case.name)
def test_each_case_does_its_jobs(case: Case, port: int) -> None:
    if case.style == "tls":
        assert measure(Case("few", case.workload, FEW, style="tls"), "client")["jobs_per_second"] > 0
        return
    command = [sys.executable, "-m", "benchmarks.client", f"--port={port}", f"--workload={case.workload}"]
    command += [f"--jobs={FEW}", f"--payload={case.payload}", f"--style={case.style}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout
    figures = json.loads(printed)
    assert figures["jobs_per_second"] > 0
    assert ("median_us" in figures) == (case.workload == "latency")


@pytest.mark.parametrize("module", ["worker", "floor"])
def test_what_it_is_compared_with_does_the_same_jobs(module: str) -> None:
    assert measure(Case("few", "window", FEW), module)["cpu_us"] >= 0


def test_the_server_in_memory_does_its_jobs() -> None:
    assert measure(Case("few", "window", FEW, style="memory"), "client")["jobs_per_second"] > 0


def test_a_row_has_the_ratios_to_its_floor() -> None:
    row = run(Case("few", "flight", 2000), 1)
    assert row["speed_ratio"] > 0
    assert (row["case"], row["beside"]) == ("few", "floor")


def test_a_row_has_the_ratios_to_the_case_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BY_NAME, "base", Case("base", "flight", 2000))
    row = run(Case("few", "flight", 1000, payload=1000, style="keep", beside="base"), 1)
    assert row["beside"] == "base"
    assert row["cpu_ratio"] > 0
    assert row["memory_of_results"] == row["bytes_per_job"] / 1000


def test_each_case_is_compared_with_one_that_is_there() -> None:
    assert {case.beside for case in CASES if case.beside} <= {case.name for case in CASES}


# Workers.


def test_workers_are_compared_on_the_same_jobs(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """gear is there with the tests; a Python without aiogear leaves that out, and says so."""
    with workers.commands({"aiogear": "/usr/bin/false"}) as found:
        assert set(found) == {"txgearman", "gear", "libgearman"}
        rows = workers.compare(found, 100, 1)
    assert "aiogear is not installed" in capfd.readouterr().err
    assert [(row["worker"], row["jobs"]) for row in rows] == [("txgearman", 100), ("gear", 1), ("libgearman", 100)]
    assert rows[0]["own_to_this"] == 1
    assert all(row["jobs_per_second"] > 0 for row in rows)


# Interpreters.


def test_pythons_are_compared_with_the_first() -> None:
    first, second = pythons.compare([sys.executable, sys.executable], Case("", "window", 1000), 1)
    assert first["python"] == second["python"] == pythons.name_of(sys.executable)
    assert (first["jobs"], first["speed_to_first"], first["cpu_to_first"]) == (1000, 1, 1)
    assert second["speed_to_first"] == pytest.approx(second["jobs_per_second"] / first["jobs_per_second"])


# Records.


def test_a_record_tells_where_it_was_measured_and_with_what(tmp_path: Path) -> None:
    records.write(tmp_path / "record.json", {"turns": 3})
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert record["turns"] == 3
    assert record["versions"]["txgearman"] == txgearman.__version__
    assert record["versions"]["gearmand"].startswith("1.")
    assert record["machine"]["cores"] > 0


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


# The commands.

COMMANDS = {
    "cases": ["benchmarks", "--turns=1", "--only=1,000 in flight"],
    "workers": ["benchmarks.workers", "--turns=1", "--jobs=100"],
    "peers": ["benchmarks.peers", "runs.jsonl"],
    "pythons": ["benchmarks.pythons", sys.executable, "--turns=1", "--jobs", "1000"],
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_writes_a_record_that_the_page_about_speed_can_be_made_from(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs.jsonl").write_text(line("floor-py", 0, 0.1, 0.01) + "\n" + line("txgearman", 0, 0.4, 0.1))
    record = tmp_path / f"1.0.0-{kind}.json"
    command = [sys.executable, "-m", *COMMANDS[kind], f"--record={record}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=tmp_path, env=environment)
    monkeypatch.setattr(figures, "RECORDS", tmp_path)
    assert figures.releases() == ["1.0.0"]
    table = figures.FIGURES[kind]("1.0.0")
    expected = {
        "cases": "| 1,000 in flight |",
        "workers": "| libgearman |",
        "peers": "| txgearman | 2,500 | ",
        "pythons": f"| 100 in flight | 1,000 | {pythons.name_of(sys.executable)} |",
    }
    assert expected[kind] in table
