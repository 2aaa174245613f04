"""The benchmarks run, and measure what they say; how fast anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.__main__ import CASES, Case, job_server, measure, run

from .test_examples import ROOT

FEW = 20


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with job_server() as port:
        yield port


@pytest.mark.parametrize("case", [case for case in CASES if case.module == "client"], ids=lambda case: case.name)
def test_each_case_does_its_jobs(case: Case, port: int) -> None:
    command = [sys.executable, "-m", "benchmarks.client", f"--port={port}", f"--workload={case.workload}"]
    command += [f"--jobs={FEW}", f"--payload={case.payload}", f"--style={case.style}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout
    figures = json.loads(printed)
    assert figures["jobs_per_second"] > 0
    assert ("median_us" in figures) == (case.workload == "latency")


@pytest.mark.parametrize("module", ["worker", "floor"])
def test_what_it_is_compared_with_does_the_same_jobs(module: str) -> None:
    assert measure(Case("few", "window", FEW), module)["cpu_us"] >= 0


def test_a_row_has_the_ratios_to_its_floor() -> None:
    row = run(Case("few", "flight", 2000), 1)
    assert row["of_floor"] > 0
    assert row["case"] == "few"
