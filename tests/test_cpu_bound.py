"""The example that computes in processes: results, errors, a cancel, and a process that dies."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults

from .daemons import Gearmand
from .processes import EXAMPLES, output, run

pytestmark = pytest.mark.process


def load() -> Any:
    spec = importlib.util.spec_from_file_location("cpu_bound", EXAMPLES / "cpu_bound.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def processes() -> AsyncIterator[Any]:
    made = load().Processes(reactor, 1)
    yield made
    await made.close()


def text_of(number: int) -> bytes:
    return b"%d" % number


def divide(number: int) -> bytes:
    return b"%d" % (1 // number)


def die() -> bytes:
    os._exit(3)


def wait_for(path: str) -> bytes:
    """Wait until a file exists."""
    while not Path(path).exists():
        os.sched_yield()
    return b"found"


async def test_calls_are_done_in_processes(processes: Any) -> None:
    assert await gatherResults([processes.call(text_of, number) for number in range(3)]) == [b"0", b"1", b"2"]
    with pytest.raises(ZeroDivisionError):
        await processes.call(divide, 0)


async def test_process_that_dies_fails_its_call_and_the_next_has_a_new_one(processes: Any) -> None:
    with pytest.raises(BrokenProcessPool):
        await processes.call(die)
    assert await processes.call(text_of, 5) == b"5"


async def test_cancelled_call_does_not_run_and_others_go_on(processes: Any, tmp_path: Path) -> None:
    path = tmp_path / "go"
    running = processes.call(wait_for, str(path))
    waiting = [processes.call(text_of, number) for number in range(5)]
    last = waiting[-1]
    for call in (running, last):
        call.cancel()
        with pytest.raises(CancelledError):
            await call
    path.touch()
    assert await gatherResults(waiting[:-1]) == [b"0", b"1", b"2", b"3"]


def test_example_as_a_program(gearmand: Gearmand, tmp_path: Path) -> None:
    script = tmp_path / "cpu_bound.py"
    script.write_text((EXAMPLES / "cpu_bound.py").read_text("utf-8").replace("127.0.0.1:4730", gearmand.address))
    assert output(run(script)) == "b'999983'\n"
