"""The plugin needs one line in conftest.py, and fails a test that leaves something behind."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from txgearman import TaskFailed
from txgearman.testing import MemoryJobServer
from txgearman.testing.pytest_plugin import job_server

from ..test_examples import DEADLINE, ROOT, environment

assert job_server  # the fixture of the first tests

TESTS = """
from txgearman.packets import SUBMIT_JOB

def test_good(job_server):
    client = job_server.client()
    outcome = []
    client.add_task("reverse", b"abc").addCallback(outcome.append)
    job_server.take("reverse").complete(b"cba")
    assert outcome == [b"cba"]

def test_good_coroutine(job_server):
    async def both():
        deferred = job_server.client().add_task("reverse", b"abc")
        job_server.take("reverse").complete(b"cba")
        return await deferred

    assert job_server.result_of(both()) == b"cba"

def test_has_a_server_of_its_own(job_server):
    assert not job_server.connections

def test_never_dropped(job_server):
    job_server.drop_before(SUBMIT_JOB)

def test_holds(job_server):
    job_server.hold_answers()
    job_server.client()

def test_nothing_queued(job_server):
    job_server.take("reverse")

def test_needs_no_server():
    pass
"""


def test_fixture_is_server_on_clock(job_server: MemoryJobServer) -> None:
    deferred = job_server.client().add_task("reverse", b"abc")
    job_server.take("reverse").complete(b"cba")
    assert job_server.result_of(deferred) == b"cba"


@pytest.mark.guarantee(number=1)
def test_unmet_fault_fails_test_at_teardown(job_server: MemoryJobServer) -> None:
    deferred = job_server.client().add_task("reverse", b"abc")
    job_server.take("reverse").fail()
    with pytest.raises(TaskFailed):
        job_server.result_of(deferred)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of pytest for the tests above, with the line that the plugin's docstring names."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "conftest.py").write_text('pytest_plugins = ["txgearman.testing.pytest_plugin"]\n')
    (folder / "test_user.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-W", "error", "test_user.py"]
    result = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


def outcomes(report: str, word: str) -> set[str]:
    return set(re.findall(rf"^{word} test_user\.py::(\w+)", report, re.MULTILINE))


@pytest.mark.process
def test_passing_tests_pass_and_failing_tests_fail(report: str) -> None:
    assert outcomes(report, "FAILED") == {"test_nothing_queued"}
    at_teardown = {"test_never_dropped", "test_holds"}
    assert outcomes(report, "ERROR") == at_teardown
    good = {"test_good", "test_good_coroutine", "test_has_a_server_of_its_own", "test_needs_no_server"}
    assert outcomes(report, "PASSED") - at_teardown == good


@pytest.mark.process
@pytest.mark.parametrize(
    "text",
    [
        "drop_before(SUBMIT_JOB) has not happened: no such packet was received",
        "bytes: release() was expected",
        "no job for 'reverse' is due; queued: none",
    ],
)
def test_report_names_unmet_expectation(report: str, text: str) -> None:
    assert f"AssertionError: {text}" in report or re.search(rf"AssertionError: .*{re.escape(text)}", report)


def test_docstring_of_plugin_has_the_line_that_enables_it() -> None:
    source = (ROOT / "txgearman/testing/pytest_plugin.py").read_text()
    assert 'pytest_plugins = ["txgearman.testing.pytest_plugin"]' in source
