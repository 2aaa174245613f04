"""The supervisor of child processes, on a clock and with fake processes: starts, failures, replacements, the end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.task import Clock

from txgearman.cli.child import DRAIN_MARGIN, KILL_DELAY, MAX_SILENCE, Child, ChildState, SupervisionSettings
from txgearman.cli.child_status import ChildOptions, ChildStatus
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.supervisor import MAX_BACKOFF, MIN_BACKOFF, STABLE_TIME, Supervisor

from ..examples import of_histories

DRAIN = 5.0

READY = ChildStatus(ready=True, servers_ready=1, servers=1)
UNCONNECTED = ChildStatus(servers=1)
BUSY = ChildStatus(ready=True, running=1, servers_ready=1, servers=1)
FULL = ChildStatus(ready=True, ended=9, servers_ready=1, servers=1, wants_successor=True)


class FakeProcess:
    """A process that does nothing.

    :ivar calls: what the supervisor has called.
    """

    def __init__(self, child: Child, pid: int) -> None:
        self.child = child
        self.pid = pid
        self.calls: list[str] = []

    def drain(self) -> None:
        self.calls.append("drain")

    def dump_stacks(self) -> None:
        self.calls.append("dump_stacks")

    def terminate(self) -> None:
        self.calls.append("terminate")

    def kill(self) -> None:
        self.calls.append("kill")


class Site:
    """A supervisor, its clock, and all processes that it has started.

    :ivar living: those that have not ended.
    :ivar codes: what `Supervisor.finished` has fired with.
    :ivar can_start: whether a process can be started.
    """

    def __init__(self, processes: int = 2, **settings: Any) -> None:
        self.clock = Clock()
        self.living: list[FakeProcess] = []
        self.pid = 0
        self.can_start = True
        self.codes: list[ExitCode] = []
        settings = {"drain_timeout": DRAIN} | settings
        self.supervisor = Supervisor(self.clock, self._start, SupervisionSettings(processes, **settings))
        self.supervisor.finished.addCallback(self.codes.append)
        self.supervisor.start()

    def _start(self, child: Child) -> FakeProcess:
        if not self.can_start:
            raise OSError("no more processes")
        self.pid += 1
        self.living.append(FakeProcess(child, self.pid))
        return self.living[-1]

    def report(self, process: FakeProcess, status: ChildStatus = READY) -> None:
        self.supervisor.status_received(process.child, status)

    def end(self, process: FakeProcess, code: int = 0) -> None:
        self.living.remove(process)
        self.supervisor.process_ended(process.child, code)

    def all_ready(self) -> None:
        for process in [*self.living]:
            self.report(process)

    def wait(self, seconds: float, *beating: FakeProcess) -> None:
        """Let time pass, in which these processes report as before each second."""
        whole, rest = divmod(seconds, 1)
        for _ in range(int(whole)):
            self.clock.advance(1)
            for process in beating:
                if process in self.living:
                    self.report(process, process.child.status)
        self.clock.advance(rest)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.living]


# Starts and failures.


def test_children_are_started_and_are_ready_when_they_say_so() -> None:
    site = Site(3)
    assert [(child.place, child.pid) for child in site.supervisor.children] == [(1, 1), (2, 2), (3, 3)]
    assert (site.supervisor.ready, site.supervisor.wanted) == (0, 3)
    site.report(site.living[0], UNCONNECTED)
    assert site.supervisor.ready == 0
    site.all_ready()
    assert site.supervisor.ready == 3
    site.report(site.living[0], UNCONNECTED)
    assert site.supervisor.ready == 2
    assert site.supervisor.is_well


def test_child_that_was_stable_is_replaced_at_once() -> None:
    site = Site(1)
    site.all_ready()
    site.wait(STABLE_TIME, *site.living)
    site.end(site.living[0], -9)
    site.clock.advance(0)
    assert site.pids == [2]


@pytest.mark.parametrize(
    ("draining", "code", "reason"),
    [
        (False, 1, "exited"),
        (False, -signal.SIGKILL, "killed"),
        (False, -signal.SIGHUP, "killed"),
        (True, 0, "drained"),
        (True, -signal.SIGHUP, "drained"),
        (True, -signal.SIGKILL, "killed"),
    ],
)
def test_ends_are_counted_by_reason(draining: bool, code: int, reason: str) -> None:
    """A child that drains before it has handlers is ended by SIGHUP, as was wanted."""
    site = Site(1)
    if draining:
        site.supervisor.stop()
    site.end(site.living[0], code)
    assert +site.supervisor.ends == {reason: 1}


def test_delay_doubles_with_each_failure_in_a_row() -> None:
    site = Site(1)
    for number in range(9):
        delay = min(MAX_BACKOFF, MIN_BACKOFF * 2**number)
        site.end(site.living[0], 1)
        site.clock.advance(delay - 0.01)
        assert site.living == []
        site.clock.advance(0.01)
        assert len(site.living) == 1
    site.wait(121.0)  # nothing fails: the next failure is the first again
    site.report(site.living[0])
    site.end(site.living[0], 1)
    site.clock.advance(MIN_BACKOFF)
    assert len(site.living) == 1


def test_names_of_a_place_are_used_in_turn() -> None:
    site = Site(1)
    names = []
    for _ in range(4):
        names.append(site.living[0].child.name)
        site.end(site.living[0], 1)
        site.clock.advance(MAX_BACKOFF)
    assert names == [0, 1, 0, 1]


def test_process_that_cannot_be_started_is_tried_again() -> None:
    site = Site(1)
    site.all_ready()
    site.can_start = False
    site.end(site.living[0], 1)
    site.clock.advance(MIN_BACKOFF)
    site.clock.advance(2 * MIN_BACKOFF)
    assert site.living == []
    site.can_start = True
    site.clock.advance(4 * MIN_BACKOFF)
    assert len(site.living) == 1


def test_usage_error_of_first_child_ends_all() -> None:
    """No child was ever ready: the command line is wrong. The other child is not waited for in circles."""
    site = Site(2)
    site.end(site.living[0], ExitCode.USAGE)
    assert site.living[0].calls == ["drain"]
    assert site.codes == []
    site.end(site.living[0], -1)
    assert site.codes == [ExitCode.USAGE]
    assert site.clock.getDelayedCalls() == []


def test_usage_error_of_later_child_is_a_failure_like_others() -> None:
    site = Site(1)
    site.all_ready()
    site.end(site.living[0], 1)
    site.clock.advance(MIN_BACKOFF)
    site.end(site.living[0], ExitCode.USAGE)
    site.clock.advance(MAX_BACKOFF)
    assert len(site.living) == 1


# Silence.


def test_child_whose_program_hangs_is_ended_by_force() -> None:
    """As in an import. Its stacks come first, and another one follows."""
    site = Site(1, ready_timeout=10.0)
    (hanging,) = site.living
    site.wait(9.0)
    assert hanging.calls == []
    site.wait(1.0)
    assert hanging.calls == ["dump_stacks"]
    site.wait(3 * KILL_DELAY + 5)
    assert hanging.calls == ["dump_stacks", "terminate", "terminate", "kill"]
    site.end(hanging, -9)
    site.clock.advance(MIN_BACKOFF)
    assert site.pids == [2]
    assert site.supervisor.ends["failed"] == 1


def test_child_that_ends_by_the_first_step_is_not_sent_the_others() -> None:
    site = Site(1, ready_timeout=10.0)
    (hanging,) = site.living
    site.wait(10.0 + KILL_DELAY)
    site.end(hanging, -15)
    site.wait(20.0)
    assert hanging.calls == ["dump_stacks", "terminate"]


def test_children_that_reach_no_server_wait() -> None:
    site = Site(2)
    for process in site.living:
        site.report(process, UNCONNECTED)
    site.wait(300.0, *site.living)
    assert site.pids == [1, 2]


def test_child_that_reaches_no_server_while_another_does_is_replaced() -> None:
    site = Site(2)
    one, other = site.living
    site.report(one)
    site.report(other, UNCONNECTED)
    site.wait(29.0, one, other)
    assert other.calls == []
    site.wait(1.0, one, other)
    assert other.calls == ["dump_stacks"]


def test_child_that_is_connected_and_does_not_become_ready_is_replaced() -> None:
    """As with a function with a limit of its own, whose connection is refused."""
    site = Site(1)
    (process,) = site.living
    site.report(process, ChildStatus(servers_ready=1, servers=1))
    site.wait(29.0, process)
    assert process.calls == []
    site.wait(1.0, process)
    assert process.calls == ["dump_stacks"]


def test_child_that_loses_its_servers_has_time_from_then_on() -> None:
    site = Site(2)
    one, other = site.living
    site.all_ready()
    site.wait(100.0, one, other)
    site.report(other, UNCONNECTED)
    site.wait(29.0, one, other)
    assert other.calls == []
    site.wait(1.0, one, other)
    assert other.calls == ["dump_stacks"]


def test_silent_child_without_a_job_is_replaced() -> None:
    site = Site(1)
    site.all_ready()
    site.wait(MAX_SILENCE)
    assert site.living[0].calls == ["dump_stacks"]


def test_child_that_a_job_blocks_is_reported_once_and_goes_on() -> None:
    site = Site(1)
    (process,) = site.living
    site.report(process, BUSY)
    site.wait(10 * MAX_SILENCE)
    assert process.calls == ["dump_stacks"]
    assert site.supervisor.ready == 0
    site.report(process)
    assert site.supervisor.ready == 1


def test_child_that_a_job_blocks_for_longer_than_it_may_is_replaced() -> None:
    site = Site(1, stall_timeout=60.0)
    (process,) = site.living
    site.report(process, BUSY)
    site.wait(59.0)
    assert process.calls == ["dump_stacks"]
    site.wait(2.0)
    assert process.calls == ["dump_stacks", "dump_stacks", "terminate"]


def test_child_is_not_to_blame_for_a_stopped_parent() -> None:
    """As after SIGSTOP, or a log that nobody read."""
    site = Site(2)
    site.report(site.living[0])
    site.living[1].child.drain(DRAIN)
    site.clock.advance(1000.0)
    assert [process.calls for process in site.living] == [[], ["drain"]]
    site.clock.advance(1.0)
    assert [process.calls for process in site.living] == [[], ["drain"]]


def test_stacks_are_asked_for_from_all_children() -> None:
    site = Site(2)
    site.supervisor.dump_stacks()
    assert [process.calls for process in site.living] == [["dump_stacks"], ["dump_stacks"]]


# Recycling.


def test_successor_is_ready_before_the_old_child_drains() -> None:
    site = Site(2)
    site.all_ready()
    one, other = site.living
    site.report(one, FULL)
    site.report(other, FULL)  # it has to wait for its turn
    assert site.pids == [1, 2, 3]
    site.report(site.living[2], UNCONNECTED)
    assert one.calls == []
    site.report(site.living[2])
    assert one.calls == ["drain"]
    assert site.supervisor.ready == 2
    site.report(one, FULL)  # while it drains
    assert site.pids == [1, 2, 3]
    site.end(one)
    assert site.pids == [2, 3, 4]
    site.report(site.living[2])
    site.end(other)
    assert site.pids == [3, 4]
    assert site.supervisor.ends["drained"] == 2
    assert [child.name for child in site.supervisor.children] == [1, 1]


def test_successor_that_ends_leaves_the_old_child_and_another_follows_with_backoff() -> None:
    site = Site(1)
    site.all_ready()
    (old,) = site.living
    for number in range(3):
        site.report(old, FULL)
        site.report(old, FULL)
        successor = site.living[1]
        site.end(successor, 1)
        site.report(old, FULL)
        assert site.living == [old]
        site.clock.advance(MIN_BACKOFF * 2**number)
        site.report(old, FULL)
        assert len(site.living) == 2
    assert old.calls == []


def test_successor_that_hangs_is_ended_by_force() -> None:
    site = Site(1)
    site.all_ready()
    (old,) = site.living
    site.report(old, FULL)
    site.wait(31.0, old)
    assert site.living[1].calls == ["dump_stacks", "terminate"]
    assert old.calls == []


def test_old_child_that_ends_leaves_its_place_to_the_successor() -> None:
    site = Site(2)
    site.all_ready()
    one, other = site.living
    site.report(one, FULL)
    site.end(one, -9)
    assert site.pids == [2, 3]
    site.report(site.living[1])
    site.report(other, FULL)
    assert site.pids == [2, 3, 4]


def test_successor_that_fails_after_the_end_of_the_old_child_is_replaced_as_others() -> None:
    site = Site(2)
    site.all_ready()
    one, other = site.living
    site.report(one, FULL)
    site.end(one, -9)
    site.end(site.living[1], 1)
    site.clock.advance(MIN_BACKOFF)
    assert site.pids == [2, 4]
    site.report(other, FULL)
    assert site.pids == [2, 4, 5]


def test_successor_that_ends_while_the_old_child_drains_is_replaced() -> None:
    site = Site(1)
    site.all_ready()
    (old,) = site.living
    site.report(old, FULL)
    site.report(site.living[1])
    site.end(site.living[1], -9)
    site.clock.advance(MIN_BACKOFF)
    assert site.pids == [1, 3]
    site.end(old)
    site.report(site.living[0], FULL)
    assert site.pids == [3, 4]


def test_child_that_asked_for_a_successor_and_ended_needs_none() -> None:
    site = Site(2)
    site.all_ready()
    one, other = site.living
    site.report(one, FULL)
    site.report(other, FULL)
    site.end(other, 1)  # it waited for its turn
    site.clock.advance(MIN_BACKOFF)
    site.report(site.living[1])
    site.end(one)
    assert site.pids == [3, 4]


def test_successor_that_cannot_be_started_leaves_the_old_child() -> None:
    site = Site(1)
    site.all_ready()
    site.can_start = False
    site.report(site.living[0], FULL)
    assert site.pids == [1]
    site.can_start = True
    site.clock.advance(MIN_BACKOFF)
    site.report(site.living[0], FULL)
    assert site.pids == [1, 2]


def test_child_that_outlives_its_drain_is_ended_by_force() -> None:
    site = Site(1)
    site.all_ready()
    (old,) = site.living
    site.report(old, FULL)
    site.report(site.living[1])
    site.wait(DRAIN + DRAIN_MARGIN, site.living[1])
    assert old.calls == ["drain", "dump_stacks"]


# Reload.


def test_reload_replaces_children_one_after_the_other() -> None:
    site = Site(3)
    site.all_ready()
    changes: list[bool] = []
    site.supervisor.on_change = lambda: changes.append(site.supervisor.reloading)
    site.supervisor.reload()
    for number in (1, 2, 3):
        assert len(site.living) == 4
        site.report(site.living[-1])
        assert site.living[0].calls == ["drain"]
        assert site.supervisor.ready == 3
        site.end(site.living[0])
        assert site.pids[0] == number + 1
    assert site.pids == [4, 5, 6]
    assert not site.supervisor.reloading
    assert (changes[0], changes[-1]) == (True, False)


def test_child_that_cannot_start_stops_reload() -> None:
    site = Site(2)
    site.all_ready()
    site.supervisor.reload()
    site.end(site.living[2], 1)
    assert not site.supervisor.reloading
    site.wait(60.0, *site.living)
    assert site.pids == [1, 2]
    site.supervisor.reload()
    assert site.pids == [1, 2, 4]


def test_process_that_cannot_be_started_stops_reload() -> None:
    site = Site(2)
    site.all_ready()
    site.can_start = False
    site.supervisor.reload()
    assert not site.supervisor.reloading
    site.can_start = True
    site.wait(60.0, *site.living)
    assert site.pids == [1, 2]


def test_reload_starts_what_waits_for_its_backoff() -> None:
    """The new code may be what was missing."""
    site = Site(2)
    site.all_ready()
    site.end(site.living[0], 1)
    site.supervisor.reload()
    assert site.pids == [2, 3]
    site.report(site.living[1])
    site.wait(MIN_BACKOFF)
    assert site.pids == [2, 3, 4]


@pytest.mark.parametrize("can_start", [True, False])
def test_child_that_fails_in_an_empty_place_stops_reload(can_start: bool) -> None:
    site = Site(2)
    site.all_ready()
    site.end(site.living[0], 1)
    site.can_start = can_start
    site.supervisor.reload()
    if can_start:
        site.end(site.living[1], 1)
    assert not site.supervisor.reloading
    assert site.pids == [2]
    site.can_start = True
    site.wait(MIN_BACKOFF * 2)
    assert len(site.living) == 2


def test_second_reload_replaces_also_what_the_first_has_replaced() -> None:
    site = Site(2)
    site.all_ready()
    site.supervisor.reload()
    site.report(site.living[2])
    site.supervisor.reload()
    site.end(site.living[0])
    for _ in range(2):
        site.report(site.living[-1])
        site.end(next(process for process in site.living if process.calls))
    assert site.pids == [4, 5]


# Count.


def test_count_is_dealt_out_and_children_that_have_run_it_are_not_replaced() -> None:
    site = Site(3, count=8)
    assert [process.child.count for process in site.living] == [3, 3, 2]
    site.all_ready()
    for process in [*site.living]:
        assert site.codes == []
        site.end(process)
    assert site.codes == [ExitCode.DONE]
    assert site.clock.getDelayedCalls() == []


def test_count_below_the_number_of_processes_starts_fewer() -> None:
    assert [process.child.count for process in Site(4, count=2).living] == [1, 1]


def test_child_that_dies_is_followed_by_one_for_the_jobs_that_are_left() -> None:
    site = Site(1, count=8)
    site.report(site.living[0], ChildStatus(ready=True, running=1, ended=3))
    site.end(site.living[0], -9)
    site.clock.advance(MIN_BACKOFF)
    assert site.living[0].child.count == 5


def test_child_that_cut_jobs_off_after_the_last_one_sets_the_exit_code() -> None:
    site = Site(1, count=1)
    site.report(site.living[0], ChildStatus(ready=True, ended=1))
    site.end(site.living[0], ExitCode.FAILED)
    assert site.codes == [ExitCode.FAILED]


def test_count_excludes_reload() -> None:
    site = Site(1, count=8)
    site.all_ready()
    site.supervisor.reload()
    assert (site.pids, site.supervisor.reloading) == ([1], False)


# The end.


def test_stop_drains_all_and_fires_once_none_is_left() -> None:
    site = Site(2)
    site.all_ready()
    site.report(site.living[0], FULL)
    site.supervisor.stop()
    site.supervisor.stop(ExitCode.FAILED)
    assert [process.calls for process in site.living] == [["drain"]] * 3
    assert (site.supervisor.wanted, site.supervisor.ready) == (0, 0)
    for process in [*site.living]:
        assert site.codes == []
        site.end(process)
    assert site.codes == [ExitCode.DONE]
    assert not site.supervisor.is_well
    assert site.clock.getDelayedCalls() == []


def test_stop_starts_nothing_that_waited() -> None:
    site = Site(2)
    site.all_ready()
    site.end(site.living[0], 1)
    site.supervisor.stop()
    site.supervisor.reload()
    site.end(site.living[0])
    assert (site.codes, site.living) == ([ExitCode.DONE], [])
    assert site.clock.getDelayedCalls() == []


def test_stop_without_children_fires_at_once() -> None:
    site = Site(1)
    site.end(site.living[0], 1)
    site.supervisor.stop()
    assert site.codes == [ExitCode.DONE]


@pytest.mark.parametrize(
    ("status", "code", "result"),
    [(READY, ExitCode.FAILED, ExitCode.FAILED), (READY, -9, ExitCode.FAILED), (UNCONNECTED, -1, ExitCode.DONE)],
    ids=["cut off", "killed", "not ready"],
)
def test_child_that_cut_jobs_off_in_its_drain_sets_the_exit_code(status: ChildStatus, code: int, result: int) -> None:
    site = Site(1)
    site.report(site.living[0], status)
    site.supervisor.stop()
    site.end(site.living[0], code)
    assert site.codes == [result]


def test_end_of_an_unknown_signal_is_described() -> None:
    site = Site(1)
    site.end(site.living[0], -250)
    assert site.supervisor.ends["killed"] == 1


def test_what_comes_after_the_end_of_a_child_is_ignored() -> None:
    site = Site(1)
    (process,) = site.living
    site.end(process, 1)
    site.report(process)
    site.supervisor.process_ended(process.child, 0)
    process.child.end_by_force("late")
    process.child.drain(DRAIN)
    assert (site.supervisor.ready, site.supervisor.ends["exited"], process.calls) == (0, 1, [])


# What is sent.


def test_status_survives_its_encoding() -> None:
    status = ChildStatus(ready=True, running=3, ended=10**12, servers_ready=1, servers=2, wants_successor=True)
    assert status.encode() == b"1 3 1000000000000 1 2 1\n"
    assert ChildStatus.parse(status.encode()[:-1]) == status


@pytest.mark.parametrize(
    "line", [b"", b"1 2 3", b"1 2 3 4 5 x", b"1 2 3 4 5 -1", b"1  2 3 4 5", b"9" * 19 + b" 1 1 1 1 1"]
)
def test_invalid_status_is_none(line: bytes) -> None:
    assert ChildStatus.parse(line) is None


def test_options_are_taken_out_of_the_environment() -> None:
    options = ChildOptions(place=2, name=1, parent=10, control=5, status=6, count=3)
    environment = {"TXGEARMAN_CHILD": options.encode(), "OTHER": "x"}
    assert ChildOptions.take(environment) == options
    assert environment == {"OTHER": "x"}
    assert ChildOptions.take(environment) is None


# Random histories.


class SupervisorMachine(RuleBasedStateMachine):
    """A supervisor whose children start, fail, hang, and are replaced, in any order."""

    site: Site

    @initialize(processes=st.integers(1, 3), stall=st.sampled_from([None, 40.0]))
    def begin(self, processes: int, stall: float | None) -> None:
        self.site = Site(processes, stall_timeout=stall)
        self.processes = processes
        self.drained: set[int] = set()
        self.stopped = False

    def pick(self, index: int, condition: Callable[[FakeProcess], bool] = lambda _: True) -> FakeProcess | None:
        chosen = [process for process in self.site.living if condition(process)]
        return chosen[index % len(chosen)] if chosen else None

    @rule(index=st.integers(0, 7), status=st.sampled_from([READY, READY, UNCONNECTED, BUSY, FULL]))
    def report(self, index: int, status: ChildStatus) -> None:
        if process := self.pick(index):
            self.site.report(process, status)

    @rule(index=st.integers(0, 7), code=st.sampled_from([0, 1, -9, -15, 2]))
    def end(self, index: int, code: int) -> None:
        if process := self.pick(index):
            self.site.end(process, code)

    @rule(index=st.integers(0, 7))
    def end_drained(self, index: int) -> None:
        if process := self.pick(index, lambda process: "drain" in process.calls or "kill" in process.calls):
            self.site.end(process)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 12.0, 35.0]), beat=st.booleans())
    def let_pass(self, seconds: float, beat: bool) -> None:
        self.site.wait(seconds, *(self.site.living if beat else ()))

    @rule(seconds=st.sampled_from([5.0, 100.0]))
    def be_stopped(self, seconds: float) -> None:
        self.site.clock.advance(seconds)

    @rule()
    def reload(self) -> None:
        self.site.supervisor.reload()

    @rule(can_start=st.booleans())
    def set_can_start(self, can_start: bool) -> None:
        self.site.can_start = can_start

    @precondition(lambda self: not self.stopped)
    @rule()
    def stop(self) -> None:
        self.stopped = True
        self.site.supervisor.stop()

    @invariant()
    def supervisor_knows_each_process(self) -> None:
        known = sorted(child.pid for child in self.site.supervisor.children)
        assert known == sorted(self.site.pids)

    @invariant()
    def one_child_more_than_wanted_at_most(self) -> None:
        assert len(self.site.living) <= self.processes + 1

    @invariant()
    def names_of_living_children_differ(self) -> None:
        names = [(process.child.place, process.child.name) for process in self.site.living]
        assert len(set(names)) == len(names)

    @invariant()
    def old_child_drains_only_after_its_successor_was_ready(self) -> None:
        """So that capacity never falls by a replacement."""
        ends = self.stopped or self.site.codes or not self.site.supervisor.wanted
        for process in self.site.living:
            if "drain" in process.calls and process.pid not in self.drained and not ends:
                self.drained.add(process.pid)
                others = [other.child for other in self.site.living if other is not process]
                assert any(child.place == process.child.place and child.was_ready for child in others)

    @invariant()
    def each_place_has_a_child_or_waits_for_its_start(self) -> None:
        if self.site.supervisor.wanted:
            timers = len(self.site.clock.getDelayedCalls()) - 1  # without the tick
            assert len({process.child.place for process in self.site.living}) + timers >= self.site.supervisor.wanted

    @invariant()
    def end_comes_with_the_last_child(self) -> None:
        ended = not self.site.supervisor.wanted and not self.site.living
        assert len(self.site.codes) == ended

    def teardown(self) -> None:
        if not hasattr(self, "site"):
            return
        site = self.site
        site.supervisor.stop()
        site.wait(DRAIN + DRAIN_MARGIN + 4 * KILL_DELAY)
        assert all("kill" in process.calls for process in site.living)
        for process in [*site.living]:
            site.end(process, -9)
        assert len(site.codes) == 1
        assert site.clock.getDelayedCalls() == []


TestAnything = SupervisorMachine.TestCase
TestAnything.settings = settings(of_histories(), stateful_step_count=25)


def test_states_of_a_child_have_names_for_people() -> None:
    assert [state.value for state in ChildState] == ["starting", "connecting", "ready", "draining", "ended"]
