"""Text of others in log events and errors: no control character in it, no end of line, no change of direction."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from txgearman import (
    GearmanAdmin,
    GearmanClient,
    GearmanError,
    GearmanWorker,
    JobFailed,
    JobHandle,
    NoServersAvailable,
    ProtocolError,
    RequestUnsupported,
    ServerError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TLSError,
    UnknownFunction,
)
from txgearman.admin import commands
from txgearman.client.task import Task
from txgearman.packets import ERROR, JOB_ASSIGN_ALL, NO_JOB
from txgearman.testing import MemoryJobServer
from txgearman.validation import escape_backslashes, printable_name, printable_text, short_text

from .examples import ANY_TEXT
from .wire import MemoryEndpoint, answer, outcome

HOSTILE: Final = "\x1b]0;x\x07\r\nforged\x7f\x9b1m\u202e\u2028"
SHOWN: Final = "\\x1b]0;x\\x07\\r\\nforged\\x7f\\u009b1m\\u202e\\u2028"
DATA: Final = HOSTILE.encode()


@given(st.one_of(ANY_TEXT, st.binary()))
def test_text_is_printable_whatever_it_was(text: str | bytes) -> None:
    assert printable_text(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [(HOSTILE, SHOWN), (DATA, SHOWN), ("größe 日本", "größe 日本"), ("größe".encode(), "größe"), (b"\xff", "\\xff")],
)
def test_unprintable_characters_are_shown_as_escapes(text: str | bytes, shown: str) -> None:
    assert printable_text(text) == shown


@given(st.one_of(ANY_TEXT, st.binary()))
def test_printable_text_leaves_its_own_result_unchanged(text: str | bytes) -> None:
    assert printable_text(printable_text(text)) == printable_text(text)


AMBIGUOUS: Final = st.lists(
    st.sampled_from([b"\xff", b"\\", b"\\xff", b"x", b"ff", b"\x9b", b"\xc2\x9b", b"\\x9b"])
).map(b"".join)
"""Names of which `printable_text` makes one."""


@given(st.one_of(AMBIGUOUS, st.binary()), st.one_of(AMBIGUOUS, st.binary()))
def test_different_names_are_shown_differently(name: bytes, other: bytes) -> None:
    is_same = name == other
    assert (printable_name(name) == printable_name(other)) is is_same
    assert (escape_backslashes(name) == escape_backslashes(other)) is is_same


@given(st.one_of(ANY_TEXT, st.binary()))
def test_name_is_printable_whatever_it_was(name: str | bytes) -> None:
    assert printable_name(name).isprintable()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\xff", "\\xff"),
        (b"\\xff", "\\\\xff"),
        (b"\x9b", "\\x9b"),
        ("\x9b".encode(), "\\u009b"),
        ("pre\tf", "pre\\tf"),
        ("C:\\temp", "C:\\\\temp"),
        ("größe".encode(), "größe"),
    ],
)
def test_name_is_shown_with_escapes_and_double_backslashes(name: str | bytes, shown: str) -> None:
    assert printable_name(name) == shown


def task() -> Task:
    return Task(HOSTILE)


def lost() -> TaskLost:
    error = TaskLost(task(), acknowledged=True)
    error.__cause__ = ConnectionError(HOSTILE)
    return error


ERRORS: Final[dict[str, Callable[[], GearmanError]]] = {
    "ProtocolError": lambda: ProtocolError(HOSTILE),
    "ServerError, its code": lambda: ServerError(HOSTILE, ""),
    "ServerError, its text": lambda: ServerError("CODE", HOSTILE),
    "RequestUnsupported": lambda: RequestUnsupported(HOSTILE),
    "UnknownFunction": lambda: UnknownFunction(HOSTILE),
    "TLSError": lambda: TLSError(HOSTILE),
    "NoServersAvailable, an error of ours": lambda: NoServersAvailable({"a": ServerError("CODE", HOSTILE)}),
    "NoServersAvailable, any other": lambda: NoServersAvailable({"a": ValueError(HOSTILE)}),
    "JobFailed": lambda: JobFailed(HOSTILE),
    "TaskFailed, the function's name": lambda: TaskFailed(task()),
    "TaskException, its data": lambda: TaskException(Task("f"), DATA),
    "TaskRejected, its code": lambda: TaskRejected(Task("f"), HOSTILE, ""),
    "TaskRejected, its text": lambda: TaskRejected(Task("f"), "CODE", HOSTILE),
    "TaskLost, its cause": lost,
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_hostile_text_in_an_error_is_shown_printable(error: Callable[[], GearmanError]) -> None:
    assert SHOWN in str(error())
    assert str(error()).isprintable()


def test_attributes_keep_what_was_received() -> None:
    refused = ServerError(HOSTILE, HOSTILE)
    rejected = TaskRejected(task(), HOSTILE, HOSTILE)
    assert TaskException(task(), DATA).data == DATA
    assert (refused.code, refused.text, rejected.code, rejected.text) == (HOSTILE,) * 4
    assert rejected.task.function == HOSTILE


def test_handle_is_shown_printable() -> None:
    assert str(JobHandle("a:1", DATA)).isprintable()


@pytest.mark.parametrize(
    "answer",
    [DATA, DATA + b"\n.\n", b"ERR " + DATA.replace(b"\r\n", b"") + b"\n", b"OK " + DATA, b"9 a " + DATA + b"\n.\n"],
)
@pytest.mark.parametrize(
    "command", [commands.STATUS, commands.WORKERS, commands.JOBS, commands.PID, commands.create_function(b"f")]
)
def test_lines_of_a_server_are_shown_printable(command: commands.Command[Any], answer: bytes) -> None:
    with pytest.raises(GearmanError) as error:
        command.parse(answer)
    assert str(error.value).isprintable()


# Lengths.


LONG: Final = "x\x1b" * 10_000_000
LONGEST: Final = 1024

LONG_ERRORS: Final[dict[str, Callable[[], GearmanError]]] = {
    "ProtocolError": lambda: ProtocolError(LONG),
    "ServerError, its code": lambda: ServerError(LONG, ""),
    "NoServersAvailable": lambda: NoServersAvailable({"a": ValueError(LONG)}),
    "JobFailed": lambda: JobFailed(LONG),
    "TaskException, its data": lambda: TaskException(Task("f"), LONG.encode()),
    "TaskRejected, its text": lambda: TaskRejected(Task("f"), "CODE", LONG),
}


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("error", LONG_ERRORS.values(), ids=LONG_ERRORS)
def test_long_text_in_an_error_is_cut_and_says_by_how_much(error: Callable[[], GearmanError]) -> None:
    text = str(error())
    assert len(text) <= LONGEST
    assert re.fullmatch(r".*\.\.\. \([\d,]+ more (bytes|characters)\)", text)
    assert text.isprintable()


@given(st.one_of(ANY_TEXT, st.binary()), st.integers(41, 200))
def test_text_is_cut_to_the_limit_and_says_by_how_much(text: str | bytes, limit: int) -> None:
    """Nothing is cut that fits; what is kept and what was cut make the text."""
    text *= 20
    shown = short_text(text, limit)
    assert len(shown) <= limit
    match = re.fullmatch(r"(.*)\.\.\. \(([\d,]+) more (bytes|characters)\)", shown)
    if match is None:
        assert shown == printable_text(text)
    else:
        assert match[1] == printable_text(text[: len(text) - int(match[2].replace(",", ""))])
        assert (match[3] == "bytes") == isinstance(text, bytes)


@pytest.mark.guarantee(number=14)
def test_text_of_an_error_packet_is_cut_as_it_is_received() -> None:
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    client = GearmanClient([endpoint], reactor=clock)
    refused = outcome(client.add_task("f"))
    endpoint.server.send(ERROR.response(b"CODE", b"t" * 20_000_000))
    assert refused[0].code == "CODE"
    assert len(refused[0].text) <= LONGEST
    assert refused[0].text.endswith("t... (19,999,016 more bytes)")
    outcome(client.stopService())
    clock.advance(5)


@pytest.mark.guarantee(number=14)
def test_text_of_an_err_line_is_cut_as_it_is_received() -> None:
    with pytest.raises(ServerError) as error:
        commands.create_function(b"f").parse(b"ERR CODE " + b"t" * 20_000_000 + b"\r\n")
    assert error.value.code == "CODE"
    assert len(error.value.text) <= LONGEST


# Log events.


@implementer(ILogObserver)
class LogTexts:
    """Observer that keeps the texts of events."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.texts.append(formatEvent(event))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The text of what is logged."""
    observer = LogTexts()
    globalLogPublisher.addObserver(observer)
    yield observer.texts
    globalLogPublisher.removeObserver(observer)


def test_lost_connection_is_logged_printable(logged: list[str]) -> None:
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    admin = GearmanAdmin([endpoint], reactor=clock)
    admin.startService()
    endpoint.server.send(DATA)
    assert [text for text in logged if text.startswith("lost the connection")]
    assert all(map(str.isprintable, logged))
    outcome(admin.stopService())
    clock.advance(5)


def test_job_that_fails_is_logged_printable(logged: list[str]) -> None:
    server = MemoryJobServer()
    client, worker = server.client(), server.worker()

    def function(job: Any) -> None:
        raise JobFailed(job.workload.decode())

    worker.register_function(HOSTILE, function)
    worker.startService()
    failed = outcome(client.add_task(HOSTILE, DATA))
    server.advance(1)
    assert isinstance(failed[0], TaskFailed)
    assert [text for text in logged if text.startswith(SHOWN) and text.endswith(SHOWN)]
    assert all(map(str.isprintable, logged))
    server.close()


@pytest.mark.guarantee(number=14)
def test_log_event_of_a_long_failure_is_short(logged: list[str]) -> None:
    """The function's name, the handle and the reason are cut, each by itself."""
    server = MemoryJobServer(job_handle_prefix="h" * 40)
    client, worker = server.client(), server.worker()

    def function(job: Any) -> None:
        raise JobFailed(job.workload.decode())

    worker.register_function("f" * 8000, function)
    worker.startService()
    failed = outcome(client.add_task("f" * 8000, b"w" * 100_000, retries=1))
    server.advance(10)
    assert isinstance(failed[0], TaskFailed)
    assert [text for text in logged if "retrying" in text]
    assert [text for text in logged if "wwww... (" in text]
    assert max(map(len, logged)) <= LONGEST
    server.close()


@pytest.mark.guarantee(number=14)
def test_log_event_of_a_function_that_is_not_registered_is_short(logged: list[str]) -> None:
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    endpoint.answers_opening = False
    worker = GearmanWorker([endpoint], reactor=clock)
    worker.register_function("f", lambda job: b"")
    worker.startService()
    server = endpoint.server
    server.send(NO_JOB.response(), answer(server.received()[-1]))
    server.send(JOB_ASSIGN_ALL.response(b"H:1", b"g" * 8191, b"", b"", b""))
    (text,) = [text for text in logged if "not registered" in text]
    assert len(text) <= LONGEST
    outcome(worker.stopService())
    clock.advance(5)
