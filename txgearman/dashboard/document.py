"""The document that a poll makes: one JSON object, the same for all viewers.

::

    {
      "format": 1,
      "time": 1790000000.1,        end of the poll, in POSIX seconds
      "took": 0.012,               seconds that the poll took
      "expected": 7.0,             seconds within which the next document is due while somebody looks
      "since": 1789996400.0,       start of the history
      "servers": [{                in the order of the addresses that were given
        "address": "10.0.0.1:4730",
        "up": true,
        "error": null,             why it has not answered
        "version": "1.1.20",       null if the server does not report it; of a server that is down, the last one
        "answered": 1790000000.1,  time of its last answer, or null
        "waiting": 3, "running": 1, "workers": 2, "functions": 4,    null while it is down; "workers" also
                                   if it does not list them
        "history": [0, null, 3]    most waiting jobs of each minute, up to sixty, the last one is this minute;
      }],                          null: nothing known. Empty: no job has waited
      "functions": [{              those with jobs that nobody does first, then by their number of jobs
        "name": "resize",          printable, unique in the document
        "waiting": 3, "running": 1, "workers": 2,                    over all servers that are up
        "priorities": [0, 3, 0],   waiting jobs of high, normal and low priority; null if no server reports them
        "abandoned": false,        whether jobs wait on a server where no worker offers the function
        "history": [],             as for servers
        "servers": [[0, 3, 1, 2]]  per server: its position in "servers", waiting, running, workers
      }],
      "functions_omitted": 0,      functions beyond those that a document may have
      "workers": [[0, 12, "10.0.0.7", "id", [0, "other"], 2]],
                                   position of its server, number of the connection, address, client id,
                                   functions: positions in "functions", or names that it does not have; how many
      "workers_omitted": 0
    }

Names, ids, addresses, versions and errors may be any bytes. Here they are printable text of limited length: no
control characters, none that change the direction of writing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypedDict

from ..admin.admin import Answers
from ..admin.commands import FunctionStatus, PriorityStatus, WorkerInfo
from ..admin.reports import ServerReport
from ..errors import NoServersAvailable
from ..validation import MAX_NAME, MAX_REASON, printable_name, short_text
from .history import MAX_FUNCTIONS, History, Numbers

__all__ = ["Document", "Poll", "Recorder", "error_text", "name_text"]

FORMAT: Final = 1

MAX_WORKERS: Final = 5000
"""Workers of a document: some 100 bytes each."""

MAX_OFFERED: Final = 100
"""Functions that are listed of one worker."""


class ServerEntry(TypedDict):
    """A server in a document."""

    address: str
    up: bool
    error: str | None
    version: str | None
    answered: float | None
    waiting: int | None
    running: int | None
    workers: int | None
    functions: int | None
    history: list[int | None]


class FunctionEntry(TypedDict):
    """A function in a document."""

    name: str
    waiting: int
    running: int
    workers: int
    priorities: list[int] | None
    abandoned: bool
    history: list[int | None]
    servers: list[tuple[int, int, int, int]]


WorkerEntry = tuple[int, int, str, str, "list[int | str]", int]
"""A worker in a document."""


class Data(TypedDict):
    """The object that a document is as JSON."""

    format: int
    time: float
    took: float
    expected: float
    since: float | None
    servers: list[ServerEntry]
    functions: list[FunctionEntry]
    functions_omitted: int
    workers: list[WorkerEntry]
    workers_omitted: int


@dataclass(frozen=True)
class Poll:
    """What all servers have answered to one poll.

    :ivar started, ended: its times, in POSIX seconds.
    :ivar expected: seconds within which the next one ends.
    """

    reports: Sequence[ServerReport]
    workers: Answers[tuple[WorkerInfo, ...]]
    started: float
    ended: float
    expected: float


@dataclass(frozen=True)
class Document:
    """A document, as an object and as JSON.

    :ivar time: end of its poll, in POSIX seconds.
    :ivar names: the functions by their names in the document.
    """

    data: Data
    names: Mapping[str, bytes]
    time: float
    json: bytes


@dataclass
class _Function:
    """A function's numbers, added up over all servers."""

    name: bytes
    waiting: int = 0
    running: int = 0
    workers: int = 0
    abandoned: bool = False
    priorities: list[int] | None = None
    servers: list[tuple[int, int, int, int]] = field(default_factory=list)

    def add(self, server: int, status: FunctionStatus, queues: PriorityStatus | None) -> None:
        """Add the numbers of one server."""
        waiting = max(0, status.queued)
        self.waiting += waiting
        self.running += status.running
        self.workers += status.workers
        self.abandoned |= waiting > 0 and not status.workers
        self.servers.append((server, waiting, status.running, status.workers))
        if queues is not None:
            lengths = (queues.high, queues.normal, queues.low)
            self.priorities = [had + more for had, more in zip(self.priorities or (0, 0, 0), lengths, strict=True)]

    @property
    def rank(self) -> tuple[bool, int, bytes]:
        """Sort key."""
        return not self.abandoned, -self.waiting - self.running, self.name

    @property
    def numbers(self) -> Numbers:
        return Numbers(self.waiting, self.running, self.workers)


class Recorder:
    """Makes a document of each poll, and keeps the history.

    :ivar history: the history of functions and servers.
    """

    def __init__(self) -> None:
        self.history = History()
        self._answered: dict[str, float] = {}
        self._versions: dict[str, str] = {}

    def record(self, poll: Poll) -> Document:
        """Add a poll to the history, and return its document."""
        functions = _add_up(poll.reports)
        shown = sorted(functions.values(), key=lambda function: function.rank)[:MAX_FUNCTIONS]
        servers = {each.address: _totals(each, poll.workers) for each in poll.reports if each.error is None}
        self.history.add(poll.ended, {each.name: each.numbers for each in shown}, servers)
        for report in poll.reports:
            if report.error is None:
                self._answered[report.address] = poll.ended
                if report.version is not None:
                    self._versions[report.address] = short_text(report.version, MAX_NAME)
        names = _unique_names(each.name for each in shown)
        positions = {each.name: position for position, each in enumerate(shown)}
        workers = list(_workers(poll))
        data = Data(
            format=FORMAT,
            time=round(poll.ended, 3),
            took=round(poll.ended - poll.started, 3),
            expected=poll.expected,
            since=self.history.since,
            servers=[self._server(each, servers.get(each.address), poll) for each in poll.reports],
            functions=[self._function(each, name, poll.ended) for each, name in zip(shown, names, strict=True)],
            functions_omitted=len(functions) - len(shown),
            workers=[_worker_entry(server, worker, positions) for server, worker in workers[:MAX_WORKERS]],
            workers_omitted=max(0, len(workers) - MAX_WORKERS),
        )
        by_name = {name: each.name for each, name in zip(shown, names, strict=True)}
        return Document(data, by_name, poll.ended, json.dumps(data, separators=(",", ":")).encode())

    def _server(self, report: ServerReport, totals: Numbers | None, poll: Poll) -> ServerEntry:
        series = self.history.servers.get(report.address)
        lists_workers = report.address in poll.workers.results
        return ServerEntry(
            address=short_text(report.address, MAX_NAME),
            up=report.error is None,
            error=None if report.error is None else error_text(report.address, report.error),
            version=self._versions.get(report.address),
            answered=self._answered.get(report.address),
            waiting=None if totals is None else totals.waiting,
            running=None if totals is None else totals.running,
            workers=totals.workers if totals is not None and lists_workers else None,
            functions=None if totals is None else len(report.functions),
            history=series.maxima(poll.ended) if series is not None else [],
        )

    def _function(self, function: _Function, name: str, now: float) -> FunctionEntry:
        return FunctionEntry(
            name=name,
            waiting=function.waiting,
            running=function.running,
            workers=function.workers,
            priorities=function.priorities,
            abandoned=function.abandoned,
            history=self.history.functions[function.name].maxima(now),
            servers=function.servers,
        )


def _add_up(reports: Iterable[ServerReport]) -> dict[bytes, _Function]:
    functions: dict[bytes, _Function] = {}
    for position, report in enumerate(reports):
        for name, status in report.functions.items():
            function = functions.get(name)
            if function is None:
                function = functions[name] = _Function(name)
            function.add(position, status, report.queues.get(name))
    return functions


def _totals(report: ServerReport, workers: Answers[tuple[WorkerInfo, ...]]) -> Numbers:
    """Return the numbers of a server. A worker that offers several functions counts once."""
    statuses = report.functions.values()
    return Numbers(
        sum(max(0, each.queued) for each in statuses),
        sum(each.running for each in statuses),
        sum(bool(each.functions) for each in workers.results.get(report.address, ())),
    )


def _workers(poll: Poll) -> Iterator[tuple[int, WorkerInfo]]:
    """Return the workers of all servers, with the position of their server: connections that offer a function."""
    for position, report in enumerate(poll.reports):
        for worker in poll.workers.results.get(report.address, ()):
            if worker.functions:
                yield position, worker


def _worker_entry(server: int, worker: WorkerInfo, positions: Mapping[bytes, int]) -> WorkerEntry:
    return (
        server,
        worker.number,
        short_text(worker.address, MAX_NAME),
        name_text(worker.client_id),
        [positions[name] if name in positions else name_text(name) for name in worker.functions[:MAX_OFFERED]],
        len(worker.functions),
    )


def name_text(name: bytes) -> str:
    """Return a name or id of others as a document has it: printable, and cut if it is too long."""
    return _known_text(name) if len(name) <= MAX_NAME else short_text(name, MAX_NAME, printable_name)


@lru_cache(maxsize=8192)
def _known_text(name: bytes) -> str:
    """Remember the texts of names: they are the same in each poll, and take a third of its time."""
    return short_text(name, MAX_NAME, printable_name)


def _unique_names(names: Iterable[bytes]) -> list[str]:
    """Return names as text. Of long ones that are cut to the same text, all but the first get a number."""
    found: dict[str, None] = {}
    times: Counter[str] = Counter()
    for name in names:
        text = unique = name_text(name)
        while unique in found:
            times[text] += 1
            unique = f"{text} #{times[text] + 1}"
        found[unique] = None
    return list(found)


def error_text(address: str, error: BaseException) -> str:
    """Return why a server has not answered, without its address."""
    reason = error.reasons.get(address, error) if isinstance(error, NoServersAvailable) else error
    return short_text(str(reason) or type(reason).__name__, MAX_REASON)
