"""`GearmanAdmin`: what an administrator sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from twisted.internet.defer import Deferred, FirstError, fail, gatherResults
from twisted.python.failure import Failure

from ..connection.addresses import Address
from ..connection.options import CONNECT_TIMEOUT, ConnectionOptions
from ..connection.pool import JobServer
from ..connection.reactor import Reactor
from ..connection.tls import TLSOptions
from ..errors import ClientStopped, GearmanError, UnknownFunction
from ..models import JobHandle
from ..packets import MAX_PACKET_SIZE
from ..service import PoolService
from ..validation import function_bytes
from . import commands as text
from .commands import Command, FunctionStatus, JobInfo, PriorityStatus, WorkerInfo
from .protocol import AdminFactory, AdminProtocol

__all__ = ["Answers", "GearmanAdmin"]

T = TypeVar("T")

ANSWER_TIMEOUT: Final = 10.0


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What each server answered to one call. An address is in one of the two.

    :ivar results: the answers, by the servers' addresses, in the order of ``job_servers``.
    :ivar errors: of the others: `NoServersAvailable` if it can't be reached or does not answer in time; `ServerError`
        if it refuses; `RequestUnsupported` if it does not know the command; `ProtocolError` if its answer
        can't be read.
    """

    results: Mapping[str, T]
    errors: Mapping[str, GearmanError]

    def all(self) -> Mapping[str, T]:
        """The results, where all servers must have answered. Raises the first error otherwise."""
        for error in self.errors.values():
            raise error
        return self.results

    def one(self) -> T:
        """The answer of the only server. Raises its error if it has one.

        :raises ValueError: there are several.
        """
        if len(self.results) + len(self.errors) != 1:
            raise ValueError("there are several servers; see results and errors")
        (result,) = self.all().values()
        return result


class GearmanAdmin(PoolService[AdminProtocol]):
    """Asks one or more job servers how they are, and tells them what to do.

    ::

        async with GearmanAdmin(["10.0.0.1", "10.0.0.2:4731"]) as admin:
            answers = await admin.status()
            for address, functions in answers.results.items():
                ...

    Each call goes to every server at the same time. Its Deferred fires with `Answers`, which has each server's answer
    or error: a server that is down or refuses does not fail the call. So look at ``errors``; or take ``all()``, or
    ``one()`` where there is but one server, which raise. A stop fails a call as a whole, with `ClientStopped`.
    Cancelled, a call is forgotten; the servers have been told. Nothing is told twice.

    It is an `IService`, and an async context manager that starts and stops it. It connects when it is started, or at
    the first use, with one connection to each server; calls do not wait for each other's answers. Connections that fail
    are made again after half a second to half a minute; a call meanwhile fails at once.

    Names of functions are given without the prefix, and told as they are on the server. They must not have a space or
    an end of line, since a command is a line of words.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        *,
        prefix: str | bytes = "",
        reactor: Reactor | None = None,
        server_timeout: float = ANSWER_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_packet_size: int = MAX_PACKET_SIZE,
        tls: TLSOptions | None = None,
    ) -> None:
        """
        :param job_servers: as `GearmanClient` has them.
        :param prefix: joined with a TAB to the names of functions that are given here.
        :param reactor: None for the global one.
        :param server_timeout: seconds without a byte of the answer that is due, after which a server is taken for dead
            and its connection is dropped.
        :param connect_timeout: seconds that an attempt to connect may take, up to the server's first answer.
        :param max_packet_size: bytes that an answer may have.
        :param tls: as `GearmanClient` has it.
        :raises TypeError, ValueError: for an argument that can't be meant.
        """
        connection_options = ConnectionOptions(
            connect_timeout, server_timeout=server_timeout, max_packet_size=max_packet_size
        )
        make_factory = partial(AdminFactory, reactor, connection_options=connection_options)
        super().__init__(job_servers, prefix, reactor, connection_options, tls, make_factory)

    # Questions.

    def status(self) -> Deferred[Answers[tuple[FunctionStatus, ...]]]:
        """What functions there are, and how many jobs and workers they have."""
        return self._ask_all(text.STATUS)

    def priority_status(self) -> Deferred[Answers[tuple[PriorityStatus, ...]]]:
        """What functions there are, and how many jobs wait in each of their queues. Only gearmand knows this."""
        return self._ask_all(text.PRIORITY_STATUS)

    def workers(self) -> Deferred[Answers[tuple[WorkerInfo, ...]]]:
        """The connections that a server has: workers with what they offer, and all others, this one too."""
        return self._ask_all(text.WORKERS)

    def jobs(self) -> Deferred[Answers[tuple[JobInfo, ...]]]:
        """The jobs that a server has. Only gearmand knows this."""
        return self._ask_all(text.JOBS)

    def unique_jobs(self) -> Deferred[Answers[tuple[bytes, ...]]]:
        """The uniques of the jobs that a server has, empty for a job without one. Only gearmand knows this."""
        return self._ask_all(text.UNIQUE_JOBS)

    def version(self) -> Deferred[Answers[str]]:
        """What the server calls its version. geard does not tell."""
        return self._ask_all(text.VERSION)

    def pid(self) -> Deferred[Answers[int]]:
        """The number of the server's process. Only gearmand tells it."""
        return self._ask_all(text.PID)

    def verbosity(self) -> Deferred[Answers[str]]:
        """What the server writes to its log, such as ``"ERROR"``. Only gearmand tells it."""
        return self._ask_all(text.VERBOSITY)

    # Commands.

    def set_max_queue(
        self, function: str | bytes, limit: int, *, high: int | None = None, low: int | None = None
    ) -> Deferred[Answers[None]]:
        """Limit how many jobs a function may have, queued and running. Over it, submits fail with `TaskRejected`.

        A server that does not have the function would say OK and do nothing: it has the error `UnknownFunction`
        here. (`create_function` it first.) perl's server drops jobs that are over a limit.

        :param limit: of jobs of each priority; 0 for none.
        :param high, low: of jobs of these priorities, if not the same.
        :raises TypeError, ValueError: for a name or a limit that can't be sent.
        """
        limits = [limit if high is None else high, limit, limit if low is None else low]
        for number in limits:
            _check_limit(number)
        name = self._wire_name(function)
        return self._each(partial(self._set_max_queue, name, text.max_queue(name, limits)))

    def _set_max_queue(self, name: bytes, command: Command[None], server: JobServer[AdminProtocol]) -> Deferred[None]:
        def set_it(functions: tuple[FunctionStatus, ...]) -> Deferred[None]:
            if name not in {status.function for status in functions}:
                raise UnknownFunction(f"this server has no function {name!r}")
            return self._ask(command, server)

        return self._ask(text.STATUS, server).addCallback(set_it)

    def create_function(self, function: str | bytes) -> Deferred[Answers[None]]:
        """Make a function known before it has a worker or a job. Only gearmand can do this."""
        return self._ask_all(text.create_function(self._wire_name(function)))

    def drop_function(self, function: str | bytes) -> Deferred[Answers[None]]:
        """Make a server forget a function that has no workers. Only gearmand can do this.

        Whoever waits for jobs in its queue is not told, and waits for ever (H4).
        """
        return self._ask_all(text.drop_function(self._wire_name(function)))

    def cancel_job(self, handle: JobHandle) -> Deferred[None]:
        """Ask the server that has a job to drop it.

        gearmand fails its tasks and drops it if it is queued; one that runs goes on all the same, but nobody is told of
        its result. Until it would have run, a new job of the same function and unique is lost with it
        (H2). geard only drops jobs that are queued, and does not tell those who wait (H5). perl's server
        can't.

        :return: fires when the server has done so. Fails with `ServerError`, whose code is ``"UNKNOWN_JOB"`` if it has
            no such job; with `NoServersAvailable`, or `ClientStopped`. Cancelled, it is forgotten; the server has been
            told.
        :raises TypeError: it is no `JobHandle`.
        :raises ValueError: the handle names a server that is none of these, or can't be sent.
        """
        if not isinstance(handle, JobHandle):
            raise TypeError(f"handle must be a JobHandle, not {type(handle).__name__}; see JobHandle.from_string()")
        command = text.cancel_job(handle.handle)
        server = self._servers.by_address(handle.server)
        return self._ask(command, server) if self._use() else fail(ClientStopped())

    def shutdown(self, *, graceful: bool = False) -> Deferred[Answers[None]]:
        """Have the servers end. perl's server does so; gearmand has no such command any more (send it a signal).

        :param graceful: let jobs that run come to their end.
        """
        return self._ask_all(text.shutdown(graceful=graceful))

    def _wire_name(self, function: str | bytes) -> bytes:
        return self._prefix + function_bytes(function)

    # Each server.

    def _ask_all(self, command: Command[T]) -> Deferred[Answers[T]]:
        return self._each(partial(self._ask, command))

    @staticmethod
    def _ask(command: Command[T], server: JobServer[AdminProtocol]) -> Deferred[T]:
        return server.use(lambda connection: connection.ask(command.line, is_last=command.is_last)).addCallback(
            command.parse
        )

    def _each(self, call: Callable[[JobServer[AdminProtocol]], Deferred[T]]) -> Deferred[Answers[T]]:
        if not self._use():
            return fail(ClientStopped())
        servers = list(self._servers)
        asked = [call(server).addErrback(_as_answer) for server in servers]
        gathered = gatherResults(asked, consumeErrors=True).addErrback(_first_error)
        return gathered.addCallback(partial(_sorted, [server.address for server in servers]))


def _as_answer(failure: Failure) -> GearmanError | Failure:
    """Take one server's error as its answer; but a stop fails the call."""
    error = failure.value
    return error if isinstance(error, GearmanError) and not isinstance(error, ClientStopped) else failure


def _first_error(failure: Failure) -> Failure:
    assert isinstance(failure.value, FirstError)
    return failure.value.subFailure


def _sorted(addresses: list[str], answers: list[T | GearmanError]) -> Answers[T]:
    results: dict[str, T] = {}
    errors: dict[str, GearmanError] = {}
    for address, answer in zip(addresses, answers, strict=True):
        if isinstance(answer, GearmanError):
            errors[address] = answer
        else:
            results[address] = answer
    return Answers(results, errors)


def _check_limit(limit: int) -> None:
    if type(limit) is not int:
        raise TypeError(f"a limit must be int, not {type(limit).__name__}")
    if not 0 <= limit <= text.MAX_QUEUE:
        raise ValueError(f"a limit must be from 0 to {text.MAX_QUEUE}, not {limit}")
