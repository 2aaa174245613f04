"""Pieces of code in README and the pages, as the scripts that they stand for."""

from __future__ import annotations

import doctest
import re
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from .daemons import Gearmand
from .processes import DEADLINE, EXAMPLES, ROOT, example_worker, output, run

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


class Pool:
    """Two gearmands with workers, in the place of those that the pieces talk to."""

    def __init__(self, *servers: Gearmand) -> None:
        self._ports = {"4730": str(servers[0].port), "4731": str(servers[1].port)}

    def localize(self, text: str) -> str:
        return re.sub(r"\b473[01]\b", lambda match: self._ports[match[0]], text)


ALL_BLOCKS = 10 * DEADLINE
"""Seconds that all scripts of a module may take together."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with ExitStack() as stack:
        servers = [stack.enter_context(Gearmand()) for _ in range(2)]
        for server in servers:
            stack.enter_context(example_worker(server.address, deadline=ALL_BLOCKS))
        yield Pool(*servers)


def check(block: str, pool: Pool) -> None:
    """What it promises is printed, in this order; other prints depend on the moment. And it promises something."""
    printed = output(run("-c", pool.localize(complete(block)), PYTHONPATH=f"{ROOT}:{EXAMPLES}")).splitlines()
    rest = iter(printed)
    assert promises(block)
    for promise in promises(block):
        wanted = pool.localize(promise)
        assert any(fits(wanted, line) for line in rest), f"{wanted!r} in {printed}"


def fits(wanted: str, line: str) -> bool:
    return doctest.OutputChecker().check_output(wanted, line, doctest.ELLIPSIS)
