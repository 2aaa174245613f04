"""The text protocol's lines and parsers: what servers were measured to print, and names of any bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txgearman import FunctionStatus, JobInfo, PriorityStatus, ProtocolError, ServerError, WorkerInfo
from txgearman.admin import commands as text
from txgearman.validation import MAX_FUNCTION, MAX_HANDLE

LISTS: Final[list[text.Command[Any]]] = [text.STATUS, text.PRIORITY_STATUS, text.WORKERS, text.JOBS, text.UNIQUE_JOBS]
VALUES: Final[list[text.Command[Any]]] = [text.VERSION, text.PID, text.VERBOSITY]
DEEDS: Final[list[text.Command[Any]]] = [
    text.max_queue(b"f", [1, 2, 3]),
    text.create_function(b"f"),
    text.drop_function(b"f"),
    text.cancel_job(b"H:vm:1"),
    text.shutdown(graceful=False),
]
EVERYTHING: Final[list[text.Command[Any]]] = [*LISTS, *VALUES, *DEEDS]


def label(value: object) -> str:
    """A name for a case, the same in each process."""
    return repr(value.line) if isinstance(value, text.Command) else repr(value)


def by_line(command: Any) -> str:
    return str(command.line.decode())


@pytest.mark.parametrize(
    ("command", "answer", "result"),
    [
        (text.STATUS, b"f\t3\t1\t1\n.\n", (FunctionStatus(b"f", 3, 1, 1),)),
        (
            text.STATUS,
            b"p\tf\t0\t0\t0\ng\t1\t0\t0\n.\n",
            (FunctionStatus(b"p\tf", 0, 0, 0), FunctionStatus(b"g", 1, 0, 0)),
        ),
        (text.STATUS, b"a\nb\t1\t0\t0\n.\n", (FunctionStatus(b"a\nb", 1, 0, 0),)),
        (text.STATUS, b"\t1\t0\t0\n.\n", (FunctionStatus(b"", 1, 0, 0),)),
        (text.STATUS, b"7\t8\t9\t1\t0\t0\n.\n", (FunctionStatus(b"7\t8\t9", 1, 0, 0),)),
        (text.STATUS, b"\n.\n\t1\t0\t0\n.\n", (FunctionStatus(b"\n.\n", 1, 0, 0),)),
        (text.STATUS, b"ERR no\t1\t0\t0\n.\n", (FunctionStatus(b"ERR no", 1, 0, 0),)),
        (text.STATUS, b"\xff\xfe\t1\t0\t0\r\n.\r\n", (FunctionStatus(b"\xff\xfe", 1, 0, 0),)),
        (text.PRIORITY_STATUS, b"f\t0\t1\t2\t3\n.\n", (PriorityStatus(b"f", 0, 1, 2, 3),)),
        (
            text.WORKERS,
            b"37 127.0.0.1 wid with space : tab\tfn g f\n.\n",
            (WorkerInfo(37, "127.0.0.1", b"wid with space", (b"tab\tfn", b"g", b"f")),),
        ),
        (text.WORKERS, b"36 127.0.0.1 me :\n.\n", (WorkerInfo(36, "127.0.0.1", b"me", ()),)),
        (text.WORKERS, b"38 127.0.0.1  :\n.\n", (WorkerInfo(38, "127.0.0.1", b"", ()),)),
        (text.WORKERS, b"38 127.0.0.1  : f\n.\n", (WorkerInfo(38, "127.0.0.1", b"", (b"f",)),)),
        (text.WORKERS, b"9 127.0.0.1 me : \n.\n", (WorkerInfo(9, "127.0.0.1", b"me", ()),)),
        (text.WORKERS, b"9 127.0.0.1 a : b : f\n.\n", (WorkerInfo(9, "127.0.0.1", b"a : b", (b"f",)),)),
        (
            text.WORKERS,
            b"38 ::3534:3037:3000:0%1097279616 - :\n.\n",
            (WorkerInfo(38, "::3534:3037:3000:0%1097279616", b"-", ()),),
        ),
        (text.WORKERS, b"9 1.2.3.4 two\nlines : f\n.\n", (WorkerInfo(9, "1.2.3.4", b"two\nlines", (b"f",)),)),
        (text.WORKERS, b"9 \xff me : f\r\n.\r\n", (WorkerInfo(9, "\\xff", b"me", (b"f",)),)),
        (text.JOBS, b"H:vm:1\t0\t1\t0\n.\n", (JobInfo(b"H:vm:1", 0, True, False),)),
        (text.JOBS, b"H:a\tb:2\t3\t0\t1\n.\n", (JobInfo(b"H:a\tb:2", 3, False, True),)),
        (text.UNIQUE_JOBS, b"uniq1\n\n.\n", (b"uniq1", b"")),
        (text.UNIQUE_JOBS, b"u\n.\naaa\n.\n", (b"u", b".", b"aaa")),
        (text.UNIQUE_JOBS, b"u\r\n.\n", (b"u\r",)),
        (text.VERSION, b"OK 1.1.20+ds\n", "1.1.20+ds"),
        (text.VERSION, b"v1.130.1\n", "v1.130.1"),
        (text.PID, b"OK 4240\n", 4240),
        (text.VERBOSITY, b"OK ERROR\n", "ERROR"),
        (text.VERBOSITY, b"OK ERR\xff\r\n", "ERR\\xff"),
    ],
    ids=label,
)
def test_answers_of_servers_are_parsed(command: text.Command[Any], answer: bytes, result: object) -> None:
    assert command.parse(answer) == result


@pytest.mark.parametrize("command", LISTS, ids=by_line)
@pytest.mark.parametrize("answer", [b".\n", b".\r\n"])
def test_empty_list(command: text.Command[Any], answer: bytes) -> None:
    assert command.parse(answer) == ()


@pytest.mark.parametrize("command", DEEDS, ids=by_line)
@pytest.mark.parametrize("answer", [b"OK\r\n", b"OK\n", b"OK \r\n"])
def test_ok(command: text.Command[Any], answer: bytes) -> None:
    assert command.parse(answer) is None


@pytest.mark.parametrize("command", EVERYTHING, ids=by_line)
@pytest.mark.parametrize(
    ("answer", "code", "explanation"),
    [
        (b"ERR UNKNOWN_JOB\r\n", "UNKNOWN_JOB", ""),
        (b"ERR UNKNOWN_JOB\n", "UNKNOWN_JOB", ""),
        (b"ERR UNKNOWN_COMMAND Unknown+server+commandshow\r\n", "UNKNOWN_COMMAND", "Unknown server commandshow"),
        (b"ERR unknown_command \r\n", "unknown_command", ""),
        (b"ERR function not found\r\n", "ERR", "function not found"),
        (b"ERR\n", "ERR", ""),
    ],
)
def test_refusal_is_a_server_error(command: text.Command[Any], answer: bytes, code: str, explanation: str) -> None:
    with pytest.raises(ServerError) as refusal:
        command.parse(answer)
    assert (refusal.value.code, refusal.value.text) == (code, explanation)


@pytest.mark.parametrize("command", EVERYTHING, ids=by_line)
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"OK", b"ERR UNKNOWN", b"ERR a\nERR b\n", b"\n"]
)
def test_text_that_is_no_answer_is_a_protocol_error(command: text.Command[Any], answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        command.parse(answer)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (text.STATUS, b"f\n.\n"),
        (text.STATUS, b"f\t1\t-1\t0\n.\n"),
        (text.PRIORITY_STATUS, b"f\t1\t1\t1\n.\n"),
        (text.WORKERS, b"me\n.\n"),
        (text.WORKERS, b"9 1.2.3.4 me\n.\n"),
        (text.PID, b"OK many\n"),
        (text.create_function(b"f"), b"OK 1\n"),
    ],
)
def test_row_that_can_not_be_parsed_is_a_protocol_error(command: text.Command[Any], answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        command.parse(answer)


class UnjoinedLine(bytes):
    """A line that is never the operand of a concatenation: one after the other, they would copy quadratically."""

    def __add__(self, other: object) -> bytes:
        raise AssertionError

    __radd__ = __add__


def test_workers_with_newlines_in_names_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [UnjoinedLine(line) for line in [b"9 1.2.3.4 me : f", *[b"x"] * 1_000]]
    monkeypatch.setattr(text, "_lines", lambda _: lines)
    [worker] = text.WORKERS.parse(b"")
    assert worker.functions == (b"f" + b"\nx" * 1_000,)


@pytest.mark.parametrize("command", EVERYTHING, ids=by_line)
@pytest.mark.parametrize("end", [b"x", b"x\n", b"\n"])
def test_spaces_in_an_error_are_read_in_linear_time(command: text.Command[Any], end: bytes) -> None:
    """With a pattern that tries each length, so many of them would take minutes."""
    with pytest.raises((ServerError, ProtocolError)):
        command.parse(b"ERR a" + b" " * 100_000 + end)


NUMBERS: Final[list[tuple[text.Command[Any], bytes]]] = [
    (text.STATUS, b"f\t%b\t0\t0\n.\n"),
    (text.STATUS, b"f\t1\t0\t%b\ng\t1\t0\t0\n.\n"),
    (text.PRIORITY_STATUS, b"f\t1\t%b\t0\t0\n.\n"),
    (text.JOBS, b"H:vm:1\t%b\t0\t0\n.\n"),
    (text.WORKERS, b"9 1.2.3.4 me :\n%b 1.2.3.4 me :\n.\n"),
    (text.PID, b"OK %b\n"),
]


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(("command", "answer"), NUMBERS, ids=label)
@pytest.mark.parametrize("digits", [21, 4_300, 5_000, 1_000_000])
def test_number_of_too_many_digits_is_a_protocol_error(command: text.Command[Any], answer: bytes, digits: int) -> None:
    """Python's `int` raises ValueError for more than 4,300 of them."""
    with pytest.raises(ProtocolError, match=f"number of {digits} digits") as error:
        command.parse(answer % (b"9" * digits))
    assert len(str(error.value)) < 100


@pytest.mark.parametrize(("command", "answer"), NUMBERS, ids=label)
def test_number_of_64_bits_is_parsed(command: text.Command[Any], answer: bytes) -> None:
    assert str(2**64 - 1) in repr(command.parse(answer % b"%d" % (2**64 - 1)))


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "error", [ValueError("no"), RecursionError(), AssertionError(), UnicodeDecodeError("x", b"", 0, 1, "")]
)
def test_whatever_a_parser_raises_is_a_protocol_error(error: Exception) -> None:
    def parser(text: bytes) -> None:
        raise error

    with pytest.raises(ProtocolError, match="can not be parsed: 'what'") as raised:
        text.Command(b"status", parser).parse(b"what")
    assert raised.value.__cause__ is error


@pytest.mark.guarantee(number=14)
@given(st.binary())
def test_any_bytes_are_an_answer_or_a_typed_error(answer: bytes) -> None:
    for command in EVERYTHING:
        with suppress(ProtocolError, ServerError):
            command.parse(answer)


names = st.binary(min_size=1).filter(lambda name: b"\0" not in name)
numbers = st.integers(0, 2**32 - 1)


def reads_back(rows: list[tuple[Any, ...]]) -> bool:
    """Whether no name holds what looks like the end of a row."""
    return all(b"\n" not in row[0] for row in rows)


@pytest.mark.guarantee(number=15)
@given(st.lists(st.tuples(names, numbers, numbers, numbers)).filter(reads_back))
def test_rows_are_parsed_as_printed(rows: list[tuple[bytes, int, int, int]]) -> None:
    """Whatever TABs, spaces and carriage returns the names have."""
    answer = b"".join(b"%b\t%d\t%d\t%d\n" % row for row in rows) + b".\n"
    assert text.STATUS.parse(answer) == tuple(FunctionStatus(*row) for row in rows)


lines = st.text("ab \t\n.").map(str.encode)


@pytest.mark.guarantee(number=15)
@given(st.lists(st.tuples(lines, numbers, numbers, numbers), max_size=5))
def test_names_with_newlines_are_parsed_as_printed(rows: list[tuple[bytes, int, int, int]]) -> None:
    """No line of these names looks like the end of a row, as they have no digits."""
    answer = b"".join(b"%b\t%d\t%d\t%d\n" % row for row in rows) + b".\n"
    assert text.STATUS.parse(answer) == tuple(FunctionStatus(*row) for row in rows)


words = st.binary(min_size=1).filter(lambda word: not set(word) & set(b"\0 \n\r:"))
ids = st.lists(words | st.just(b":"), max_size=4).map(b" ".join)
workers = st.tuples(numbers, st.ip_addresses(v=4).map(str), ids, st.lists(words))


@pytest.mark.guarantee(number=15)
@given(st.lists(workers))
def test_workers_are_parsed_as_printed(rows: list[tuple[int, str, bytes, list[bytes]]]) -> None:
    """Ids with spaces and colons, functions with TABs."""
    answer = b"".join(
        b"%d %b %b :%b\n" % (number, address.encode(), client_id, b"".join(b" " + name for name in functions))
        for number, address, client_id, functions in rows
    )
    expected = tuple(WorkerInfo(number, address, client_id, tuple(names)) for number, address, client_id, names in rows)
    assert text.WORKERS.parse(answer + b".\n") == expected


@pytest.mark.parametrize(
    ("function", "prefix", "name"),
    [(b"f", b"", b"f"), (b"p\tf", b"p", b"f"), (b"p\tf\tg", b"p", b"f\tg"), (b"\tf", b"", b"f"), (b"p\t", b"p", b"")],
)
def test_prefix_of_a_name(function: bytes, prefix: bytes, name: bytes) -> None:
    for record in (FunctionStatus(function, 3, 1, 0), PriorityStatus(function, 0, 0, 0, 0)):
        assert (record.prefix, record.name) == (prefix, name)


def test_queued_jobs_are_those_that_do_not_run() -> None:
    assert FunctionStatus(b"f", 3, 1, 1).queued == 2


def test_lines_of_commands() -> None:
    assert [command.line for command in EVERYTHING] == [
        b"status",
        b"prioritystatus",
        b"workers",
        b"show jobs",
        b"show unique jobs",
        b"version",
        b"getpid",
        b"verbose",
        b"maxqueue f 1 2 3",
        b"create function f",
        b"drop function f",
        b"cancel job H:vm:1",
        b"shutdown",
    ]
    assert text.shutdown(graceful=True).line == b"shutdown graceful"
    assert [command.line for command in [*EVERYTHING, text.shutdown(graceful=True)] if command.is_last] == [
        b"shutdown",
        b"shutdown graceful",
    ]


def test_name_can_have_a_prefix_and_any_letters() -> None:
    name = "päfix\tfünction\v\f".encode() + b"\xff"
    assert text.create_function(name).line == b"create function " + name


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("name", [b"", b"a b", b"a\nb", b"a\rb", b"a\0b", b" ", b"x" * (MAX_FUNCTION + 1)])
def test_value_that_is_not_one_word_is_refused(name: bytes) -> None:
    """It would be another command, or close the connection."""
    for make in (text.create_function, text.drop_function, lambda name: text.max_queue(name, [1, 1, 1])):
        with pytest.raises(ValueError, match=r"^function "):
            make(name)
    with pytest.raises(ValueError, match=r"^handle "):
        text.cancel_job(name)


@pytest.mark.guarantee(number=8)
def test_no_line_is_too_long_for_a_server() -> None:
    """They close the connection at 8192 bytes, and at six words."""
    longest = text.max_queue(b"x" * MAX_FUNCTION, [text.MAX_QUEUE] * 3).line
    assert len(longest) < 8192
    assert len(longest.split()) <= 5
    assert len(text.cancel_job(b"x" * MAX_HANDLE).line) < 8192
