"""The mixin fails a trial test for what it leaves behind, and no other test."""

from __future__ import annotations

import unittest
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txgearman import TaskFailed
from txgearman.packets import SUBMIT_JOB
from txgearman.testing import JobServerMixin, MemoryJobServer

from ..test_examples import TRIAL, run


class Cases(JobServerMixin, SynchronousTestCase):
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

    def good_with_job_left(self) -> None:
        deferred = self.job_server.client().add_task("reverse", b"abc")
        deferred.addErrback(lambda _: None)
        self.job_server.take("reverse")

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


def problems(name: str) -> list[str]:
    """Run one of them, and return its failures and errors."""
    result = unittest.TestResult()
    Cases(name).run(result)
    assert result.testsRun == 1
    return [text for _, text in result.failures + result.errors]


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
                "refuse_connections() has not happened: no connection was attempted; "
                "split_answers(2) has not happened: nothing was sent"
            ],
        ),
        ("nothing_queued", ["no job for 'reverse' is due; queued: none"]),
    ],
)
def test_test_with_unmet_fault_fails_once_with_reason(name: str, expected: list[str]) -> None:
    (problem,) = problems(name)
    for text in expected:
        assert text in problem


def test_failure_of_test_is_reported_before_that_of_cleanup() -> None:
    first, second = problems("fails_by_itself")
    assert "its own failure" in first
    assert "drop_before(SUBMIT_JOB) has not happened" in second


def test_repeated_test_gets_new_server() -> None:
    """As with trial --until-failure, which runs the same object again."""
    servers: list[MemoryJobServer] = []

    class Again(JobServerMixin, SynchronousTestCase):
        def bad(self) -> None:
            servers.append(self.job_server)
            self.job_server.drop_before(SUBMIT_JOB)

    case = Again("bad")
    for _ in range(2):
        result = unittest.TestResult()
        case.run(result)
        assert len(result.failures + result.errors) == 1
    assert servers[0] is not servers[1]


SCRIPT = """
from twisted.trial.unittest import TestCase
from txgearman.packets import SUBMIT_JOB
from txgearman.testing import JobServerMixin

class Tests(JobServerMixin, TestCase):
    def test_good(self):
        deferred = self.job_server.client().add_task("reverse", b"abc")
        self.job_server.take("reverse").complete(b"cba")
        return deferred.addCallback(self.assertEqual, b"cba")

    def test_bad(self):
        self.job_server.hold_answers()
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
    assert "FAILED (errors=1, successes=1)" in result.stdout
