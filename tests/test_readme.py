"""What README says is so: each of its pieces of code is run, against real job servers, and prints what it says."""

from __future__ import annotations

import doctest
import re
import shlex
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import txgearman

from .certificates import Authority
from .daemons import Gearmand, Stunnel
from .test_examples import ROOT, TWISTD, Running, example_worker, output, run

README = (ROOT / "README.md").read_text("utf-8")
PROGRAM = (ROOT / ".ci" / "run").read_text("utf-8")

AROUND = """
from twisted.internet.task import react
from txgearman import GearmanClient

async def main(reactor):
    async with GearmanClient(["127.0.0.1:4730"]) as client:
{piece}
        await client.drain()

react(main)
"""
"""Where README says that its short pieces stand."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


TLS_SCRIPTS = [block for block in blocks("python") if "TLSOptions(" in block]
SCRIPTS = [block for block in blocks("python") if "Application(" not in block and block not in TLS_SCRIPTS]
SERVICES = [block for block in blocks("python") if "Application(" in block]


def complete(block: str) -> str:
    """The block as a script of its own."""
    whole = "react(" in block or "MemoryJobServer(" in block
    return block if whole else AROUND.format(piece=textwrap.indent(block, " " * 8))


def promises(block: str) -> list[str]:
    """What the comments behind its prints say that they print; ``...`` stands for anything."""
    return re.findall(r"print\(.*\)  # (.*)$", block, re.MULTILINE)


class Pool:
    """Two gearmands with workers, in the place of those that README talks to."""

    def __init__(self, *servers: Gearmand) -> None:
        self._ports = {"4730": str(servers[0].port), "4731": str(servers[1].port)}

    def localize(self, text: str) -> str:
        return re.sub(r"\b473[01]\b", lambda match: self._ports[match[0]], text)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with ExitStack() as stack:
        servers = [stack.enter_context(Gearmand()) for _ in range(2)]
        for server in servers:
            stack.enter_context(example_worker(server.address))
        yield Pool(*servers)


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: str(SCRIPTS.index(block)))
def test_code_does_what_it_says(block: str, pool: Pool) -> None:
    """What it promises is printed, in this order; other prints depend on the moment."""
    printed = output(run("-c", pool.localize(complete(block)))).splitlines()
    rest = iter(printed)
    for promise in promises(block):
        wanted = pool.localize(promise)
        assert any(fits(wanted, line) for line in rest), f"{wanted!r} in {printed}"


def fits(wanted: str, line: str) -> bool:
    return doctest.OutputChecker().check_output(wanted, line, doctest.ELLIPSIS)


@pytest.mark.parametrize("block", TLS_SCRIPTS)
def test_code_with_tls_does_what_it_says(block: str, gearmand: Gearmand, tmp_path: Path) -> None:
    """Through a stunnel that wants a client certificate."""
    authority = Authority(tmp_path / "ca")
    server, client = authority.issue("localhost"), authority.issue("client@example.com")
    wanted = [f"CAfile = {authority.roots}", "verifyChain = yes"]
    with example_worker(gearmand.address), Stunnel(gearmand.address, server, *wanted) as stunnel:
        script = block.replace("gearman.example.com:4730", f"localhost:{stunnel.port}")
        files = {"GEARMAN_CA": authority.roots, "GEARMAN_CERTIFICATE": client, "GEARMAN_KEY": client}
        printed = output(run("-c", script, **{name: str(path) for name, path in files.items()}))
    assert printed.splitlines() == promises(block)


@pytest.mark.parametrize("block", SERVICES)
def test_service_runs_under_twistd(block: str, gearmand: Gearmand, tmp_path: Path) -> None:
    """It connects to its server, and stops without a complaint."""
    script = tmp_path / "service.tac"
    script.write_text(block.replace("127.0.0.1:4730", gearmand.address))
    with Running("-c", TWISTD, "--pidfile=", "-noy", script, cwd=tmp_path) as twistd:
        twistd.await_line(f"{gearmand.address}: ready")
        twistd.terminate()
        assert "Server Shut Down" in twistd.said
        assert "Traceback" not in twistd.said


def test_every_block_is_run() -> None:
    """No block in a language that is not looked at here, and none of a kind that was forgotten."""
    languages = re.findall(r"^```(\w*)$", README, re.MULTILINE)[::2]
    assert set(languages) == {"sh", "python"}
    assert len(SCRIPTS) + len(SERVICES) + len(TLS_SCRIPTS) == languages.count("python")
    assert SERVICES
    assert TLS_SCRIPTS
    assert all(promises(block) for block in SCRIPTS + TLS_SCRIPTS)


def test_main_job() -> None:
    """The first command, but for its pip: the tests run where the package is already."""
    install, separator, command = blocks("sh")[0].strip().partition(" && ")
    assert (install, separator) == ("python -m pip install .", " && ")
    python, script, *patterns = shlex.split(command)
    assert python == "python"
    files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    result = run(script, *files)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^ +\d+  the\n", result.stdout, re.MULTILINE)
    assert "words in all" in result.stdout


def test_ci_runs_the_test_command_as_written() -> None:
    """It reads the command from README, by the one line that ends in pytest."""
    install_and_test = blocks("sh")[1].strip()
    assert install_and_test.endswith("python -m pytest")
    assert [line for line in README.splitlines() if line.endswith("python -m pytest")] == [install_and_test]
    assert "'/python -m pytest$/p' README.md" in PROGRAM


def test_the_errors_in_the_table_are_all_that_are_raised() -> None:
    rows = set(re.findall(r"^\| `([A-Z]\w+)` \|", README, re.MULTILINE))
    errors = {name for name in txgearman.__all__ if is_error(getattr(txgearman, name))}
    of_workers = {"JobEnded", "JobFailed"}
    assert rows == errors - {"GearmanError", "TaskError"} - of_workers
    assert all(f"`{name}`" in README for name in of_workers)


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, txgearman.GearmanError)


def test_the_lowest_versions_are_those_of_the_package() -> None:
    metadata = (ROOT / "setup.cfg").read_text("utf-8")
    python = re.search(r"python_requires = >=(\S+)", metadata)
    twisted = re.search(r"Twisted >= (\S+)", metadata)
    assert python
    assert twisted
    assert f"Python {python[1]} or later, and Twisted {twisted[1]} or later" in README
