"""Pieces of code in README and the pages, as the scripts that they stand for."""

from __future__ import annotations

import doctest
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .daemons import Gearmand
from .test_examples import DEADLINE, EXAMPLES, ROOT, environment, example_worker, output

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Pool", "check", "pool", "promises"]

AROUND = """
from twisted.internet.task import react
from txgearman import GearmanClient

async def main(reactor):
    async with GearmanClient(["127.0.0.1:4730"]) as client:
{piece}
        await client.drain()

react(main)
"""
"""Where short pieces are said to stand."""


def complete(block: str) -> str:
    """The block as a script of its own."""
    whole = any(
        words in block for words in ("react(", "asyncio.run(", "MemoryJobServer(", "Thread(", "crochet.", "from bridge")
    )
    return block if whole else AROUND.format(piece=textwrap.indent(block, " " * 8))


def promises(block: str) -> list[str]:
    """What the comments behind its prints say that they print; ``...`` stands for anything."""
    return re.findall(r"print\(.*\)  # (.*)$", block, re.MULTILINE)


class Scripts:
    """Runs scripts as script_server.py does."""

    def __init__(self, directory: Path) -> None:
        self._files = [str(directory / name) for name in ("script", "output", "errors")]

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "script_server.py"],
            cwd=ROOT,
            env=environment(PYTHONPATH=f"{ROOT}:{EXAMPLES}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.communicate()

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script to its end. It is killed if it takes too long."""
        Path(self._files[0]).write_text(script, "utf-8")
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(self._files) + "\n")
        self._server.stdin.flush()
        deadline = threading.Timer(DEADLINE, os.kill, (int(self._server.stdout.readline()), signal.SIGKILL))
        deadline.start()
        code = int(self._server.stdout.readline())
        deadline.cancel()
        said, errors = (Path(file).read_text("utf-8") for file in self._files[1:])
        return subprocess.CompletedProcess(["script"], code, said, errors)


class Pool:
    """Two gearmands with workers, in the place of those that the pieces talk to; and what runs the pieces."""

    def __init__(self, scripts: Scripts, *servers: Gearmand) -> None:
        self.scripts = scripts
        self._ports = {"4730": str(servers[0].port), "4731": str(servers[1].port)}

    def localize(self, text: str) -> str:
        return re.sub(r"\b473[01]\b", lambda match: self._ports[match[0]], text)


ALL_BLOCKS = 10 * DEADLINE
"""Seconds that all scripts of a module may take together."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with ExitStack() as stack:
        scripts = stack.enter_context(Scripts(tmp_path_factory.mktemp("scripts")))
        servers = [stack.enter_context(Gearmand()) for _ in range(2)]
        for server in servers:
            stack.enter_context(example_worker(server.address, deadline=ALL_BLOCKS))
        yield Pool(scripts, *servers)


def check(block: str, pool: Pool) -> None:
    """What it promises is printed, in this order; other prints depend on the moment. And it promises something."""
    printed = output(pool.scripts.run(pool.localize(complete(block)))).splitlines()
    rest = iter(printed)
    assert promises(block)
    for promise in promises(block):
        wanted = pool.localize(promise)
        assert any(fits(wanted, line) for line in rest), f"{wanted!r} in {printed}"


def fits(wanted: str, line: str) -> bool:
    return doctest.OutputChecker().check_output(wanted, line, doctest.ELLIPSIS)
