"""The job servers on one clock or reactor, and what they share: names, services, tasks, and logged errors."""

from __future__ import annotations

import gc
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar
from typing import Protocol as Interface
from weakref import ReferenceType, WeakKeyDictionary, WeakMethod, WeakValueDictionary, ref

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ..client.batches import Batch
from ..client.client import GearmanClient
from ..client.task import Task
from ..errors import BatchFailed
from ..models import JobHandle
from ..service import GearmanService
from .calls import PendingCalls, fail_delays
from .clock import MemoryClock, calling_place
from .core import JobServerCore
from .faults import Faults
from .logged_errors import LoggedErrors, mark_as_past
from .protocol import JobServerProtocol
from .submits import BatchSubmit, Submit, TaskSubmit

T = TypeVar("T")

_ATTRIBUTE: Final = "txgearman_services"
"""Attribute of a clock or reactor, which has its `ServerGroup`: `txgearman.service` reports each new service to it."""

_MAX_PLACES: Final = 10_000
"""Jobs of ended tasks of which it is known where they were submitted."""

_MANY_FAILURES: Final = 1000
"""Number of recorded errors at which the records of those that were collected are dropped."""

_HAS_GENERATIONS: Final = (
    sys.implementation.name == "cpython" and sys.version_info < (3, 14) and "free-threading" not in sys.version
)
"""Whether garbage is collected by three generations."""

_NAME: Final = re.compile(r"[!-~]+")


class GroupedServer(Interface):
    """A `MemoryJobServer`, as far as the modules need it on which it is built."""

    name: str
    clock: Any
    _core: JobServerCore
    _faults: Faults
    _services: list[GearmanService]
    _drain_timeout: float
    _closed: bool
    _verified: bool

    @property
    def _protocols(self) -> list[JobServerProtocol]: ...

    def _advance(self, seconds: float) -> list[BaseException]: ...

    def _all_ports(self) -> list[IListeningPort]: ...

    def _stop_awaiters(self) -> bool: ...

    def _forget_services(self) -> None: ...

    def _fail_awaiters(self, text: str) -> bool: ...

    def log(self, count: int) -> str:
        """Return the last packets."""


class ServerGroup:
    """The job servers on one clock or reactor.

    :ivar watching: whether services and tasks are recorded.
    :ivar services: the services that were made on the clock, and where.
    :ivar tasks: the tasks that are still referenced, and where they were submitted.
    :ivar batches: the Deferreds of batches that are still referenced, and where these were submitted.
    :ivar calls: the other calls of services that have no outcome.
    :ivar places: where the newest jobs were submitted whose tasks or batches have ended.
    :ivar logged: the failures that were logged.
    """

    def __init__(self, reactor: Any) -> None:
        # The clock has the group. A cycle of references would keep what each test has left until it is collected.
        self._reactor_reference: ReferenceType[Any] = ref(reactor)
        self._by_name: WeakValueDictionary[str, GroupedServer] = WeakValueDictionary()
        self._numbers = count(1)
        self._standstill = ""
        self._failures: list[tuple[ReferenceType[BaseException], int, str]] = []
        self._most_failures = _MANY_FAILURES
        self._collections = _old_collections()
        self.watching = False
        self.services: WeakKeyDictionary[GearmanService, str] = WeakKeyDictionary()
        self.tasks: WeakKeyDictionary[Task, TaskSubmit] = WeakKeyDictionary()
        self.batches: WeakKeyDictionary[Deferred[Any], BatchSubmit] = WeakKeyDictionary()
        self.calls = PendingCalls()
        self.places: OrderedDict[JobHandle, str] = OrderedDict()  # a dict takes long to find its first entry
        self.logged = LoggedErrors()
        self._raised: WeakKeyDictionary[Deferred[Any], Failure] | None = None

    @property
    def _reactor(self) -> Any:
        return self._reactor_reference()

    @property
    def servers(self) -> list[GroupedServer]:
        """Those that are not closed, the oldest first."""
        # To iterate over a weak dictionary itself takes three times as long.
        return [server for reference in self._by_name.valuerefs() if (server := reference()) is not None]

    def add(self, server: GroupedServer, name: str | None) -> str:
        """Add a server.

        :param name: None for ``memory:1``, ``memory:2`` and so on.
        :return: its name.
        :raises TypeError, ValueError: the name is not one, or is another server's.
        """
        if name is None:
            name = self._next_name()
        elif not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        elif not _NAME.fullmatch(name):
            raise ValueError(f"name must be printable ASCII without spaces, not {name!r}")
        elif name in self._by_name:
            raise ValueError(f"name must be different from those of other servers on this clock, not {name!r}")
        self._by_name[name] = server
        return name

    def remove(self, server: GroupedServer) -> None:
        """Remove a server that is closed."""
        self._by_name.pop(server.name, None)

    def by_name(self, name: str) -> GroupedServer | None:
        """Return the server of this name."""
        return self._by_name.get(name)

    def _next_name(self) -> str:
        # A clock is that of one test. A reactor has servers of all tests, whose names must not depend on their order.
        numbers = self._numbers if isinstance(self._reactor, Clock) else count(1)
        return next(name for number in numbers if (name := f"memory:{number}") not in self._by_name)

    # Recording.

    def watch(self) -> None:
        """Record services, tasks and logged errors from now on."""
        self.watching = True
        self.logged.start()

    def unwatch(self) -> None:
        """Record nothing more."""
        self.watching = False
        self.logged.stop()

    def service_made(self, service: GearmanService) -> None:
        """Record a new service on this clock, and the tasks that it will submit."""
        if self.watching:
            self.services[service] = calling_place()
            self.calls.service_made(service)
            if isinstance(service, GearmanClient):
                # An attribute of the object: no client pays for it that is not on a clock with servers in memory.
                service.submit = partial(self._submit, WeakMethod(service.submit))  # type: ignore[method-assign]

    def _submit(self, method: Callable[[], Callable[[Task], Deferred[Any]] | None], task: Task) -> Deferred[Any]:
        submit: Any = method()
        deferred: Deferred[Any] = submit(task)
        record = self.tasks[task] = TaskSubmit(task, submit.__self__, calling_place(), deferred)
        return self._await_outcome(record, deferred)

    def batch_submitted(self, client: GearmanClient, batch: Batch, deferred: Deferred[Any]) -> None:
        """Record a batch that was submitted by a client on this clock."""
        if client in self.services:
            record = self.batches[deferred] = BatchSubmit(batch, client, calling_place(), deferred)
            self._await_outcome(record, deferred)

    def _await_outcome(self, submit: Submit, deferred: Deferred[T]) -> Deferred[T]:
        return deferred.addCallbacks(self._succeeded, self._failed, callbackArgs=(submit,), errbackArgs=(submit,))

    def _succeeded(self, result: T, submit: Submit) -> T:
        self._note_places(submit, result)
        return result

    def _note_places(self, submit: Submit, outcome: object) -> None:
        place = submit.job_place
        for handle in submit.jobs(outcome)[-_MAX_PLACES:]:
            self.places[handle] = place
            if len(self.places) > _MAX_PLACES:
                self.places.popitem(last=False)

    @property
    def submits(self) -> list[Submit]:
        """Records of the tasks and batches that are still referenced."""
        # To iterate over a weak dictionary takes a microsecond, even if it is empty.
        return [submit for records in (self.tasks, self.batches) if records for submit in records.values()]

    def note_raised(self, deferred: Deferred[Any], failure: Failure) -> None:
        """Record the failure of a Deferred that `MemoryJobServer.result_of` raises."""
        if self._raised is None:
            self._raised = WeakKeyDictionary()
        self._raised[deferred] = failure

    def raised_before(self, deferred: Deferred[Any]) -> Failure | None:
        """Return the failure that `MemoryJobServer.result_of` has raised for this Deferred."""
        return None if self._raised is None else self._raised.get(deferred)

    def fail_waits(self, text: str) -> bool:
        """Fail what a test may wait for with an `AssertionError`: else it would wait for ever.

        These are tasks and batches without an outcome, `next_job`, other calls, and delays on the clock.

        :return: whether there was anything.
        """
        failed = [server._fail_awaiters(text) for server in self.servers]
        pending = [submit for submit in self.submits if not submit.ended]
        self._standstill = text
        for submit in pending:
            if not submit.ended:
                submit.fail(AssertionError(text))
        self._standstill = ""
        return any([*failed, pending, self.calls.fail(text), fail_delays(self._reactor, text)])

    def _failed(self, failure: Failure, submit: Submit) -> Failure:
        assert failure.value is not None
        if self._standstill and failure.check(CancelledError, BatchFailed):
            return Failure(AssertionError(self._standstill))
        origin = f"{submit.name}, submitted at {submit.place}"
        self._forget_failures()
        # The number is for the error of a Deferred that is collected: the reference to it is cleared before.
        self._failures += [(ref(error), id(error), origin) for error in submit.errors(failure.value)]
        self._note_places(submit, failure.value)
        return failure

    def _forget_failures(self) -> None:
        """Drop the records of errors that were collected, each time the number of records has doubled."""
        if len(self._failures) >= self._most_failures:
            self._failures = [failure for failure in self._failures if failure[0]() is not None]
            self._most_failures = max(_MANY_FAILURES, 2 * len(self._failures))

    def origin_of(self, error: BaseException | None, text: str) -> str | None:
        """Return the task that an error is of, and where it was submitted.

        :param text: what was logged with it, which may have the handle of a job.
        """
        found = (origin for _, number, origin in reversed(self._failures) if number == id(error))
        by_handle = {str(handle): f"submitted at {place}" for handle, place in self.places.items()}
        words = (by_handle[word] for word in text.replace(":\n", " ").split() if word in by_handle)
        return next(found, None) or next(words, None)

    # The end.

    def collect(self) -> None:
        """Collect garbage, if the error of a task may be in a Deferred that nobody has looked at.

        Such a Deferred logs its error when it is collected, which may be in another test.
        """
        if any(error() is not None for error, *_ in self._failures):
            # What is younger than this group is in the two young generations, unless the middle one was collected.
            old = _old_collections()
            gc.collect(1 if old is not None and old == self._collections else 2)

    def end_errors(self) -> None:
        """End the record of errors: those that are still there are not logged in the next test."""
        for error, *_ in self._failures:
            mark_as_past(error())
        self._failures.clear()

    def begin_anew(self) -> None:
        """Forget what a test has left, so that the next one is not blamed for it."""
        self.tasks.clear()
        self.batches.clear()
        self.places.clear()
        self.logged.pop_all()
        reactor = self._reactor
        if isinstance(reactor, MemoryClock):
            reactor.looped = False
        if isinstance(reactor, Clock):
            for call in reactor.getDelayedCalls():
                call.cancel()


def _old_collections() -> int | None:
    """Return how often objects became old; None where that is not known."""
    return sum(int(generation["collections"]) for generation in gc.get_stats()[1:]) if _HAS_GENERATIONS else None


def _collect_young() -> None:
    """Collect what the test before has left: its clients and workers are in cycles of references.

    While it is young, that takes no longer than to free it. Once it is old, it takes a collection of everything that a
    suite has in memory, which takes as long as hundreds of tests.
    """
    if _HAS_GENERATIONS and gc.isenabled():
        # By Python's own rule, which is not applied where few objects are made from one collection to the next.
        gc.collect(1 if gc.get_count()[1] > gc.get_threshold()[1] else 0)


def group_of(reactor: Any) -> ServerGroup:
    """Return the group of a clock or reactor, which is made at its first server."""
    group = getattr(reactor, _ATTRIBUTE, None)
    if not isinstance(group, ServerGroup):
        if isinstance(reactor, MemoryClock):
            _collect_young()
        group = ServerGroup(reactor)
        setattr(reactor, _ATTRIBUTE, group)
    return group
