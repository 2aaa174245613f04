"""CPU time that the test kit adds to a small test, by pytest and by trial: ``python -m benchmarks.small_tests``.

Each runner runs as many tests that use the kit as tests with a fixture that does nothing, in turn, each time in a
process of its own. Both import the kit, so that what they differ by is what it adds to each test.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from txgearman.testing import MemoryJobServer

PYTEST_KIT = """
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_reverse(job_server, number):
    outcome = job_server.client().add_task("reverse", b"abc")
    job_server.take("reverse").complete(b"cba")
    assert job_server.result_of(outcome) == b"cba"
"""

PYTEST_EMPTY = """
import pytest
import txgearman.testing

@pytest.fixture
def nothing():
    yield None

@pytest.mark.parametrize("number", range({tests}))
def test_nothing(nothing, number):
    assert nothing is None
"""

TRIAL_KIT = """
from twisted.trial.unittest import TestCase
from txgearman.testing import JobServerMixin

class Tests(JobServerMixin, TestCase):
    def check(self):
        outcome = self.job_server.client().add_task("reverse", b"abc")
        self.job_server.take("reverse").complete(b"cba")
        self.assertEqual(self.job_server.result_of(outcome), b"cba")

for number in range({tests}):
    setattr(Tests, "test_%d" % number, Tests.check)
"""

TRIAL_EMPTY = """
import txgearman.testing
from twisted.trial.unittest import TestCase

class Tests(TestCase):
    def check(self):
        self.addCleanup(int)
        self.assertEqual(1, 1)

for number in range({tests}):
    setattr(Tests, "test_%d" % number, Tests.check)
"""

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_txgearman", "-c", os.devnull, "--rootdir", ".")


class Runner(NamedTuple):
    """What runs tests.

    :ivar command: its command, to which the name of the file is added.
    :ivar kit: the file with tests that use the kit.
    :ivar empty: the file with tests of which each has a fixture, or a cleanup, that does nothing.
    """

    command: tuple[str, ...]
    kit: str
    empty: str


RUNNERS = {
    "pytest": Runner(PYTEST, PYTEST_KIT, PYTEST_EMPTY),
    "pytest with pytest-twisted": Runner((*PYTEST, "-p", "pytest_twisted"), PYTEST_KIT, PYTEST_EMPTY),
    "trial": Runner(("-m", "twisted.trial"), TRIAL_KIT, TRIAL_EMPTY),
}

MAX_SHOWN = 2000
"""Characters of the output of tests that fail."""

ALONE = "the kit's calls alone"


def measure(runner: Runner, tests: int) -> tuple[float, float]:
    """Return the milliseconds of CPU time of each test that uses the kit, and of each that uses nothing."""
    kit, empty = (cpu_seconds(runner.command, text.format(tests=tests)) for text in (runner.kit, runner.empty))
    return kit / tests * 1e3, empty / tests * 1e3


def cpu_seconds(command: tuple[str, ...], text: str) -> float:
    """Return the CPU time of a process that runs the tests of a file.

    :raises RuntimeError: they fail.
    """
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with TemporaryDirectory() as folder:
        Path(folder, "test_small.py").write_text(text)
        with Path(folder, "output").open("w+") as output:
            process = subprocess.Popen(
                [sys.executable, *command, "./test_small.py"],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(Path(output.name).read_text()[-MAX_SHOWN:])
    return usage.ru_utime + usage.ru_stime


def measure_alone(tests: int) -> tuple[float, float]:
    """Return the same for tests that nothing runs."""
    start = time.process_time()
    for _ in range(tests):
        small_test()
    return (time.process_time() - start) / tests * 1e3, 0.0


def small_test() -> None:
    server = MemoryJobServer()
    outcome = server.client().add_task("reverse", b"abc")
    server.take("reverse").complete(b"cba")
    assert server.result_of(outcome) == b"cba"
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=1000, help="tests in each run")
    parser.add_argument("--turns", type=int, default=5, help="runs of each")
    options = parser.parse_args()
    rows: dict[str, Callable[[int], tuple[float, float]]] = {ALONE: measure_alone}
    rows |= {name: partial(measure, runner) for name, runner in RUNNERS.items()}
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(options.turns):
        for name, row in rows.items():
            results[name].append(row(options.tests))
    print(f"{'ms of CPU time that the kit adds to a test':43} {'least':>7} {'median':>7}")
    for name, pairs in results.items():
        kit, empty = zip(*pairs, strict=True)
        print(f"{name:43} {min(kit) - min(empty):7.2f} {median(kit) - median(empty):7.2f}")


if __name__ == "__main__":
    main()
