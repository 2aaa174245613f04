"""The text protocol of job servers: what is asked, and what the answers mean. It does no input and no output.

A `Command` is one line to a server and the parser of its answer::

    >>> STATUS.line
    b'status'
    >>> STATUS.parse(b"sandbox\\tresize\\t3\\t1\\t2\\n.\\n")
    (FunctionStatus(function=b'sandbox\\tresize', total=3, running=1, workers=2),)

Names are bytes and are printed raw, so that a row may hold any TABs, spaces and newlines besides its own
(docs/gearman.md §11). So the numbers of a row are read from its end, and a line that has none is the start of the next
one. What is left to doubt is told at `WorkerInfo` and `UNIQUE_JOBS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, NoReturn, TypeVar
from urllib.parse import unquote_plus

from ..errors import ProtocolError, ServerError
from ..models import display_text
from ..validation import MAX_HANDLE, function_bytes, name_bytes

__all__ = [
    "JOBS",
    "PID",
    "PRIORITY_STATUS",
    "STATUS",
    "UNIQUE_JOBS",
    "VERBOSITY",
    "VERSION",
    "WORKERS",
    "Command",
    "FunctionStatus",
    "JobInfo",
    "PriorityStatus",
    "WorkerInfo",
    "cancel_job",
    "create_function",
    "drop_function",
    "max_queue",
    "shutdown",
]

T = TypeVar("T")

MAX_QUEUE: Final = 2**31 - 1
"""The largest limit of a queue; servers keep it in a C ``int``."""


# What servers tell.


@dataclass(frozen=True)
class Named:
    """Something that is told of a function.

    :ivar function: the function's name as it goes over the wire: with its prefix.
    """

    function: bytes

    @property
    def prefix(self) -> bytes:
        """What stands before the first TAB of the name; empty if there is none."""
        before, tab, _ = self.function.partition(b"\t")
        return before if tab else b""

    @property
    def name(self) -> bytes:
        """The name without its prefix."""
        before, tab, behind = self.function.partition(b"\t")
        return behind if tab else before


@dataclass(frozen=True)
class FunctionStatus(Named):
    """A function's jobs and workers.

    :ivar total: its jobs, queued and running. gearmand counts those whose client has left, too, until a worker asks.
    :ivar running: those that a worker has.
    :ivar workers: workers that offer it, busy ones too.
    """

    total: int
    running: int
    workers: int

    @property
    def queued(self) -> int:
        """Jobs that wait for a worker."""
        return self.total - self.running


@dataclass(frozen=True)
class PriorityStatus(Named):
    """A function's queues, and its workers.

    :ivar high, normal, low: jobs that wait in each queue.
    :ivar workers: workers that offer it.
    """

    high: int
    normal: int
    low: int
    workers: int


@dataclass(frozen=True)
class WorkerInfo:
    """One connection to a server: a worker's, or any other.

    The protocol sets nothing between a name and the next but a space, so that a function with a space in its name
    is told as two. A client id with " : " in it is read right, a function called ":" is not.

    :ivar number: the server's number of the connection.
    :ivar address: where it comes from, in the server's words. gearmand prints nonsense for IPv6 (C4).
    :ivar client_id: what it calls itself; ``b"-"`` if it has not said.
    :ivar functions: what it offers; nothing unless it is a worker.
    """

    number: int
    address: str
    client_id: bytes
    functions: tuple[bytes, ...]


@dataclass(frozen=True)
class JobInfo:
    """A job that a server has.

    :ivar handle: its handle; with the server's address, a `JobHandle`.
    :ivar retries: how often a worker was lost with it.
    :ivar ignored: nobody waits for it any more, and it will be dropped rather than run.
    :ivar stored: it is in the server's queue store: a background job.
    """

    handle: bytes
    retries: int
    ignored: bool
    stored: bool


# How to read it.


@dataclass(frozen=True)
class Command(Generic[T]):
    """A line to a server, and what its answer means.

    :ivar line: without its end.
    :ivar parse: reads the answer. Raises `ServerError` for a refusal, `ProtocolError` for what is no answer.
    :ivar is_last: whether the server closes the connection after it.
    """

    line: bytes
    parse: Callable[[bytes], T]
    is_last: bool = field(default=False, kw_only=True)


_ERR: Final = re.compile(rb"ERR ?([^\r\n]*?) *\r?\n")
_CODE: Final = re.compile(r"[A-Z][A-Z_]*|[a-z]+(_[a-z]+)+")  # gearmand and geard's, or perl's
_VALUE: Final = re.compile(rb"(?:OK )?([^\r\n]+)\r?\n")
_OK: Final = re.compile(rb"OK *\r?\n")
_WORKER: Final = re.compile(rb"(\d+) (\S*) ", re.ASCII)


def _refused(text: bytes) -> NoReturn:
    """Tell what a server said instead of an answer."""
    match = _ERR.fullmatch(text)
    if match is None:
        raise ProtocolError(f"not an answer to this command: {text[:200]!r}")
    said = display_text(match[1])
    code, _, explanation = said.partition(" ")
    if _CODE.fullmatch(code):
        raise ServerError(code, unquote_plus(explanation))
    raise ServerError("ERR", said)  # gearmand has no code for some


def _lines(text: bytes) -> list[bytes]:
    """The lines of a list, without its last: a dot alone."""
    lines = text.split(b"\r\n" if text.endswith(b".\r\n") else b"\n")
    if lines[-2:] != [b".", b""]:
        _refused(text)
    return lines[:-2]


def _rows(text: bytes, numbers: int) -> list[tuple[bytes, list[int]]]:
    """Read a list whose rows are a name and as many numbers, with TABs between them."""
    rows: list[tuple[bytes, list[int]]] = []
    begun: list[bytes] = []  # lines of a name that is not at its end
    for line in _lines(text):
        begun.append(line)
        head, *fields = line.rsplit(b"\t", numbers)
        if len(fields) == numbers and all(map(bytes.isdigit, fields)):
            begun[-1] = head
            rows.append((b"\n".join(begun), [int(field) for field in fields]))
            begun = []
    if begun:
        raise ProtocolError(f"a row without its numbers: {begun!r:.200}")
    return rows


def _status(text: bytes) -> tuple[FunctionStatus, ...]:
    return tuple(FunctionStatus(name, *numbers) for name, numbers in _rows(text, 3))


def _priority_status(text: bytes) -> tuple[PriorityStatus, ...]:
    return tuple(PriorityStatus(name, *numbers) for name, numbers in _rows(text, 4))


def _jobs(text: bytes) -> tuple[JobInfo, ...]:
    rows = _rows(text, 3)
    return tuple(JobInfo(handle, retries, bool(ignored), bool(stored)) for handle, (retries, ignored, stored) in rows)


def _unique_jobs(text: bytes) -> tuple[bytes, ...]:
    return tuple(_lines(text))


def _workers(text: bytes) -> tuple[WorkerInfo, ...]:
    rows: list[bytes] = []
    for line in _lines(text):
        if _WORKER.match(line):
            rows.append(line)
        elif rows:
            rows[-1] += b"\n" + line  # a client id or a function has a newline
        else:
            raise ProtocolError(f"not a row about a worker: {line[:200]!r}")
    return tuple(map(_worker, rows))


def _worker(row: bytes) -> WorkerInfo:
    match = _WORKER.match(row)
    assert match is not None
    client_id, colon, functions = (row[match.end() :] + b" ").rpartition(b" : ")
    if not colon:
        raise ProtocolError(f"not a row about a worker: {row[:200]!r}")
    names = tuple(name for name in functions.split(b" ") if name)
    return WorkerInfo(int(match[1]), display_text(match[2]), client_id, names)


def _value(text: bytes) -> str:
    match = None if text.startswith(b"ERR") else _VALUE.fullmatch(text)
    if match is None:
        _refused(text)
    return display_text(match[1])


def _number(text: bytes) -> int:
    value = _value(text)
    if not value.isdecimal():
        _refused(text)
    return int(value)


def _ok(text: bytes) -> None:
    if not _OK.fullmatch(text):
        _refused(text)


# What can be asked.

STATUS: Final = Command(b"status", _status)
PRIORITY_STATUS: Final = Command(b"prioritystatus", _priority_status)
WORKERS: Final = Command(b"workers", _workers)
JOBS: Final = Command(b"show jobs", _jobs)
UNIQUE_JOBS: Final = Command(b"show unique jobs", _unique_jobs)
"""One per job; empty for a job without one. A unique with a newline in it is told as two."""
VERSION: Final = Command(b"version", _value)
PID: Final = Command(b"getpid", _number)
VERBOSITY: Final = Command(b"verbose", _value)


def max_queue(function: bytes, limits: Iterable[int]) -> Command[None]:
    """
    :param function: as it goes over the wire.
    :param limits: for HIGH, NORMAL and LOW.
    """
    numbers = b" ".join(b"%d" % limit for limit in limits)
    return Command(b"maxqueue %b %b" % (_word("function", function_bytes(function)), numbers), _ok)


def create_function(function: bytes) -> Command[None]:
    """
    :param function: as it goes over the wire.
    """
    return Command(b"create function " + _word("function", function_bytes(function)), _ok)


def drop_function(function: bytes) -> Command[None]:
    """
    :param function: as it goes over the wire.
    """
    return Command(b"drop function " + _word("function", function_bytes(function)), _ok)


def cancel_job(handle: bytes) -> Command[None]:
    """
    :param handle: as the server gave it.
    """
    word = _word("handle", name_bytes("handle", handle, MAX_HANDLE))
    if not word:
        raise ValueError("handle must not be empty")
    return Command(b"cancel job " + word, _ok)


def shutdown(*, graceful: bool) -> Command[None]:
    """
    :param graceful: let jobs that run come to their end.
    """
    return Command(b"shutdown graceful" if graceful else b"shutdown", _ok, is_last=True)


def _word(what: str, value: bytes) -> bytes:
    """Refuse what would not reach the server as one word. With one word each, no line here is too long for a server,
    nor has it too many words: for both it closes the connection (docs/gearman.md §11)."""
    if any(character in value for character in b" \r\n"):
        raise ValueError(f"{what} must not have a space or an end of line here: a command is words: {value[:80]!r}")
    return value
