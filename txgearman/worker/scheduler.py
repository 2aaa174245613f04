"""The policy of a worker: which connection is asked for a job, and when.

**No job is requested that could not start at once** (guarantee 18). Each request holds a slot of ``max_jobs``, which
its job then takes over. Where there are fewer slots than servers, the servers take turns.

**State first.** An event is recorded in the state of its connection, in the slots and in the group. Then the free slots
are allotted, and each connection is asked once for as many jobs as it got. So for each event a connection calls the
scheduler once, and the scheduler calls each connection once at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, count
from typing import Final

from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..connection.addresses import Address
from ..connection.pool import ServerInfo, ServerPool
from ..connection.protocol import CLOSE_TIMEOUT
from ..connection.reactor import Reactor
from ..connection.states import ConnectionState
from ..connection.waiters import Waiters
from ..errors import ClientStopped
from ..observers import Observers
from ..validation import MAX_NAME, MAX_REASON, short_text
from .execution import ExecutionListener, JobRunner
from .functions import Function
from .groups import (
    MAX_SPURIOUS_WAKEUPS,
    WAKEUP_BACKOFF,
    FunctionGroup,
    FunctionLimit,
    GrabQueue,
    GrabState,
    cancel_timer,
)
from .job import Assignment, Job
from .observation import ObservedJobRunner
from .polls import PollSchedule
from .protocol import GearmanWorkerProtocol, JobReceiver, Registrar
from .slots import Slots
from .threads import AddedThreads

__all__ = ["MakeServers", "WorkerScheduler"]

_log = Logger()

SEND_TIMEOUT: Final = 30.0
"""Seconds that large results may take to be sent at the end of a drain without a limit."""

MakeServers = Callable[[Iterable[Address], JobReceiver, Registrar], ServerPool[GearmanWorkerProtocol]]
"""Makes the pool of a group: of addresses, the receiver of its jobs, and who decides what its connections register."""


class WorkerScheduler(JobReceiver, ExecutionListener):
    """Requests jobs from servers, and has them run.

    :ivar slots: how many jobs are requested or run, of all that may.
    :ivar runner: runs the jobs.
    :ivar unlimited: the group of the functions that have no limit of their own.
    :ivar limited: the groups of the others, by the functions' names on the wire.
    :ivar drain_timeout: seconds that running jobs get to end when the worker is stopped; None for no limit.
    :ivar paused: whether no jobs are requested, until `resume`.
    :param max_jobs: how many jobs may run at a time.
    :param observers: get the events of jobs and servers; None for no observers.
    :param poll_interval: seconds after which connections that sleep are asked for a job.
    """

    def __init__(
        self,
        reactor: Reactor,
        job_servers: Iterable[Address],
        make_servers: MakeServers,
        max_jobs: int,
        *,
        format_exception: Callable[[Failure], bytes | None],
        poll_interval: float,
        drain_timeout: float | None,
        observers: Observers | None = None,
    ) -> None:
        self.slots = Slots(max_jobs)
        if observers is None:
            self.runner = JobRunner(reactor, format_exception, self)
        else:
            self.runner = ObservedJobRunner(reactor, format_exception, self, observers)
        self._observers = observers
        self.drain_timeout = drain_timeout
        # Seconds that large results may take to be sent once all jobs have ended.
        self._send_timeout = SEND_TIMEOUT if drain_timeout is None else drain_timeout
        self._reactor = reactor
        self._job_servers = job_servers
        self._make_servers = make_servers
        self._polls = PollSchedule(reactor, poll_interval, self._poll)
        self.paused = False
        self._started = False
        self._needs_threads = False
        self._threads = AddedThreads(reactor, max_jobs)
        self._states: dict[GearmanWorkerProtocol, GrabState] = {}
        self._may_be_asked = GrabQueue()
        self._requests = count()
        self.unlimited = self._new_group([])
        self.limited: dict[bytes, FunctionGroup] = {}
        # The groups that were left and drain, each with the timer that ends that, if there is one.
        self._leaving: dict[FunctionGroup, IDelayedCall | None] = {}
        self._awaiting_ready: Waiters[None] = Waiters()

    # Functions.

    def add_function(self, function: Function) -> None:
        """Offer a function."""
        self._needs_threads |= function.threaded
        self._add_threads()
        if function.max_jobs is None:
            self.unlimited.add(function)
            for state in self.unlimited.states.values():
                self._may_be_asked.add(state)
            self._grab_jobs()
        else:
            limit = FunctionLimit(function.wire_name, function.max_jobs)
            group = self.limited[function.wire_name] = self._new_group([function], limit)
            self._connect(group)

    def remove_function(self, function: Function) -> None:
        """Stop offering a function. Its jobs that run go on."""
        group = self.limited.pop(function.wire_name, None)
        if group is not None:
            self._leave(group)
        elif not self.unlimited.remove(function):
            # gearmand would take its running jobs away. They end on the old connections; new ones are without it.
            old = self.unlimited
            others = [other for other in old.functions.values() if other is not function]
            self.unlimited = self._new_group(others)
            self._leave(old)
            self._connect(self.unlimited)

    # Control at run time.

    def pause(self) -> None:
        """Request no more jobs, and unregister all functions, until `resume`."""
        if not self.paused:
            self.paused = True
            for group in self._groups():
                group.withdrawn = True
                for state in list(group.states.values()):
                    self._withdraw(state)

    def resume(self) -> None:
        """Register the functions again, and request jobs."""
        if self.paused:
            self.paused = False
            for group in self._groups():
                group.withdrawn = False
                for state in group.states.values():
                    if state.connection._state is ConnectionState.READY:
                        state.restore()
                        self._polls.add(state)
                        self._may_be_asked.add(state)
            self._grab_jobs()

    def change_max_jobs(self, max_jobs: int) -> None:
        """Have so many jobs run at a time. Where more run, they go on."""
        self.slots.max_jobs = max_jobs
        self._threads.change(max_jobs)
        self._grab_jobs()

    def running_jobs(self) -> list[Job]:
        """Return the jobs whose functions run; those that run in the call that asks, too."""
        assigned = (job for state in self._states.values() for job in state.connection.jobs.values())
        return list(dict.fromkeys(chain(self.runner.running, assigned)))

    # Servers.

    @property
    def job_servers(self) -> list[Address]:
        """The addresses of the job servers."""
        return list(self.unlimited.servers.addresses)

    def change_servers(self, job_servers: Iterable[Address]) -> None:
        """Have these servers from now on.

        :raises TypeError, ValueError: as `ServerPool.change`; then nothing is changed.
        """
        timeout = max(self._send_timeout, CLOSE_TIMEOUT)
        before, self._job_servers = self._job_servers, job_servers
        try:
            self.unlimited.servers.change(job_servers, timeout)
        except (TypeError, ValueError):
            self._job_servers = before
            raise
        # An endpoint's code may have changed the servers again, or replaced the groups.
        for group in list(self.limited.values()):
            if self._job_servers is job_servers and not group.retired:
                group.servers.change(job_servers, timeout)

    def server_infos(self) -> list[ServerInfo]:
        """Return how each job server is, with the jobs of all connections to it: of all groups, old ones, too."""
        jobs: Counter[object] = Counter()
        for state in self._states.values():
            jobs[state.server.identity] += state.connection.in_flight
        return [replace(server.info(), in_flight=jobs[server.identity]) for server in self.unlimited.servers]

    def when_ready(self) -> Deferred[None]:
        """Wait until each group is connected to a server: see `GearmanWorker.when_ready`."""
        if not self._started:
            return fail(ClientStopped("the worker was not started, or was stopped"))
        ready = self._awaiting_ready.wait()
        self.servers_changed()
        return ready

    def servers_changed(self) -> None:
        """Report whether the groups are connected, to those who wait for it."""
        if not self._awaiting_ready or not self._started:
            return
        pools = [group.servers for group in self._groups()]
        down = next((pool for pool in pools if not pool.any_reachable()), None)
        if down is not None:
            down.bring_forward()
            self._awaiting_ready.fire(Failure(down.none_available()))
        elif all(pool.ready for pool in pools):
            self._awaiting_ready.fire(None)

    # Starting and stopping.

    def start(self) -> None:
        """Connect, and request jobs, if it was not started already."""
        if not self._started:
            self._started = True
            self._add_threads()
            for group in self._groups():
                self._connect(group)

    def stop(self) -> Deferred[None]:
        """Request nothing more, let running jobs end, and disconnect.

        :return: fires when no socket and no timer is left, of this stop or an earlier one.
        """
        if self._started:
            self._started = False
            old = self._groups()
            self.unlimited = self._new_group(self.unlimited.functions.values())
            self.limited = {
                name: self._new_group(group.functions.values(), group.limit) for name, group in self.limited.items()
            }
            for group in old:
                self._leave(group)
            for group, deadline in self._leaving.items():
                group.draining = True
                if deadline is None and self.drain_timeout is not None:
                    self._leaving[group] = self._reactor.callLater(self.drain_timeout, self._cancel_running, group)
        # Only those that are there by now: after another start, more may be left, which this stop is not about.
        stopped = DeferredList([group.when_stopped() for group in self._leaving]).addCallback(lambda _: None)
        self._awaiting_ready.fire(Failure(ClientStopped("the worker was stopped")))
        return stopped

    def end_drain(self) -> None:
        """End the drain of each group that was left by a stop."""
        for group in list(self._leaving):
            # It may drain because of a change of functions, or the drain was ended before, or by a canceller just now.
            if group.draining and group in self._leaving:
                cancel_timer(self._leaving[group])
                self._cancel_running(group)

    def _cancel_running(self, group: FunctionGroup) -> None:
        """End the drain of a group. Jobs in threads, which can't be cancelled, keep their connections until they end.

        Another worker would run them at the same time otherwise.
        """
        self._leaving[group] = None
        group.draining = False
        self.runner.abandon_all(group, "the worker was stopped")
        self.runner.when_cancelled().addCallback(self._stop_without_threads, group)

    def _stop_without_threads(self, _: None, group: FunctionGroup) -> None:
        """Disconnect a group after the last of its jobs in threads. The server gets the others back now, if it can."""
        states = list(group.states.values())
        group.awaited = {job for state in states for job in state.connection.jobs.values() if not job._closed}
        if not group.awaited:
            group.stop()
            return
        for state in states:
            for job in state.connection.pop_abandoned():
                state.job_ended(job)  # which unregisters the function of the last: gearmand then takes them away

    def _discard_awaited(self, group: FunctionGroup, jobs: Iterable[Job]) -> None:
        """Disconnect a group whose drain is over if these were the last of the jobs that it waited for."""
        if group.awaited:
            group.awaited.difference_update(jobs)
            if not group.awaited:
                self._stop_group(group, self._send_timeout)

    # Groups.

    def _new_group(self, functions: Iterable[Function], limit: FunctionLimit | None = None) -> FunctionGroup:
        make_servers = partial(self._make_servers, self._job_servers, self)
        group = FunctionGroup(functions, limit, make_servers, self._connection_ready, self.paused)
        if limit is None and self._observers is not None:  # others have further connections to the same servers
            group.servers.observe = partial(self._server_changed, self._observers, group)
        return group

    def _server_changed(self, observers: Observers, group: FunctionGroup, info: ServerInfo) -> None:
        # A group that another one has replaced has no more to say of the servers.
        if group is self.unlimited or not self._started:
            observers.notify("server_changed", info)

    def _groups(self) -> list[FunctionGroup]:
        """Return the groups by which jobs are requested."""
        return [self.unlimited, *self.limited.values()]

    def _connect(self, group: FunctionGroup) -> None:
        if self._started and not group.retired:  # an endpoint's code may have stopped the worker, and started it again
            group.servers.start()

    def _leave(self, group: FunctionGroup) -> None:
        """Request nothing more by a group, and disconnect it once its jobs have ended."""
        self._leaving[group] = None
        group.when_stopped().addCallback(self._left, group)
        group.retire()
        self._stop_if_done(group)
        for state in list(group.states.values()):  # none if it was disconnected
            self._withdraw(state)

    def _withdraw(self, state: GrabState) -> None:
        """Request nothing more on a connection, and unregister each function as soon as none of its jobs runs there.

        So the server wakes others for their jobs. A job that is requested may still come.
        """
        state.withdraw()
        self._polls.discard(state)
        self._unregister(state)

    def _unregister(self, state: GrabState) -> None:
        """Unregister what a withdrawn connection does not run, once no request is unanswered.

        If it sleeps, gearmand might wake it for jobs of the functions that it runs, and nobody else (H14). Only a
        request for a job ends its sleep. The job for which it may have been woken just now runs here.
        """
        connection = state.connection
        if connection.grabs:
            return
        may_be_woken = connection.asleep and connection.jobs and connection.dialect.may_wake_one
        if may_be_woken and self.slots.free_for(state.group) > 0:
            self.slots.acquire(state.group)
            connection.grab()
        else:
            state.unregister_idle()

    def _left(self, _: None, group: FunctionGroup) -> None:
        cancel_timer(self._leaving.pop(group))

    def _stop_if_done(self, group: FunctionGroup) -> None:
        """Disconnect a group that was left, if none of its jobs runs or is requested."""
        if not self.slots.held_by(group):
            self._stop_group(group, self._send_timeout)
            if not (self._started or self.slots.held):  # a thread that can't be cancelled holds a slot
                self._threads.remove()

    def _stop_group(self, group: FunctionGroup, send_timeout: float) -> None:
        """Disconnect a group once no function is left that is to be cancelled, and with it no timer for that."""
        self.runner.when_cancelled().addCallback(lambda _: group.stop(send_timeout))

    def _add_threads(self) -> None:
        """Have threads for as many jobs as may run: each must start at once."""
        if self._started and self._needs_threads:
            self._threads.add()

    # What connections report.

    def _connection_ready(self, state: GrabState) -> None:
        self._states[state.connection] = state
        if not state.withdrawn:
            self._polls.add(state)
        self._offer(state)

    def connection_drained(self, connection: GearmanWorkerProtocol) -> None:
        state = self._states.get(connection)
        if state is not None:  # else it is not ready yet
            self._offer(state)

    def connection_retired(self, connection: GearmanWorkerProtocol) -> None:
        self._withdraw(self._states[connection])

    def job_ended(self, connection: GearmanWorkerProtocol, job: Job) -> None:
        state = self._states[connection]
        state.job_ended(job)
        self._discard_awaited(state.group, [job])

    def wakeup_received(self, connection: GearmanWorkerProtocol) -> None:
        state = self._states[connection]
        state.woken = True
        if state.spurious_wakeups < MAX_SPURIOUS_WAKEUPS:
            self._wake(state)
        elif state.backoff is None:
            state.backoff = self._reactor.callLater(WAKEUP_BACKOFF, self._backoff_over, state)

    def _backoff_over(self, state: GrabState) -> None:
        state.backoff = None
        self._wake(state)

    def _wake(self, state: GrabState) -> None:
        state.may_have_job = not state.withdrawn
        self._offer(state)

    def _offer(self, state: GrabState) -> None:
        """Have a connection asked as soon as there is a slot, if its server may have a job."""
        if state.may_have_job:
            self._may_be_asked.add(state)
        self._grab_jobs()

    def job_assigned(self, connection: GearmanWorkerProtocol, assignment: Assignment) -> None:
        state = self._states[connection]
        state.record_job()
        if state.queue is None and state.may_have_job:
            self._may_be_asked.add(state)
        function = state.group.functions.get(assignment.function)
        if function is None:
            self._refuse(connection, assignment)
            self._ended_at_once(state)
            return
        taken_away = connection.jobs.get(assignment.handle)
        job = connection.jobs[assignment.handle] = Job(connection, function.name, assignment)
        if taken_away is not None:
            self.runner.abandon([taken_away], "its server took it away, and has assigned it again")
        if self.runner.run_job(job, function, state):
            self._ended_at_once(state)

    def _refuse(self, connection: GearmanWorkerProtocol, assignment: Assignment) -> None:
        """Fail a job of a function that is not registered."""
        _log.error(
            "{server} assigned a job of {function!r}, which is not registered",
            server=connection.factory.name,
            function=short_text(assignment.function, MAX_REASON),
            handle=short_text(assignment.handle, MAX_NAME),
        )
        Job(connection, assignment.function, assignment).fail()

    def no_job_received(self, connection: GearmanWorkerProtocol) -> None:
        state = self._states[connection]
        if state.woken:
            state.record_spurious_wakeup(self._reactor.seconds())
        state.record_no_job()
        self._release(state.group)
        if not (connection.grabs or state.withdrawn):
            connection.sleep()

    def answers_received(self, connection: GearmanWorkerProtocol) -> None:
        state = self._states.get(connection)
        ended = state is not None and self._release_ended(state)
        self._grab_jobs()
        if state is None or connection.error is not None:  # it was closed meanwhile
            return
        if ended:
            self._stop_server_timer(state)
        if state.withdrawn:
            self._unregister(state)

    def connection_closed(self, connection: GearmanWorkerProtocol, grabs: int, jobs: list[Job]) -> None:
        state = self._states.pop(connection, None)
        if state is None:  # it was not ready
            return
        state.group.discard(state)
        self._polls.discard(state)
        self._release_ended(state)
        if grabs:
            self._release(state.group, grabs)
        self.runner.abandon(jobs, f"its connection was lost: {connection.error}")
        self._discard_awaited(state.group, jobs)
        self._grab_jobs()

    # What the runner reports.

    def function_ended(self, state: GrabState) -> None:
        self._release(state.group)
        self._grab_jobs()
        if state.group.timed:
            self._stop_server_timer(state)

    def _ended_at_once(self, state: GrabState) -> None:
        """Handle a job that has ended while it was assigned. `answers_received` comes next, and frees its slot."""
        if state.connection.error is None:
            state.ended_at_once += 1
        else:  # it was closed meanwhile
            self._release(state.group)

    def _release_ended(self, state: GrabState) -> bool:
        """Free the slots of the jobs that have ended while they were assigned; return whether there were any."""
        ended, state.ended_at_once = state.ended_at_once, 0
        if ended:
            self._release(state.group, ended)
        return ended > 0

    def job_timed_out(self, state: GrabState) -> None:
        self._stop_server_timer(state)

    def _stop_server_timer(self, state: GrabState) -> None:
        """Stop the timer that a server has for a job of this connection that has ended, unless a request does so.

        PRE_SLEEP stops it, also where there is no free slot. A withdrawn connection sends it only while other jobs run
        there, which the timer might hit: it is then woken for jobs of their functions, which it does not request.
        """
        connection = state.connection
        if not (state.group.timed and connection.dialect.timer_outlives_job):
            return
        awake = connection.error is None and not (connection.grabs or connection.asleep)
        if awake and (connection.jobs or not state.withdrawn):
            connection.sleep()

    # Whose turn it is.

    def _poll(self, states: list[GrabState]) -> None:
        """Ask those connections that sleep: gearmand 1.1 wakes nobody for a job whose time (``at=``) has come (H7)."""
        for state in states:
            if state.connection.asleep:
                state.may_have_job = True
                self._may_be_asked.add(state)
        self._grab_jobs()

    def _grab_jobs(self) -> None:
        """Request as many jobs as there are free slots, where there may be some."""
        for state, slots in self._allot().items():
            if state.connection.error is None:
                state.connection.grab(slots)
            else:  # it was closed while another one was written to
                self._release(state.group, slots)

    def _allot(self) -> dict[GrabState, int]:
        """Allot the free slots to connections, one by one, the least recently asked first.

        A connection that can't be asked just now leaves the queue. What changes that adds it again.
        """
        allotted: dict[GrabState, int] = {}
        slots, may_be_asked = self.slots, self._may_be_asked
        while may_be_asked.states and slots.held < slots.max_jobs:
            state = may_be_asked.pop()
            if state.group.at_limit.states:
                self._lift_limit(state.group)
            wanted = self._window_left(state) - allotted.get(state, 0)
            number = self._acquire(state, wanted) if wanted > 0 else 0
            if number:
                allotted[state] = allotted.get(state, 0) + number
                if wanted > number:
                    may_be_asked.add(state)
        return allotted

    def _window_left(self, state: GrabState) -> int:
        """Return how many more requests may be unanswered at a connection.

        None while a large result is sent: the request would wait behind it, and the server seem to owe an answer.
        """
        connection = state.connection
        usable = connection._state is ConnectionState.READY and not connection.writing_paused
        return state.window - connection.grabs if state.may_have_job and usable else 0

    def _acquire(self, state: GrabState, wanted: int) -> int:
        """Acquire slots for requests at a connection: one, or as many as are wanted if no other may be asked.

        :return: how many were acquired.
        """
        free = self.slots.free_for(state.group)
        if free <= 0:
            state.group.at_limit.add(state)
            return 0
        number = 1 if self._may_be_asked.states else min(wanted, free)
        self.slots.acquire(state.group, number)
        state.asked = next(self._requests)
        return number

    def _release(self, group: FunctionGroup, slots: int = 1) -> None:
        self.slots.release(group, slots)
        if group.retired:
            self._stop_if_done(group)
        if group.limit is not None:
            # It may be another group by now: jobs of a function that was registered again count for its limit.
            current = self.limited.get(group.limit.function)
            if current is not None and current.at_limit.states:
                self._lift_limit(current)

    def _lift_limit(self, group: FunctionGroup) -> None:
        """Have the next connection that waits for a function's limit asked, if the limit allows one more job."""
        if not self.slots.limit_reached(group):
            self._may_be_asked.add(group.at_limit.pop())
