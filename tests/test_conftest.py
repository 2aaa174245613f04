"""What conftest.py holds every test to, it does."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Watchdog

LEAKS = Path(__file__).with_name("leaks.py")
BLOCKED = Path(__file__).with_name("blocked.py")


def run(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a file."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", str(path)]
    return subprocess.run(
        command,
        cwd=path.parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.process
def test_every_bad_test_fails_and_the_good_one_passes() -> None:
    output = run(LEAKS, TEST_DEADLINE="0.5").stdout
    names = [line.split("def ")[1].split("(")[0] for line in LEAKS.read_text().splitlines() if "def test_" in line]
    bad = {line.split("::")[1].split(" ")[0] for line in output.splitlines() if line.startswith(("ERROR", "FAILED"))}
    assert set(names) - bad == {"test_is_good"}, output


@pytest.mark.process
def test_a_test_that_blocks_the_reactor_ends_the_run_with_its_stack() -> None:
    ended = run(BLOCKED, TEST_LIMIT="0.5")
    assert (ended.returncode, "test_blocks_for_ever" in ended.stderr) == (1, True), ended.stderr


@pytest.mark.parametrize(("xdist", "limits"), [(None, [2.0]), ("gw0", [2.0, None, 2.0, None])])
def test_process_that_waits_for_tests_has_no_limit(
    monkeypatch: pytest.MonkeyPatch, xdist: str | None, limits: list[float | None]
) -> None:
    """Of pytest-xdist. Else tests follow each other, and few of them move the limit."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    if xdist is not None:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", xdist)
    set_limits: list[float | None] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda limit, **_: set_limits.append(limit))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: set_limits.append(None))
    watchdog = Watchdog()
    for _ in range(2):
        watchdog.test_starts(1.0)
        watchdog.test_ends()
    assert set_limits == limits
    watchdog.stop()
