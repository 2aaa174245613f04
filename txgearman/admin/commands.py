"""The text protocol of job servers: commands, and the parsers of their answers. Does no I/O.

A `Command` is a line to send to a server and the parser of its answer::

    >>> STATUS.line
    b'status'
    >>> STATUS.parse(b"sandbox\\tresize\\t3\\t1\\t2\\n.\\n")
    (FunctionStatus(function=b'sandbox\\tresize', total=3, running=1, workers=2),)

Servers print names raw, so that a row may have TABs, spaces and newlines in addition to its own (docs/gearman.md §11).
So the numbers of a row are parsed from its end, and a line without numbers belongs to the row on the next line.
`WorkerInfo` and `UNIQUE_JOBS` note what remains ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, NoReturn, TypeVar
from urllib.parse import unquote_plus

from ..errors import ProtocolError, ServerError
from ..models import decode_text
from ..validation import MAX_HANDLE, escape_backslashes, function_bytes, name_bytes, quoted, short_text

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
"""The largest limit of a queue: servers store it in a C ``int``."""


# Answers.


@dataclass(frozen=True)
class Named:
    """Base of answers about a function.

    :ivar function: name of the function as the server has it: with its prefix.
    """

    function: bytes

    @property
    def prefix(self) -> bytes:
        """The part of the name before its first TAB; empty if there is none."""
        before, tab, _ = self.function.partition(b"\t")
        return before if tab else b""

    @property
    def name(self) -> bytes:
        """The name without its prefix."""
        before, tab, behind = self.function.partition(b"\t")
        return behind if tab else before


@dataclass(frozen=True)
class FunctionStatus(Named):
    """Numbers of jobs and workers of a function.

    :ivar total: number of jobs, queued and running. gearmand also counts jobs whose client has disconnected, until a
        worker asks for a job.
    :ivar running: number of jobs that a worker has.
    :ivar workers: number of workers that offer the function, including busy ones.
    """

    total: int
    running: int
    workers: int

    @property
    def queued(self) -> int:
        """Number of jobs that wait for a worker."""
        return self.total - self.running


@dataclass(frozen=True)
class PriorityStatus(Named):
    """Lengths of the queues of a function, and the number of its workers.

    :ivar high: number of queued jobs of high priority.
    :ivar normal: number of queued jobs of normal priority.
    :ivar low: number of queued jobs of low priority.
    :ivar workers: number of workers that offer the function.
    """

    high: int
    normal: int
    low: int
    workers: int


@dataclass(frozen=True)
class WorkerInfo:
    """A connection to a server: of a worker, or any other.

    Names are separated by spaces only, so that a function with a space in its name appears as two. A client id with
    " : " in it is parsed correctly, a function named ":" is not.

    :ivar number: the server's number of the connection.
    :ivar address: the peer's address, as the server prints it. gearmand does not print IPv6 addresses correctly (C4).
    :ivar client_id: the id that the peer has set; ``b"-"`` if it has not.
    :ivar functions: the functions that it offers; empty unless it is a worker.
    """

    number: int
    address: str
    client_id: bytes
    functions: tuple[bytes, ...]


@dataclass(frozen=True)
class JobInfo:
    """A job on a server.

    :ivar handle: the handle; together with the server's address, a `JobHandle`.
    :ivar retries: how often a worker disconnected while it ran the job.
    :ivar ignored: whether no client waits for it any more, so that it will be dropped instead of run.
    :ivar stored: whether it is in the server's persistent queue, as background jobs are.
    """

    handle: bytes
    retries: int
    ignored: bool
    stored: bool


# Parsers.


@dataclass(frozen=True)
class Command(Generic[T]):
    """A line to send to a server, and the parser of its answer.

    :ivar line: the line without its end.
    :ivar parser: parses the answer. Raises `ServerError` if the server refused, anything else if it is no answer.
    :ivar is_last: whether the server closes the connection after its answer.
    """

    line: bytes
    parser: Callable[[bytes], T]
    is_last: bool = field(default=False, kw_only=True)

    def parse(self, text: bytes) -> T:
        """Parse the answer.

        :raises ServerError: the server refused.
        :raises ProtocolError: the text is no answer, whatever its parser made of it: so it stays an error of this one
            server.
        """
        try:
            return self.parser(text)
        except (ServerError, ProtocolError):
            raise
        except Exception as error:  # the text is the peer's: what it makes a parser raise must not fail other servers
            raise ProtocolError(f"received text that can not be parsed: {quoted(text)}") from error


_ERR: Final = re.compile(rb"ERR ?([^\r\n]*)\r?\n")
_CODE: Final = re.compile(r"[A-Z][A-Z_]*|[a-z]+(_[a-z]+)+")  # gearmand and geard's, or perl's
_VALUE: Final = re.compile(rb"(?:OK )?([^\r\n]+)\r?\n")
_OK: Final = re.compile(rb"OK *\r?\n")
_WORKER: Final = re.compile(rb"(\d+) (\S*) ", re.ASCII)


_MAX_DIGITS: Final = 20  # more than any server prints; int() is slow for thousands, and refuses more than 4,300


def _integer(digits: bytes) -> int:
    """Parse the digits of a number."""
    if len(digits) > _MAX_DIGITS:
        raise ProtocolError(f"received a number of {len(digits)} digits: {quoted(digits[:_MAX_DIGITS])}...")
    return int(digits)


def _refused(text: bytes) -> NoReturn:
    """Raise the error for a text that is not the expected answer."""
    match = _ERR.fullmatch(text)
    if match is None:
        raise ProtocolError(f"received text that does not answer this command: {quoted(text)}")
    message = short_text(match[1].rstrip(b" "), form=decode_text)
    code, _, explanation = message.partition(" ")
    if _CODE.fullmatch(code):
        raise ServerError(code, unquote_plus(explanation))
    raise ServerError("ERR", message)  # some errors of gearmand have no code


def _lines(text: bytes) -> list[bytes]:
    """Split a list into lines, without the last one: a dot."""
    lines = text.split(b"\r\n" if text.endswith(b".\r\n") else b"\n")
    if lines[-2:] != [b".", b""]:
        _refused(text)
    return lines[:-2]


def _rows(text: bytes, numbers: int) -> list[tuple[bytes, list[int]]]:
    """Parse a list whose rows have a name and as many numbers, separated by TABs."""
    rows: list[tuple[bytes, list[int]]] = []
    begun: list[bytes] = []  # lines of an incomplete row
    for line in _lines(text):
        begun.append(line)
        head, *fields = line.rsplit(b"\t", numbers)
        if len(fields) == numbers and all(map(bytes.isdigit, fields)):
            begun[-1] = head
            rows.append((b"\n".join(begun), list(map(_integer, fields))))
            begun = []
    if begun:
        raise ProtocolError(f"received a row without its numbers: {quoted(begun[0])}")
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
    rows: list[list[bytes]] = []
    for line in _lines(text):
        if _WORKER.match(line):
            rows.append([line])
        elif rows:
            rows[-1].append(line)  # a client id or function has a newline in it
        else:
            raise ProtocolError(f"received a row that is not of a worker: {quoted(line)}")
    return tuple(_worker(b"\n".join(lines)) for lines in rows)


def _worker(row: bytes) -> WorkerInfo:
    match = _WORKER.match(row)
    assert match is not None
    client_id, colon, functions = (row[match.end() :] + b" ").rpartition(b" : ")
    if not colon:
        raise ProtocolError(f"received a row that is not of a worker: {quoted(row)}")
    names = tuple(name for name in functions.split(b" ") if name)
    return WorkerInfo(_integer(match[1]), escape_backslashes(match[2]), client_id, names)


def _value(text: bytes) -> str:
    match = None if text.startswith(b"ERR") else _VALUE.fullmatch(text)
    if match is None:
        _refused(text)
    return escape_backslashes(match[1])


def _number(text: bytes) -> int:
    value = _value(text).encode()
    if not value.isdigit():
        _refused(text)
    return _integer(value)


def _ok(text: bytes) -> None:
    if not _OK.fullmatch(text):
        _refused(text)


# Commands.

STATUS: Final = Command(b"status", _status)
PRIORITY_STATUS: Final = Command(b"prioritystatus", _priority_status)
WORKERS: Final = Command(b"workers", _workers)
JOBS: Final = Command(b"show jobs", _jobs)
UNIQUE_JOBS: Final = Command(b"show unique jobs", _unique_jobs)
"""The uniques of all jobs; empty for a job without one. A unique with a newline in it appears as two."""
VERSION: Final = Command(b"version", _value)
PID: Final = Command(b"getpid", _number)
VERBOSITY: Final = Command(b"verbose", _value)


def max_queue(function: bytes, limits: Iterable[int]) -> Command[None]:
    """Make the command that limits the queues of a function.

    :param function: the name with its prefix.
    :param limits: for HIGH, NORMAL and LOW.
    """
    numbers = b" ".join(b"%d" % limit for limit in limits)
    return Command(b"maxqueue %b %b" % (_word("function", function_bytes(function)), numbers), _ok)


def create_function(function: bytes) -> Command[None]:
    """Make the command that creates a function.

    :param function: the name with its prefix.
    """
    return Command(b"create function " + _word("function", function_bytes(function)), _ok)


def drop_function(function: bytes) -> Command[None]:
    """Make the command that deletes a function.

    :param function: the name with its prefix.
    """
    return Command(b"drop function " + _word("function", function_bytes(function)), _ok)


def cancel_job(handle: bytes) -> Command[None]:
    """Make the command that drops a job.

    :param handle: the handle, as the server sent it.
    """
    word = _word("handle", name_bytes("handle", handle, MAX_HANDLE))
    if not word:
        raise ValueError("handle must not be empty")
    return Command(b"cancel job " + word, _ok)


def shutdown(*, graceful: bool) -> Command[None]:
    """Make the command that shuts a server down.

    :param graceful: whether running jobs may finish first.
    """
    return Command(b"shutdown graceful" if graceful else b"shutdown", _ok, is_last=True)


def _word(what: str, value: bytes) -> bytes:
    """Check that a value reaches the server as one word.

    So no line is too long for a server, nor has too many words: in both cases it would close the connection
    (docs/gearman.md §11).
    """
    if any(character in value for character in b" \r\n"):
        raise ValueError(f"{what} must be without space and end of line in a command, not {quoted(value)}")
    return value
