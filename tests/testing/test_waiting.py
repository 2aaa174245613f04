"""Tests that await: on a clock by `run`, on the reactor by the fixture on a port; and a clock that stands."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock, deferLater

from txgearman import ClientStopped, GearmanClient, Task, TaskFailed
from txgearman.packets import SUBMIT_JOB
from txgearman.testing import JobServerOnPortMixin, MemoryJobServer, waiting
from txgearman.testing.waiting import RunningTest, wait_for

from ..conftest import Failures
from ..wire import outcome

reactor: Any = global_reactor


# next_job().


async def reverse(server: MemoryJobServer, client: GearmanClient) -> bytes:
    """Submit a job, and play its worker."""
    deferred = client.add_task("reverse", b"abc")
    job = await server.next_job("reverse")
    job.complete(job.workload[::-1])
    return await deferred


def test_next_job_waits_for_submit() -> None:
    server = MemoryJobServer()
    jobs = outcome(server.next_job(b"mail"))
    assert jobs == []
    client = server.client()
    client.add_task_bg("mail", b"1")
    client.add_task_bg("mail", b"2")
    server.advance()
    assert [job.workload for job in jobs] == [b"1"]
    assert [job.workload for job in outcome(server.next_job("mail"))] == [b"2"]
    jobs[0].complete()
    server.close(verify=False)


def test_next_job_is_answered_after_submit() -> None:
    """Its result does not arrive before JOB_CREATED."""
    server = MemoryJobServer()
    server.next_job("reverse").addCallback(lambda job: job.complete(b"cba"))
    assert server.result_of(server.client().add_task("reverse")) == b"cba"
    server.close()


def test_next_job_waits_for_its_time() -> None:
    server = MemoryJobServer()
    client = server.client()
    client.add_task_bg("mail", b"late", at=60)
    jobs = outcome(server.next_job("mail"))
    server.advance(10)
    client.add_task_bg("mail", b"later", at=70)
    server.advance(49)
    assert jobs == []
    server.advance(1)
    assert [job.workload for job in jobs] == [b"late"]
    jobs[0].complete()
    assert server.queued("mail") == [b"later"]
    server.close()


@pytest.mark.parametrize("scheduled", [False, True])
def test_cancelled_wait_takes_no_job(scheduled: bool) -> None:
    server = MemoryJobServer()
    if scheduled:
        server.client().add_task_bg("mail", at=60)
    fired = outcome(waits := server.next_job("mail"))
    waits.cancel()
    assert [type(error) for error in fired] == [CancelledError]
    server.client().add_task_bg("mail")
    server.advance(60)
    assert len(server.queued("mail")) == 1 + scheduled
    server.close()
    assert server.clock.getDelayedCalls() == []


def test_close_ends_the_wait() -> None:
    server = MemoryJobServer()
    server.next_job("mail")
    server.next_job("mail")
    server.client().add_task_bg("mail")
    server.advance()
    assert server.command("status").startswith("mail\t1\t1\t2")
    with pytest.raises(
        AssertionError, match=r"^background job H:memory:1 of 'mail'.* was taken at .*, and has not ended"
    ):
        server.close()
    assert server.clock.getDelayedCalls() == []


# run().


def test_coroutine_runs_on_the_clock() -> None:
    server = MemoryJobServer()
    client = server.client()

    async def after_an_hour() -> tuple[bytes, float]:
        await deferLater(server.clock, 300, lambda: None)
        return await reverse(server, client), server.clock.seconds()

    assert server.run(after_an_hour()) == (b"cba", 300)
    server.close()


def test_coroutine_that_fails_raises() -> None:
    server = MemoryJobServer()
    client = server.client()

    async def fails() -> None:
        deferred = client.add_task("reverse")
        (await server.next_job("reverse")).fail()
        await deferred

    with pytest.raises(TaskFailed):
        server.run(fails())
    server.close()


@pytest.mark.parametrize("polls", [False, True])
def test_coroutine_that_waits_for_ever_fails_with_the_state(polls: bool, logged_failures: Failures) -> None:
    """Whether anything else is due on the clock, such as the poll of a worker, or not."""
    server = MemoryJobServer()
    client = server.client()
    if polls:
        server.worker().register_function("other", lambda job: None)

    async def waits() -> None:
        await client.add_task("reverse", timeout=2000)

    with pytest.raises(
        AssertionError, match=r"^there is no result yet\n  task 'reverse' \(job H:memory:1 on memory:1, "
    ):
        server.run(waits(), within=1000)
    assert server.clock.seconds() <= 1000
    server.close(verify=False)
    logged_failures.flush(ClientStopped)


# On a clock that stands.


def standing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)


async def test_task_that_is_awaited_on_a_standing_clock_fails(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    standing(monkeypatch)
    server: MemoryJobServer = request.getfixturevalue("job_server")
    done = server.client().add_task("other")
    server.take("other").complete()
    assert await done == b""
    with pytest.raises(AssertionError, match=r"^the test waits, and nobody advances the clock") as caught:
        await server.client().add_task("reverse")
    assert "job_server_on_port" in str(caught.value)
    assert "task 'reverse' (" in str(caught.value)


async def test_batch_that_is_awaited_on_a_standing_clock_fails(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """By itself, or in a map."""
    standing(monkeypatch)
    server: MemoryJobServer = request.getfixturevalue("job_server")
    with pytest.raises(AssertionError, match=r"^the test waits, and nobody advances the clock") as caught:
        await server.client().add_tasks("reverse", [b"a", b"b"])
    assert "batch of 2 jobs of 'reverse' (" in str(caught.value)
    with pytest.raises(AssertionError, match=r"^the test waits, and nobody advances the clock"):
        [result async for result in server.client().map("reverse", [b"a", b"b"])]


async def test_next_job_that_is_awaited_on_a_standing_clock_fails(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    standing(monkeypatch)
    server: MemoryJobServer = request.getfixturevalue("job_server")
    ended = outcome(server.next_job("other"))
    server.client().add_task_bg("other")
    server.advance()
    with pytest.raises(AssertionError, match=r"^the test waits, and nobody advances the clock"):
        await server.next_job("reverse")
    ended[0].complete()


async def test_call_that_is_awaited_on_a_standing_clock_fails(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """And is named; those that have ended are not."""
    standing(monkeypatch)
    server: MemoryJobServer = request.getfixturevalue("job_server")
    client, admin = server.client(), server.admin()
    assert server.result_of(client.echo()) == {"memory:1": 0.0}
    client.echo().addErrback(lambda _: None)
    with pytest.raises(AssertionError, match=r"^the test waits, and nobody advances the clock") as caught:
        await admin.status()
    assert re.findall(
        r"\n  (Gearman\w+\.\w+\(\)) called at tests/testing/test_waiting.py:\d+ has no outcome", str(caught.value)
    ) == ["GearmanClient.echo()", "GearmanAdmin.status()"]


async def test_delay_that_is_awaited_on_a_standing_clock_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with its time; within the block of a server, too."""
    standing(monkeypatch)
    with MemoryJobServer() as server:
        server.advance(1)
        with pytest.raises(AssertionError, match=r"the clock, which stands at 1 s: ") as caught:
            await deferLater(server.clock, 5)
        assert "\n  timer twisted.internet.defer.Deferred.callback, due at 6 s, set at tests/testing/" in str(
            caught.value
        )


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    standing(monkeypatch)


async def test_test_that_waits_for_anything_else_is_cancelled(
    short_patience: None, job_server: MemoryJobServer
) -> None:
    fired: Deferred[None] = Deferred()
    call = job_server.clock.callLater(5, lambda: fired.callback(None))
    with pytest.raises(CancelledError):
        await fired
    call.cancel()
    assert (await deferLater(reactor, 0.15, lambda: "with no timer on the clock")) == "with no timer on the clock"


def test_cancelled_test_fails_with_the_reason() -> None:
    running = RunningTest()
    running.fail("not yet started")

    async def wait() -> None:
        await Deferred()

    fired = outcome(cast("Deferred[None]", running.run(wait)))
    running.fail("nobody advances the clock")
    running.fail("ended")
    assert [(type(error), str(error)) for error in fired] == [(AssertionError, "nobody advances the clock")]
    assert running.run(lambda: "returned") == "returned"


async def test_task_is_not_failed_while_the_test_advances_the_clock(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    standing(monkeypatch)
    server: MemoryJobServer = request.getfixturevalue("job_server")
    fired = outcome(server.client().add_task("reverse"))
    for _ in range(8):
        await deferLater(reactor, 0.03)
        server.advance()
    assert fired == []
    server.take("reverse").complete(b"cba")
    assert fired == [b"cba"]


def test_no_reactor_is_imported_for_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "twisted.internet.reactor")
    server = MemoryJobServer()
    watch = waiting.StandstillWatch(server, server._group)
    watch.start()
    watch.stop()
    assert "twisted.internet.reactor" not in sys.modules


# On a port.


async def test_fixture_on_port(job_server_on_port: MemoryJobServer) -> None:
    async with GearmanClient([job_server_on_port.address]) as client:
        assert await reverse(job_server_on_port, client) == b"cba"


@pytest.mark.job_server(job_handle_prefix="H:port", verify=False)
async def test_fixture_on_port_takes_options(job_server_on_port: MemoryJobServer) -> None:
    async with GearmanClient([job_server_on_port.address]) as client:
        assert (await client.add_task_bg("mail")).handle == b"H:port:1"


async def test_server_with_watch_on_reactor_is_verified() -> None:
    """As the fixture's is: also for clients of the test's own."""
    server = MemoryJobServer(reactor)
    server._watch()
    client = GearmanClient([server.listen()])
    client.add_task("reverse").addErrback(lambda _: None)
    await deferLater(reactor, 0)
    with pytest.raises(AssertionError) as caught:
        await server.close()
    assert "task 'reverse' (" in str(caught.value)
    assert "GearmanClient made at tests/testing/test_waiting.py:" in str(caught.value)
    assert not client.running


async def test_block_on_reactor() -> None:
    async with MemoryJobServer(reactor) as server:
        with pytest.raises(AttributeError, match="address needs a port"):
            server.address  # noqa: B018  # it raises
        server.listen()
        client = GearmanClient([server.address])
        assert await reverse(server, client) == b"cba"
        await client.stopService()
    assert server.connections == []


def iterate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the reactor as where there is no pytest-twisted, from within its own greenlet or another."""
    monkeypatch.delitem(sys.modules, "pytest_twisted")


def test_wait_for_turns_the_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    class Turning(Clock):
        def iterate(self, seconds: float) -> None:
            self.advance(seconds)

    iterate(monkeypatch)
    turning = Turning()
    assert wait_for(deferLater(turning, 3, lambda: "done"), turning) == "done"
    assert turning.seconds() == pytest.approx(3, abs=0.02)
    failing: Deferred[None] = deferLater(turning, 1, lambda: 1 / 0)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        wait_for(failing, turning)


@pytest.fixture
def waited() -> list[str]:
    """What a fixture has waited for, outside of the greenlet of pytest-twisted."""
    return [wait_for(succeed("done"), reactor), wait_for(deferLater(reactor, 0, lambda: "later"), reactor)]


def test_wait_for_with_pytest_twisted(waited: list[str]) -> None:
    assert waited == ["done", "later"]


# reset().


def test_reset_begins_anew() -> None:
    server = MemoryJobServer()
    for _ in range(3):
        handle = server.result_of(server.client().add_task_bg("mail", unique="u"))
        assert handle.handle == b"H:memory:1"
        assert len(server.submitted) == 1
        with server.go_down():
            pass
        server.reset()
        assert (server.connections, server.submitted, server.log()) == ([], [], "")
        assert server.command("status") == ".\n"
    server.close()
    assert server.clock.getDelayedCalls() == []


def test_reset_verifies() -> None:
    server = MemoryJobServer()
    server.client().add_task_bg("mail").addErrback(lambda _: None)
    server.reject("QUEUE_ERROR", times=2)
    with pytest.raises(AssertionError, match="QUEUE_ERROR"):
        server.reset()
    server.client().add_task_bg("mail")
    server.reset(verify=False)
    server.close()


@pytest.mark.parametrize("verify", [True, False])
def test_reset_leaves_nothing_of_which_the_next_test_is_accused(verify: bool, logged_failures: Failures) -> None:
    """With verify=False as well, as after a test that has failed."""
    server = MemoryJobServer()
    server.clock.callLater(60, list)
    own = GearmanClient([server.endpoint()], reactor=server.clock)
    own.startService()
    kept = [own.add_task("reverse")]
    server.take("reverse").fail()
    server.worker().register_function("divide", lambda job: 1 / 0)
    server.client().add_task_bg("divide")
    with nullcontext() if not verify else pytest.raises(AssertionError, match=r"^4 problems at the end of the test:"):
        server.reset(verify=verify)
    server.drop_before(SUBMIT_JOB)
    with pytest.raises(AssertionError) as caught:
        server.reset()
    assert str(caught.value) == "drop_before(SUBMIT_JOB) has not happened: no such packet was received, nor any other"
    assert (server.clock.getDelayedCalls(), own.running) == ([], 0)
    server.close()
    del kept
    logged_failures.flush(ZeroDivisionError, TaskFailed)


async def test_reset_keeps_the_port() -> None:
    server = MemoryJobServer(reactor)
    server.listen()
    for _ in range(2):
        async with GearmanClient([server.address]) as client:
            assert (await client.add_task_bg("mail")).handle == b"H:memory:1"
        await server.reset()
    await server.close()


class PortCase(JobServerOnPortMixin):
    """What the mixin needs of a trial `TestCase`, which would run the reactor that runs these tests."""

    def __init__(self) -> None:
        self.cleanups: list[Callable[[], Deferred[None]]] = []
        self._test_failed = False

    def addCleanup(self, cleanup: Callable[[], Deferred[None]]) -> None:  # noqa: N802  # trial's name
        self.cleanups.append(cleanup)


async def test_mixin_on_port_closes_its_server() -> None:
    case = PortCase()
    async with GearmanClient([case.job_server.address]) as client:
        assert await reverse(case.job_server, client) == b"cba"
    server = case.job_server
    (cleanup,) = case.cleanups
    await cleanup()
    assert (server.connections, "job_server" in vars(case)) == ([], False)


def test_tasks_with_an_outcome_are_not_failed_by_the_watch() -> None:
    server = MemoryJobServer()
    client = server.client()
    task = Task("reverse")
    done, pending = client.submit(task), client.add_task("reverse")
    server.take("reverse").complete(b"cba")
    server._group.fail_waits("nobody advances the clock")
    assert (server.result_of(done), task.ended) == (b"cba", True)
    (error,) = outcome(pending)
    assert str(error) == "nobody advances the clock"
    server.close(verify=False)


def test_waits_that_end_by_the_failure_of_another_one_are_left_alone() -> None:
    server = MemoryJobServer()
    client = server.client()
    kinds: list[Callable[[], Deferred[Any]]] = [
        lambda: client.add_task("reverse"),
        lambda: server.next_job("other"),
        lambda: deferLater(server.clock, 5),
    ]
    fired = []
    for start in kinds:
        first, second = start(), start()
        first.addErrback(lambda _, other: other.cancel(), second)
        fired.append(outcome(second))
    assert server._group.fail_waits("nobody advances the clock")
    assert [[type(error) for error in errors] for errors in fired] == [
        [AssertionError],
        [CancelledError],
        [CancelledError],
    ]
    assert not server._group.fail_waits("nobody advances the clock")
    server.close(verify=False)
