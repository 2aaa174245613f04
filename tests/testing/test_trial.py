"""The mixin fails a trial test for what it leaves behind, and no other test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.python.failure import Failure
from twisted.trial import reporter
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txgearman import ClientStopped, TaskFailed
from txgearman.packets import SUBMIT_JOB
from txgearman.testing import JobServerMixin, MemoryJobServer

from ..conftest import Failures
from ..processes import TRIAL, run


class Cases(JobServerMixin, TestCase):
    """Test methods that are not collected: the tests below run them one by one."""

    __test__ = False

    def good(self) -> None:
        deferred = self.job_server.client().add_task("reverse", b"abc")
        self.job_server.take("reverse").complete(b"cba")
        assert self.successResultOf(deferred) == b"cba"

    def good_with_faults(self) -> None:
        with self.job_server.hold_answers():
            deferred = self.job_server.client().add_task("reverse", b"abc")
            self.job_server.advance()
        self.job_server.take("reverse").fail()
        self.failureResultOf(deferred, TaskFailed)

    def good_without_server(self) -> None:
        assert "job_server" not in vars(self)

    def good_with_task_without_outcome_that_is_not_verified(self) -> None:
        vars(self)["job_server_verify"] = False
        self.job_server.client().add_task("reverse", b"abc").addErrback(lambda _: None)

    def good_with_flushed_error(self) -> None:
        self.job_server.worker().register_function("bad", lambda job: 1 / 0)
        self.job_server.result_of(self.job_server.client().add_task_bg("bad"))
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def task_without_outcome(self) -> None:
        self.job_server.client().add_task("reverse", b"abc")

    def task_without_outcome_in_coroutine(self) -> None:
        async def wait() -> None:
            await self.job_server.client().add_task("reverse", b"abc")

        ensureDeferred(wait())

    def raises_in_background(self) -> None:
        self.job_server.worker().register_function("bad", lambda job: 1 / 0)
        self.job_server.result_of(self.job_server.client().add_task_bg("bad"))

    def unhandled_in_coroutine(self) -> None:
        async def wait() -> None:
            await self.job_server.client().add_task("reverse", b"abc")

        ensureDeferred(wait())
        self.job_server.take("reverse").fail()

    def good_with_closed_server(self) -> None:
        self.job_server.client()
        self.successResultOf(self.job_server.close())

    def good_with_same_server_each_time(self) -> None:
        assert self.job_server is self.job_server

    def holds(self) -> None:
        self.job_server.client()
        self.job_server.hold_answers()
        self.job_server.client().add_task("reverse").addErrback(lambda _: None)
        self.job_server.advance()

    def never_dropped(self) -> None:
        self.job_server.drop_before(SUBMIT_JOB)

    def two_faults(self) -> None:
        self.job_server.refuse_connections()
        self.job_server.split_answers(2).end()

    def nothing_queued(self) -> None:
        self.job_server.take("reverse")

    def fails_by_itself(self) -> None:
        self.job_server.drop_before(SUBMIT_JOB)
        self.fail("its own failure")

    def fails_later(self) -> Deferred[None]:
        self.job_server.drop_before(SUBMIT_JOB)
        return fail(self.failureException("its own failure"))

    async def fails_in_coroutine(self) -> None:
        self.job_server.drop_before(SUBMIT_JOB)
        self.fail("its own failure")


@pytest.fixture(autouse=True)
def no_nested_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """trial iterates the reactor at the end of a test. That of asyncio, which runs these tests, would stop by it."""
    monkeypatch.setattr(reactor, "iterate", lambda delay=0: None)


@pytest.fixture(autouse=True)
def forgiven(logged_failures: Failures) -> Iterator[None]:
    """What the tests below log on purpose."""
    yield
    logged_failures.flush(ZeroDivisionError, TaskFailed, ClientStopped)


def problems(name: str) -> list[str]:
    """Run one of them, and return its failures and errors."""
    result = reporter.TestResult()
    Cases(name).run(result)
    assert result.testsRun == 1
    return [reported(failure) for _, failure in result.failures + result.errors]


def reported(failure: object) -> str:
    assert isinstance(failure, Failure)
    return f"{type(failure.value).__name__}: {failure.getErrorMessage()}"


@pytest.mark.parametrize("name", [name for name in vars(Cases) if name.startswith("good")])
def test_passing_test_passes(name: str) -> None:
    assert problems(name) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("holds", ["hold_answers() still holds ", "bytes: release() was expected"]),
        ("never_dropped", ["drop_before(SUBMIT_JOB) has not happened: no such packet was received"]),
        (
            "two_faults",
            [
                "2 problems at the end of the test:\n"
                "  - refuse_connections() has not happened: no connection was attempted\n"
                "  - split_answers(2) has not happened: nothing was sent"
            ],
        ),
        ("task_without_outcome", ["AssertionError: task 'reverse' (job H:memory:1 on memory:1, submitted at "]),
        ("task_without_outcome_in_coroutine", ["AssertionError: task 'reverse' (job H:memory:1 on memory:1, "]),
        ("raises_in_background", ["ZeroDivisionError: division by zero"]),
        ("unhandled_in_coroutine", ["TaskFailed: reverse memory:1//H:memory:1: failed"]),
        ("nothing_queued", ["no job for 'reverse' is due; queued: none"]),
    ],
)
def test_test_with_unmet_fault_fails_once_with_reason(name: str, expected: list[str]) -> None:
    (problem,) = problems(name)
    for text in expected:
        assert text in problem


@pytest.mark.parametrize("name", ["fails_by_itself", "fails_later", "fails_in_coroutine"])
def test_test_that_fails_by_itself_is_not_verified(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the last packets."""
    (problem,) = problems(name)
    assert "its own failure" in problem
    assert "the last packets of memory:1:" in capsys.readouterr().out


def test_repeated_test_is_noted_anew() -> None:
    case = Cases("fails_by_itself")
    case.run(reporter.TestResult())
    assert set(vars(case)) & {"setUp", "fails_by_itself"} == set()


def test_method_that_pytest_has_set_stays() -> None:
    case = Cases("fails_by_itself")
    method = vars(case)["fails_by_itself"] = lambda: None
    case.run(reporter.TestResult())
    assert vars(case)["fails_by_itself"] is method


def test_repeated_test_gets_new_server() -> None:
    """As with trial --until-failure, which runs the same object again."""
    servers: list[MemoryJobServer] = []

    class Again(JobServerMixin, SynchronousTestCase):
        def bad(self) -> None:
            servers.append(self.job_server)
            self.job_server.drop_before(SUBMIT_JOB)

    case = Again("bad")
    for _ in range(2):
        result = reporter.TestResult()
        case.run(result)
        assert len(result.failures + result.errors) == 1
    assert servers[0] is not servers[1]


SCRIPT = """
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase
from txgearman import GearmanClient
from txgearman.packets import SUBMIT_JOB
from txgearman.testing import JobServerMixin, JobServerOnPortMixin

class Tests(JobServerMixin, TestCase):
    def test_good(self):
        deferred = self.job_server.client().add_task("reverse", b"abc")
        self.job_server.take("reverse").complete(b"cba")
        return deferred.addCallback(self.assertEqual, b"cba")

    def test_bad(self):
        self.job_server.hold_answers()

    async def test_waits_while_the_clock_stands(self):
        looping = LoopingCall(list)
        looping.clock = self.job_server.clock
        await looping.start(5)

class OnPort(JobServerOnPortMixin, TestCase):
    job_server_options = {"job_handle_prefix": "H:trial"}

    async def test_good(self):
        async with GearmanClient([self.job_server.address]) as client:
            deferred = client.add_task("reverse", b"abc")
            job = await self.job_server.next_job("reverse")
            self.assertEqual(job.handle, b"H:trial:1")
            job.complete(b"cba")
            self.assertEqual(await deferred, b"cba")

    async def test_leaves_a_job(self):
        await self.job_server.client().add_task_bg("mail")

    async def test_fails_by_itself(self):
        await self.job_server.client().add_task_bg("mail")
        self.fail("its own failure")
"""


@pytest.mark.process
@pytest.mark.guarantee(number=11)
def test_under_trial_itself(tmp_path: Path) -> None:
    """In a TestCase that may wait for the reactor; each failing test fails once."""
    assert issubclass(TestCase, SynchronousTestCase)
    script = tmp_path / "test_reverser.py"
    script.write_text(SCRIPT)
    result = run("-c", TRIAL, f"--temp-directory={tmp_path / 'trial'}", script)
    assert result.returncode == 1
    assert "hold_answers() has not happened: there was no answer to hold" in result.stdout
    assert "the test waits, and nobody advances the clock" in result.stdout
    assert "timer LoopingCall<5>(list, " in result.stdout
    assert "background job H:trial:1 of 'mail' on memory:1" in result.stdout
    assert "its own failure" in result.stdout
    assert "FAILED (failures=1, errors=3, successes=2)" in result.stdout
