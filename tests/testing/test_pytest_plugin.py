"""The plugin needs one line in conftest.py, and fails a test that leaves something behind."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from txgearman import TaskFailed
from txgearman.testing import MemoryJobServer

from ..test_examples import DEADLINE, ROOT, environment

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


# In this process, with the plugin alone.

BODIES = """
import pytest

def test_fails_by_itself(job_server):
    job_server.reject("QUEUE_ERROR")
    job_server.client()
    assert False, "its own failure"

@pytest.fixture
def broken(job_server):
    job_server.reject("QUEUE_ERROR")
    raise KeyError

def test_whose_fixture_fails(broken):
    pass

def test_that_is_skipped(job_server):
    job_server.reject("QUEUE_ERROR")
    pytest.skip("half-way")

@pytest.mark.job_server(verify=False)
def test_not_verified(job_server):
    job_server.reject("QUEUE_ERROR")

@pytest.mark.job_server(job_handle_prefix="H:outer", name="jobs")
class TestOptions:
    @pytest.mark.job_server(job_handle_prefix="H:inner")
    def test_closest_marker_wins(self, job_server):
        handle = job_server.result_of(job_server.client().add_task_bg("mail"))
        assert (job_server.name, handle.handle) == ("jobs", b"H:inner:1")
        job_server.take("mail").complete()

def test_wrong(job_server):
    job_server.client().add_task("reverse")
"""


def run_bodies(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *options: str) -> pytest.RunResult:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(BODIES)
    return pytester.runpytest_inprocess("-p", "txgearman.testing.pytest_plugin", "--strict-markers", *options)


def test_only_what_is_verified_fails_at_its_end(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_bodies(pytester, monkeypatch)
    result.assert_outcomes(failed=1, errors=2, skipped=1, passed=3)
    result.stdout.fnmatch_lines(["*KeyError*", "*task 'reverse' (job H:memory:1 on memory:1, submitted at *"])
    result.stdout.fnmatch_lines(
        ["*its own failure*", "*the last packets of memory:1*", "*1 -> OPTION_REQ 'exceptions'"]
    )
    result.stdout.no_fnmatch_line("*reject('QUEUE_ERROR') has not happened*")


def test_verification_can_be_switched_off_for_all(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_bodies(pytester, monkeypatch, "-o", "job_server_verify=false")
    result.assert_outcomes(failed=1, errors=1, skipped=1, passed=3)
