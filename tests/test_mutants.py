"""The script that makes mutants and says which of them the tests kill."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .mutants import mutants_of
from .processes import ROOT


@pytest.mark.soak
def test_mutant_is_killed_by_tests_of_its_lines(tmp_path: Path) -> None:
    """Changes of delays before a retry, which these tests are about, and of quoted text, which they are not."""
    files = ["txgearman/retry.py", "txgearman/validation.py"]
    mutants = [mutant for file in files for mutant in mutants_of(file) if mutant.operator == "arithmetic"]
    (tmp_path / "list").write_text("\n".join(map(str, mutants)), "utf-8")
    command = [sys.executable, "-m", "tests.mutants", "run", f"{tmp_path}/list", "--tests", "tests/test_retry.py"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, encoding="utf-8").stdout
    outcomes = set(re.findall(r"^(\S+):\d+ \S+ \d+ (SURVIVES|killed by tests/test_retry.py)", said, re.MULTILINE))
    assert outcomes == {(files[0], "killed by tests/test_retry.py"), (files[1], "SURVIVES")}
