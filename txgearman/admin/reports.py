"""What each job server reports, queried with a deadline: for monitoring, where a server that hangs delays nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, fail, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ..connection.pool import JobServer
from ..errors import ClientStopped, GearmanError, NoServersAvailable
from . import commands as text
from .admin import Answers, GearmanAdmin, first_error
from .commands import FunctionStatus, PriorityStatus
from .protocol import AdminProtocol

__all__ = ["ServerReport", "query_reports", "query_server", "query_within"]

T = TypeVar("T")


@dataclass(frozen=True)
class ServerReport:
    """What a server reports.

    :ivar functions: its functions, by name.
    :ivar queues: their queues by priority; empty if the server does not support that.
    :ivar version: its version; None if the server does not support that.
    :ivar error: why it has not answered; None if it has.
    """

    address: str
    functions: Mapping[bytes, FunctionStatus] = field(default_factory=dict)
    queues: Mapping[bytes, PriorityStatus] = field(default_factory=dict)
    version: str | None = None
    error: GearmanError | None = None


def query_reports(admin: GearmanAdmin, timeout: float) -> Deferred[list[ServerReport]]:
    """Query all servers of an admin client at the same time.

    :param timeout: seconds until a server that has not answered completely is reported with an error.
    :return: fires with the report of each server, in the order of ``job_servers``. Fails with `ClientStopped` only.
        Cancelling it only ignores the answers.
    """
    if not admin._use():
        return fail(ClientStopped())
    reports = [_query(admin, server, timeout) for server in admin._servers]
    return gatherResults(reports, consumeErrors=True).addErrback(first_error)


def _query(admin: GearmanAdmin, server: JobServer[AdminProtocol], timeout: float) -> Deferred[ServerReport]:
    def as_report(failure: Failure) -> ServerReport:
        failure.trap(NoServersAvailable)
        assert isinstance(failure.value, NoServersAvailable)
        return ServerReport(server.address, error=failure.value)

    return _with_deadline(ensureDeferred(_report(admin, server)), admin, server, timeout).addErrback(as_report)


def query_within(admin: GearmanAdmin, command: text.Command[T], timeout: float | None) -> Deferred[Answers[T]]:
    """Query all servers of an admin client at the same time, as its methods do.

    :param timeout: seconds until a server that has not answered is one of the errors; None for no other limit than that
        of the admin client.
    :return: as for the methods of `GearmanAdmin`.
    """
    return admin._each(lambda server: _with_deadline(admin._ask(command, server), admin, server, timeout))


def query_server(admin: GearmanAdmin, address: str, command: text.Command[T], timeout: float) -> Deferred[T]:
    """Query one server of an admin client.

    :param timeout: seconds until a server that has not answered is an error.
    :return: fires with the answer. Fails with the errors that `Answers` has, or with `ClientStopped`. Cancelling it
        only ignores the answer.
    :raises ValueError: the admin client has no such server.
    """
    server = admin._servers.by_address(address)
    if not admin._use():
        return fail(ClientStopped())
    return _with_deadline(admin._ask(command, server), admin, server, timeout)


def _with_deadline(
    answer: Deferred[T], admin: GearmanAdmin, server: JobServer[AdminProtocol], timeout: float | None
) -> Deferred[T]:
    """Fail an answer that is late."""
    if timeout is None:
        return answer

    def as_unavailable(failure: Failure) -> NoReturn:
        failure.trap(DeferredTimeout)
        raise NoServersAvailable({server.address: TimeoutError(f"no answer within {timeout:g} s")})

    clock: IReactorTime = admin._reactor  # type: ignore[assignment]  # every reactor provides it
    return answer.addTimeout(timeout, clock).addErrback(as_unavailable)


async def _report(admin: GearmanAdmin, server: JobServer[AdminProtocol]) -> ServerReport:
    status = admin._ask(text.STATUS, server)
    queues = _optional(admin._ask(text.PRIORITY_STATUS, server))
    version = _optional(admin._ask(text.VERSION, server))
    try:
        functions = await status
    except ClientStopped:
        raise
    except GearmanError as error:
        return ServerReport(server.address, error=error)
    return ServerReport(
        server.address,
        {each.function: each for each in functions},
        {each.function: each for each in await queues or ()},
        await version,
    )


def _optional(answer: Deferred[T]) -> Deferred[T | None]:
    """Return an answer that is None if there is an error: the server does not know the command, or is lost."""

    def ignore(failure: Failure) -> None:
        failure.trap(GearmanError)

    return answer.addErrback(ignore)
