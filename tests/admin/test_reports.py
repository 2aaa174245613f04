"""What servers report for monitoring: each with a deadline of its own."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from txgearman.admin.commands import VERSION as VERSION_COMMAND
from txgearman.admin.commands import FunctionStatus, PriorityStatus
from txgearman.admin.reports import ServerReport, query_reports, query_server, query_within
from txgearman.errors import ClientStopped, NoServersAvailable
from txgearman.packets import GET_STATUS
from txgearman.testing import MemoryJobServer

from ..wire import outcome

FUNCTIONS = {b"f": FunctionStatus(b"f", 1, 0, 0)}
QUEUES = {b"f": PriorityStatus(b"f", 0, 1, 0, 0)}
VERSION = "1.1.20-txgearman"


@pytest.fixture
def server() -> MemoryJobServer:
    """A server with a job of the function f."""
    server = MemoryJobServer()
    server.client().add_task_bg("f")
    assert server.queued("f") == [b""]
    return server


def test_report_has_functions_queues_and_version(server: MemoryJobServer) -> None:
    report = server.result_of(query_reports(server.admin(), 5))
    assert report == [ServerReport("memory:1", FUNCTIONS, QUEUES, VERSION)]


@pytest.mark.guarantee(number=10)
def test_server_that_hangs_delays_the_report_of_no_other_beyond_the_deadline(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    admin = server.admin(other)
    other.fall_silent()
    reports = outcome(query_reports(admin, 5))
    server.advance(4.9)
    assert reports == []
    server.advance(0.1)
    ((first, second),) = reports
    assert first == ServerReport("memory:1", FUNCTIONS, QUEUES, VERSION)
    assert isinstance(second.error, NoServersAvailable)
    assert str(second.error) == "memory:2: no answer within 5 s"
    assert second == ServerReport("memory:2", error=second.error)


def test_server_that_is_down_is_reported_at_once_and_again_when_it_is_up(server: MemoryJobServer) -> None:
    admin = server.admin()
    with server.go_down():
        (report,) = server.result_of(query_reports(admin, 5))
        assert isinstance(report.error, NoServersAvailable)
    server.reconnect()
    (report,) = server.result_of(query_reports(admin, 5))
    assert report.error is None


def test_server_without_version_and_queues_is_reported(
    server: MemoryJobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As geard is, which answers status alone."""
    from txgearman.testing import commands

    answers = {name: answer for name, answer in commands._COMMANDS.items() if name == b"status"}
    monkeypatch.setattr(commands, "_COMMANDS", answers)
    (report,) = server.result_of(query_reports(server.admin(), 5))
    assert report == ServerReport("memory:1", FUNCTIONS)


@pytest.mark.guarantee(number=1)
def test_stop_fails_pending_query(server: MemoryJobServer) -> None:
    admin = server.admin()
    server.leave_unanswered(GET_STATUS, times=None)
    reports = outcome(query_reports(admin, 5))
    admin.stopService()
    assert [type(error) for error in reports] == [ClientStopped]
    assert [type(error) for error in outcome(query_reports(admin, 5))] == [ClientStopped]


@pytest.mark.guarantee(number=9)
def test_cancelled_query_logs_nothing_whatever_happens_then(server: MemoryJobServer) -> None:
    """`logged_failures` fails this for an unhandled error."""
    admin = server.admin()
    silence = server.fall_silent()
    query = query_reports(admin, 5)
    reports = outcome(query)
    query.cancel()
    assert [type(error) for error in reports] == [CancelledError]
    silence.end()
    server.advance(10)
    query = query_reports(admin, 5)
    reports = outcome(query)
    query.cancel()
    admin.stopService()
    assert [type(error) for error in reports] == [CancelledError]


def test_query_within_limit_has_the_answers_of_a_method(server: MemoryJobServer) -> None:
    admin = server.admin()
    for limit in (None, 5.0):
        assert server.result_of(query_within(admin, VERSION_COMMAND, limit)).results == {"memory:1": VERSION}


@pytest.mark.guarantee(number=10)
def test_server_beyond_limit_of_query_is_an_error_beside_the_answers(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    admin = server.admin(other)
    other.fall_silent()
    answers = outcome(query_within(admin, VERSION_COMMAND, 2.0))
    server.advance(2)
    assert answers[0].results == {"memory:1": VERSION}
    assert {address: str(error) for address, error in answers[0].errors.items()} == {
        "memory:2": "memory:2: no answer within 2 s"
    }


def test_query_of_one_server_asks_no_other(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    admin = server.admin(other)
    with other.fall_silent():
        assert server.result_of(query_server(admin, "memory:1", VERSION_COMMAND, 5.0)) == VERSION
        late = outcome(query_server(admin, "memory:2", VERSION_COMMAND, 5.0))
        server.advance(5)
    assert [str(error) for error in late] == ["memory:2: no answer within 5 s"]
    with pytest.raises(ValueError, match="server must be one of memory:1, memory:2, not 'memory:3'"):
        query_server(admin, "memory:3", VERSION_COMMAND, 5.0)
    admin.stopService()
    assert [type(error) for error in outcome(query_server(admin, "memory:1", VERSION_COMMAND, 5.0))] == [ClientStopped]
