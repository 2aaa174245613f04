"""What conftest.py holds every test to, it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEAKS = Path(__file__).with_name("leaks.py")


@pytest.mark.process
def test_every_bad_test_fails_and_the_good_one_passes() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", str(LEAKS)]
    environment = {**os.environ, "TEST_DEADLINE": "0.5"}
    run = subprocess.run(
        command, cwd=LEAKS.parents[1], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    names = [line.split("def ")[1].split("(")[0] for line in LEAKS.read_text().splitlines() if "def test_" in line]
    bad = {
        line.split("::")[1].split(" ")[0] for line in run.stdout.splitlines() if line.startswith(("ERROR", "FAILED"))
    }
    assert set(names) - bad == {"test_is_good"}, run.stdout
