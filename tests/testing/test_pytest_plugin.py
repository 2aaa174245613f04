"""pytest finds the plugin by itself; it fails a test that leaves something behind, and costs others next to nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from txgearman import JobHandle, TaskFailed
from txgearman.testing import Gearmand, MemoryJobServer, gearmand

from ..processes import DEADLINE, ROOT, environment, run_alone

PLUGIN = "pytest_txgearman"

NAMED = {"PYTEST_PLUGINS": PLUGIN}
"""For where the package is not installed, and no entry point names the plugin."""

ALONE = {**NAMED, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Without the other plugins that are installed."""

ALONE_AT = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir")
"""Without the configuration of this project."""

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
    """The output of pytest for the tests above."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "test_user.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-W", "error", "test_user.py"]
    result = subprocess.run(
        command, cwd=folder, env=environment(**NAMED), capture_output=True, text=True, timeout=DEADLINE, check=False
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


def test_entry_point_has_the_name_of_its_module() -> None:
    """So that a project which names the plugin in pytest_plugins, too, gets it once."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.entry_points"]["pytest11"].split() == [PLUGIN, "=", PLUGIN]
    assert setup["options"]["py_modules"] == PLUGIN


USES_NONE = """
import sys

def test_other():
    assert not {"twisted", "txgearman"} & set(sys.modules)
"""


@pytest.mark.process
@pytest.mark.guarantee(number=11)
def test_tests_that_use_no_fixture_import_nothing(tmp_path: Path) -> None:
    """Neither the library, which takes long, nor Twisted, whose reactor others choose."""
    script = tmp_path / "test_user.py"
    script.write_text(USES_NONE)
    result = run_alone(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, script, **ALONE
    )
    assert "1 passed" in result.stdout, result.stdout + result.stderr


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


def run_in_this_process(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tests: str, *options: str
) -> pytest.RunResult:
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    pytester.makepyfile(tests)
    return pytester.runpytest_inprocess("--strict-markers", *options)


def run_bodies(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *options: str) -> pytest.RunResult:
    return run_in_this_process(pytester, monkeypatch, BODIES, *options)


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


RUNS_TWICE = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for _ in range(2):
        runtestprotocol(item, nextitem=nextitem)
    return True
"""

FAILS_FIRST = """
runs = []

def test_user(job_server):
    runs.append(job_server)
    assert len(runs) == 2
    job_server.client().add_task("reverse")
"""


def test_second_run_of_a_test_that_has_failed_is_verified(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with pytest-rerunfailures."""
    pytester.makeconftest(RUNS_TWICE)
    result = run_in_this_process(pytester, monkeypatch, FAILS_FIRST)
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(["*task 'reverse' (job H:memory:1 on memory:1, submitted at *"])


TWO_TESTS = """
from weakref import ref

servers = []

def test_first(job_server):
    servers.append(ref(job_server))

def test_second():
    assert servers[0]() is None
"""


def test_server_is_freed_after_its_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in_this_process(pytester, monkeypatch, TWO_TESTS).assert_outcomes(passed=2)


# On gearmand.

ON_GEARMAND = """
from pathlib import Path
import pytest

@pytest.fixture
def left(job_server_on_gearmand):
    job_server_on_gearmand.next_job("reverse")
    job_server_on_gearmand.client()
    job_server_on_gearmand.fall_silent()
    Path(__file__).with_suffix(".pid").write_text(str(job_server_on_gearmand._interruptions.process.pid))

def test_fails(left):
    assert False, "its own failure"
"""


@pytest.mark.process("gearmand")
def test_gearmand_ends_with_its_test(tmp_path: Path) -> None:
    """Whatever the test has left; and the report has the end of gearmand's log."""
    script = tmp_path / "test_user.py"
    script.write_text(ON_GEARMAND)
    result = run_alone(*ALONE_AT, tmp_path, script, **ALONE)
    assert "1 failed in " in result.stdout, result.stdout + result.stderr
    for text in ("its own failure", "the last lines of the log of gearmand", " Listening on 127.0.0.1:"):
        assert text in result.stdout
    with pytest.raises(ProcessLookupError):
        os.kill(int(script.with_suffix(".pid").read_text()), 0)


@pytest.mark.daemon("gearmand")
@pytest.mark.job_server(name="jobs", job_handle_prefix="H:outer", exceptions=True)
class TestOptions:
    @pytest.mark.job_server(job_handle_prefix="H:inner")
    async def test_closest_marker_wins(self, job_server_on_gearmand: Gearmand) -> None:
        handle = await job_server_on_gearmand.client().add_task_bg("mail")
        assert handle == JobHandle(job_server_on_gearmand.address, b"H:inner:1")


@pytest.mark.parametrize(("option", "outcome"), [("false", "skipped"), ("true", "errors")])
def test_missing_gearmand_is_named(
    option: str, outcome: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gearmand, "_DIRECTORIES", ())
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("TXGEARMAN_GEARMAND", raising=False)
    tests = "def test(job_server_on_gearmand): pass"
    result = run_in_this_process(pytester, monkeypatch, tests, "-rs", "-o", f"gearmand_required={option}")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*needs gearmand, which is not installed: apt-get install gearman-job-server*"])
