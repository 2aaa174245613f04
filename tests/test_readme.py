"""What README says is so: each of its pieces of code is run, against real job servers, and prints what it says."""

from __future__ import annotations

import re
import shlex

import pytest

from .blocks import Pool, check, pool
from .test_examples import ROOT, run

__all__ = ["pool"]

README = (ROOT / "README.md").read_text("utf-8")
PROGRAM = (ROOT / ".ci" / "run").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


SCRIPTS = blocks("python")


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: str(SCRIPTS.index(block)))
def test_code_does_what_it_says(block: str, pool: Pool) -> None:
    check(block, pool)


def test_every_block_is_run() -> None:
    """No block in a language that is not looked at here; the commands are looked at below, and in tests/cli."""
    languages = re.findall(r"^```(\w*)$", README, re.MULTILINE)[::2]
    assert set(languages) == {"sh", "python"}
    assert languages.count("python") == len(SCRIPTS)
    assert languages.count("sh") == 3


VENV = ["python3 -m venv .venv", ".venv/bin/python -m pip install {}"]
"""What each of the two commands does first."""


@pytest.mark.process
def test_main_job() -> None:
    """The first command, but for its installation: the tests run where the package is already."""
    *first, command = blocks("sh")[0].strip().split(" && ")
    assert first == [line.format(".") for line in VENV]
    python, script, *patterns = shlex.split(command)
    assert python == ".venv/bin/python"
    files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    result = run(script, *files)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^ +\d+  the\n", result.stdout, re.MULTILINE)
    assert "words in all" in result.stdout


def test_ci_runs_the_test_command_as_written() -> None:
    """It reads the command from README, by the one line that ends in pytest."""
    command = blocks("sh")[1].strip()
    assert command.split(" && ") == [*(line.format("'.[test]'") for line in VENV), ".venv/bin/python -m pytest"]
    assert [line for line in README.splitlines() if line.endswith("-m pytest")] == [command]
    assert "'/-m pytest$/p' README.md" in PROGRAM


def test_links_hold_wherever_it_is_shown() -> None:
    """A package index shows it without the files beside it: those are named, and each is there."""
    connections = re.findall(r"\]\(([^)]*)\)", README)
    assert connections
    assert [connection for connection in connections if not re.match(r"https?://", connection)] == []
    named = re.findall(r"`((?:docs|examples)(?:/[\w./-]+)?)`", README)
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_it_is_short() -> None:
    """What takes more space has its page in docs."""
    assert len(README.splitlines()) < 200


def test_the_lowest_versions_are_those_of_the_package() -> None:
    metadata = (ROOT / "setup.cfg").read_text("utf-8")
    python = re.search(r"python_requires = >=(\S+)", metadata)
    twisted = re.search(r"Twisted >= (\S+)", metadata)
    assert python
    assert twisted
    assert f"Python {python[1]} or later, and Twisted {twisted[1]} or later" in README
