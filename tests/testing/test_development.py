"""The log of the job server for development, and how it handles SIGHUP."""

from __future__ import annotations

import io
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from txgearman.packets import (
    CAN_DO,
    ECHO_REQ,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    JOB_CREATED,
    OPTION_REQ,
    REQ,
    SUBMIT_JOB,
    SUBMIT_JOB_EPOCH,
    WORK_STATUS,
)
from txgearman.testing import MemoryJobServer
from txgearman.testing.development import DevelopmentLog, LogFile, hangups_handled, log_traffic

from ..watched_log import WatchedLog
from .peer import ask, connect

reactor: Any = global_reactor

INFO, WARN, DEBUG = LogLevel.info, LogLevel.warn, LogLevel.debug


def logged(server: MemoryJobServer, *requests: bytes) -> list[tuple[Any, str]]:
    """Return the level and text of what is logged for the requests of one connection, between its begin and end."""
    log_traffic(server)
    with WatchedLog() as log:
        peer = connect(server)
        ask(server, peer, *requests)
        peer.transport.loseConnection()
        server.advance()
    events = [(event["log_level"], text) for event, text in zip(log.events, log.texts(), strict=True)]
    assert events[0] == (INFO, "Connection 1 -- connected")
    assert events[-1] == (INFO, "Connection 1 -- disconnected")
    return events[1:-1]


def test_requests_are_info_and_answers_are_for_debugging(server: MemoryJobServer) -> None:
    assert logged(server, SUBMIT_JOB.request(b"{f}", b"", b"\x1b[0m"), b"version\n") == [
        (INFO, r"Connection 1 -> SUBMIT_JOB '{f}' '' '\x1b[0m'"),
        (DEBUG, "Connection 1 <- JOB_CREATED 'H:memory:1'"),
        (INFO, r"Connection 1 -> 'version\n'"),
        (DEBUG, r"Connection 1 <- 'OK 1.1.20-txgearman\n'"),
    ]


def test_errors_in_answers_are_info(server: MemoryJobServer) -> None:
    assert logged(server, OPTION_REQ.request(b"speed"), b"GET / HTTP/1.0\n") == [
        (INFO, "Connection 1 -> OPTION_REQ 'speed'"),
        (INFO, "Connection 1 <- ERROR 'UNKNOWN_OPTION' 'Server does not recognize given option'"),
        (INFO, r"Connection 1 -> 'GET / HTTP/1.0\n'"),
        (INFO, r"Connection 1 <- 'ERR UNKNOWN_COMMAND Unknown+server+commandGET\r\n'"),
    ]


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (b"\0XYZ" + bytes(8), r"a packet begins with '\x00XYZ', not with '\x00REQ'"),
        (REQ + b"\0\0\x10\0" + bytes(4), "there is no packet type 4096"),
        (REQ + b"\0\0\0\7\0\0\0\3f\0u", "SUBMIT_JOB must have 3 arguments"),
        (SUBMIT_JOB.request(b"f" * 8192, b"", b""), "an argument of SUBMIT_JOB is too long"),
        (b"a" * 8192, "a line has more than 8,191 bytes"),
        (b"maxqueue f 1 2 3 4\n", "a line has more than 4 words after the command"),
        (
            CAN_DO.request(b"f" * 8170) + SUBMIT_JOB.request(b"f" * 8170, b"", b"") + GRAB_JOB.request(),
            "the names in the job take more than 8,192 bytes",
        ),
    ],
    ids=["magic", "type", "arguments", "argument", "line", "words", "assignment"],
)
def test_reason_for_closed_connection_is_warning(server: MemoryJobServer, request_bytes: bytes, reason: str) -> None:
    """It is the last thing that is logged of the connection."""
    assert logged(server, request_bytes)[-1] == (WARN, f"Connection 1 !! closes the connection: {reason}")


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (GET_STATUS.request(b"h" * 64), "the handle has more than 63 bytes"),
        (GET_STATUS_UNIQUE.request(b"u" * 64), "the unique has more than 63 bytes"),
        (SUBMIT_JOB_EPOCH.request(b"f", b"", b"1" * 20, b""), "the time has more than 64 bits"),
    ],
    ids=["handle", "unique", "time"],
)
def test_reason_for_missing_answer_is_warning(server: MemoryJobServer, request_bytes: bytes, reason: str) -> None:
    events = logged(server, request_bytes, ECHO_REQ.request(b""))
    assert events[1] == (WARN, f"Connection 1 !! leaves the request unanswered: {reason}")
    assert events[2] == (INFO, "Connection 1 -> ECHO_REQ ''")


def test_ignored_progress_is_warning(server: MemoryJobServer) -> None:
    requests = [CAN_DO.request(b"f"), SUBMIT_JOB.request(b"f", b"", b""), GRAB_JOB.request()]
    events = logged(server, *requests, WORK_STATUS.request(b"H:memory:1", b"1", b"9" * 12))
    text = "Connection 1 !! leaves the request unanswered: the denominator has more than 11 characters"
    assert events[-1] == (WARN, text)


def test_unfinished_request_is_warning(server: MemoryJobServer) -> None:
    assert logged(server, b"version") == [(WARN, "Connection 1 !! discards 7 bytes of an unfinished request")]


def test_log_of_server_has_refusals(server: MemoryJobServer) -> None:
    ask(server, connect(server), b"\0XYZ" + bytes(8))
    assert r"  1 !! closes the connection: a packet begins with '\x00XYZ', not with '\x00REQ'" in server.log()


def test_response_to_server_is_answered_with_error(server: MemoryJobServer) -> None:
    assert logged(server, JOB_CREATED.response(b"H:x:1")) == [
        (INFO, "Connection 1 <- ERROR 'INVALID_MAGIC' 'Request magic expected'")
    ]


# What is written.

ours, others = Logger("txgearman.testing.x"), Logger("other")


@pytest.mark.parametrize(
    ("verbosity", "lines"),
    [
        (0, ["warn: ours", "warn: others"]),
        (1, ["info: ours", "warn: ours", "warn: others"]),
        (3, ["debug: ours", "info: ours", "warn: ours", "warn: others"]),
    ],
)
def test_verbosity_selects_levels(verbosity: int, lines: list[str]) -> None:
    stream = io.StringIO()
    log = DevelopmentLog(stream, verbosity, lambda event: f"{event['log_level'].name}: ")
    globalLogPublisher.addObserver(log)
    for level in (DEBUG, INFO, WARN):
        ours.emit(level, "ours")
        others.emit(level, "others")
    globalLogPublisher.removeObserver(log)
    assert stream.getvalue().splitlines() == lines


def test_failure_is_written_in_one_line() -> None:
    stream = io.StringIO()
    log = DevelopmentLog(stream, 0, lambda _: "")
    event = {"log_namespace": "twisted", "log_level": LogLevel.critical, "log_format": "broken"}
    log({**event, "log_failure": Failure(ZeroDivisionError("by zero"))})
    assert stream.getvalue() == "broken: by zero\n"


def test_log_file_is_appended_to_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with LogFile(str(path), 0):
        ours.warn("within")
    ours.warn("after")
    assert re.fullmatch(r"before\n\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} warn: within\n", path.read_text())


# SIGHUP.


async def hang_up(log: str, times: int = 1) -> None:
    """Send SIGHUP to this process, and wait until the log has a line for it."""
    with WatchedLog() as watched:
        signal.raise_signal(signal.SIGHUP)
        while log not in watched.texts():
            await deferLater(reactor, 0.001)


async def test_hangup_reopens_log_file(tmp_path: Path) -> None:
    path, renamed = tmp_path / "log", tmp_path / "log.1"
    log = LogFile(str(path), 1)
    with log, hangups_handled(reactor, log):
        ours.warn("first")
        path.rename(renamed)
        await hang_up("SIGHUP received: reopening the log file")
        ours.warn("second")
    texts = [[line.split(": ", 1)[1] for line in each.read_text().splitlines()] for each in (renamed, path)]
    assert texts == [["first", "SIGHUP received: reopening the log file"], ["second"]]


async def test_log_goes_on_in_old_file_if_new_one_fails(tmp_path: Path) -> None:
    path, renamed = tmp_path / "log", tmp_path / "log.1"
    log = LogFile(str(path), 0)
    with log, hangups_handled(reactor, log):
        path.rename(renamed)
        path.mkdir()
        with WatchedLog() as watched:
            signal.raise_signal(signal.SIGHUP)
            while len(watched.events) < 2:
                await deferLater(reactor, 0.001)
        ours.warn("further")
    first, second = [line.split(": ", 1)[1] for line in renamed.read_text().splitlines()]
    assert first.startswith("The log file was not reopened: [Errno 21] Is a directory")
    assert second == "further"


async def test_hangup_without_log_file_is_logged_and_ends_nothing() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with hangups_handled(reactor, None):
        await hang_up("SIGHUP received")
    assert signal.getsignal(signal.SIGHUP) is before


def test_system_without_hangups(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows is."""
    before = signal.getsignal(signal.SIGHUP)
    number = signal.SIGHUP
    monkeypatch.delattr(signal, "SIGHUP")
    with hangups_handled(reactor, None):
        assert signal.getsignal(number) is before
