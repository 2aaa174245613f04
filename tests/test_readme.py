"""README's code, commands and links: each piece is run and prints what it says, each link leads to a file."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .blocks import Pool, check, pool, promises
from .processes import DEADLINE, ROOT, run

__all__ = ["pool"]

README = (ROOT / "README.md").read_text("utf-8")
PROGRAM = (ROOT / ".ci" / "run").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


SCRIPTS = blocks("python")
COMMANDS = [block.strip() for block in blocks("sh")]


class Paste:
    """Lines that a shell runs, in a group of processes that ends with the block."""

    def __init__(self, command: str) -> None:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._process = subprocess.Popen(
            ["sh", "-c", command], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    def __enter__(self) -> Paste:
        return self

    def __exit__(self, *raised: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.communicate(timeout=DEADLINE)

    def wait_for(self, pattern: str) -> str:
        """Read lines of its output up to one with the pattern. Return the pattern's group."""
        assert self._process.stdout
        for line in self._process.stdout:
            if found := re.search(pattern, line):
                return found[1]
        raise AssertionError(f"ended without {pattern!r}")


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: str(SCRIPTS.index(block)))
def test_code_does_what_it_says(block: str, pool: Pool) -> None:
    check(block, pool)


def test_every_block_is_run() -> None:
    """No block in a language that is not looked at here; the commands are looked at below, and in tests/cli."""
    languages = re.findall(r"^```(\w*)$", README, re.MULTILINE)[::2]
    assert set(languages) == {"sh", "python"}
    assert languages.count("python") == len(SCRIPTS)
    assert languages.count("sh") == len(COMMANDS) == 7


@pytest.mark.process
def test_three_pastes_print_result() -> None:
    """In terminals beside each other, but for the port. A shell runs each as it stands."""
    _, server, worker, client = COMMANDS[:4]
    with Paste(server + " --port 0") as server_paste:
        port = server_paste.wait_for(r"on 127\.0\.0\.1:(\d+)")
        with Paste(worker.replace("4730", port)) as worker_paste:
            worker_paste.wait_for("(ready)")
            with Paste(client.replace("4730", port)) as client_paste:
                assert client_paste.wait_for("(.+)") == promises(client)[0]


VENV = ["python3 -m venv .venv", ".venv/bin/python -m pip install {}"]
"""What each of the two commands does first."""


@pytest.mark.process
def test_main_job() -> None:
    """The first command, but for its installation: the tests run where the package is already."""
    *first, command = COMMANDS[-2].split(" && ")
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
    command = COMMANDS[-1]
    assert command.split(" && ") == [*(line.format("'.[test]'") for line in VENV), ".venv/bin/python -m pytest"]
    assert [line for line in README.splitlines() if line.endswith("-m pytest")] == [command]
    assert "'/-m pytest$/p' README.md" in PROGRAM


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]*)\)", README)
    files = [link for link in links if not re.match(r"https?://", link)]
    assert len(files) > 10
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_picture_is_small() -> None:
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]*)\)", README)
    assert (ROOT / picture).stat().st_size < 150_000


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
