"""The API of the admin client: `GearmanAdmin`."""

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
from ..validation import function_bytes, quoted
from . import commands as text
from .commands import Command, FunctionStatus, JobInfo, PriorityStatus, WorkerInfo
from .protocol import AdminFactory, AdminProtocol

__all__ = ["Answers", "GearmanAdmin", "first_error"]

T = TypeVar("T")

ANSWER_TIMEOUT: Final = 10.0


@dataclass(frozen=True)
class Answers(Generic[T]):
    """The answers of all servers to one call. Each address is either in `results` or in `errors`.

    :ivar results: the answers, by address, in the order of ``job_servers``.
    :ivar errors: the errors, by address: `NoServersAvailable` if the server can't be reached or does not answer in
        time; `ServerError` if it refuses; `RequestUnsupported` if it does not know the command; `ProtocolError` if its
        answer can't be parsed.
    """

    results: Mapping[str, T]
    errors: Mapping[str, GearmanError]

    def all(self) -> Mapping[str, T]:
        """Return the results if all servers have answered; otherwise raise the first error."""
        for error in self.errors.values():
            raise error
        return self.results

    def one(self) -> T:
        """Return the answer of the only server, or raise its error.

        :raises ValueError: there are several servers.
        """
        if len(self.results) + len(self.errors) != 1:
            raise ValueError("one() needs exactly one server: use all(), or results and errors")
        (result,) = self.all().values()
        return result


class GearmanAdmin(PoolService[AdminProtocol]):
    """Monitors and controls one or more job servers.

    ::

        async with GearmanAdmin(["10.0.0.1", "10.0.0.2:4731"]) as admin:
            answers = await admin.status()
            for address, functions in answers.results.items():
                ...

    Each call is sent to all servers at the same time. Its Deferred fires with `Answers`, which has the answer or error
    of each server: a server that is down or refuses does not fail the call. So check ``errors``; or use ``all()``, or
    ``one()`` if there is only one server, which raise. `stopService` fails all pending calls with `ClientStopped`.
    Cancelling a call only ignores the answers. No command is sent twice.

    It is an `IService`, and an async context manager that starts and stops it. It connects at its start or first use,
    with one connection to each server; calls do not wait for each other's answers. It reconnects within two seconds
    at first, and within half a minute later; until then calls fail at once, and bring the next attempt forward.

    It is used in the reactor's thread, as a `GearmanClient` is.

    Pass the names of functions without the prefix; they are returned as the server has them, with it. They must not
    have a space or an end of line, since a command is a line of words.

    :param job_servers: as for `GearmanClient`.
    :param prefix: joined with a TAB to the names of functions that are passed to methods.
    :param reactor: None for the global one.
    :param server_timeout: seconds without a byte of an answer that is due, after which the connection is dropped.
    :param connect_timeout: seconds that an attempt to connect may take, up to the server's first answer.
    :param reconnect_delay: as for `GearmanClient`.
    :param max_packet_size: maximum number of bytes in an answer.
    :param tls: as for `GearmanClient`.
    :raises TypeError, ValueError: an argument is invalid.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        *,
        prefix: str | bytes = "",
        reactor: Reactor | None = None,
        server_timeout: float = ANSWER_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        reconnect_delay: Callable[[int], float] | None = None,
        max_packet_size: int = MAX_PACKET_SIZE,
        tls: TLSOptions | None = None,
    ) -> None:
        connection_options = ConnectionOptions(
            connect_timeout,
            server_timeout=server_timeout,
            max_packet_size=max_packet_size,
            reconnect_delay=reconnect_delay,
        )
        make_factory = partial(AdminFactory, reactor, connection_options=connection_options)
        super().__init__(job_servers, prefix, reactor, connection_options, tls, make_factory)

    # Queries.

    def status(self) -> Deferred[Answers[tuple[FunctionStatus, ...]]]:
        """Get the functions of each server, with the numbers of their jobs and workers."""
        return self._ask_all(text.STATUS)

    def priority_status(self) -> Deferred[Answers[tuple[PriorityStatus, ...]]]:
        """Get the functions of each server, with the numbers of jobs in each of their queues. gearmand only."""
        return self._ask_all(text.PRIORITY_STATUS)

    def workers(self) -> Deferred[Answers[tuple[WorkerInfo, ...]]]:
        """Get the connections to each server: those of workers, with their functions, and all others."""
        return self._ask_all(text.WORKERS)

    def jobs(self) -> Deferred[Answers[tuple[JobInfo, ...]]]:
        """Get the jobs of each server. gearmand only."""
        return self._ask_all(text.JOBS)

    def unique_jobs(self) -> Deferred[Answers[tuple[bytes, ...]]]:
        """Get the uniques of the jobs of each server; an empty one for a job without. gearmand only."""
        return self._ask_all(text.UNIQUE_JOBS)

    def version(self) -> Deferred[Answers[str]]:
        """Get the version of each server. Not supported by geard."""
        return self._ask_all(text.VERSION)

    def pid(self) -> Deferred[Answers[int]]:
        """Get the process id of each server. gearmand only."""
        return self._ask_all(text.PID)

    def verbosity(self) -> Deferred[Answers[str]]:
        """Get the log level of each server, such as ``"ERROR"``. gearmand only."""
        return self._ask_all(text.VERBOSITY)

    # Commands.

    def set_max_queue(
        self, function: str | bytes, limit: int, *, high: int | None = None, low: int | None = None
    ) -> Deferred[Answers[None]]:
        """Limit the number of jobs of a function, queued and running. Beyond it, submits fail with `TaskRejected`.

        The error of a server that does not have the function is `UnknownFunction`: it would answer OK and do nothing.
        (Use `create_function` first.) perl's server drops jobs that are over a limit.

        :param limit: maximum number of jobs of each priority; 0 for no limit.
        :param high: limit for jobs of high priority; None for `limit`.
        :param low: limit for jobs of low priority; None for `limit`.
        :raises TypeError, ValueError: the name or a limit is invalid.
        """
        limits = [limit if high is None else high, limit, limit if low is None else low]
        for number in limits:
            _check_limit(number)
        name = self._wire_name(function)
        return self._each(partial(self._set_max_queue, name, text.max_queue(name, limits)))

    def _set_max_queue(self, name: bytes, command: Command[None], server: JobServer[AdminProtocol]) -> Deferred[None]:
        def set_limits(functions: tuple[FunctionStatus, ...]) -> Deferred[None]:
            if name not in {status.function for status in functions}:
                raise UnknownFunction(f"this server has no function {quoted(name)}")
            return self._ask(command, server)

        return self._ask(text.STATUS, server).addCallback(set_limits)

    def create_function(self, function: str | bytes) -> Deferred[Answers[None]]:
        """Create a function before it has a worker or a job. gearmand only."""
        return self._ask_all(text.create_function(self._wire_name(function)))

    def drop_function(self, function: str | bytes) -> Deferred[Answers[None]]:
        """Delete a function that has no workers. gearmand only.

        Clients that wait for jobs in its queue are not notified, and wait for ever (H4).
        """
        return self._ask_all(text.drop_function(self._wire_name(function)))

    def cancel_job(self, handle: JobHandle) -> Deferred[None]:
        """Ask the server of a job to drop it.

        gearmand fails its tasks, and drops the job if it is queued. A running job continues, but its result is
        discarded. Until the job would have run, a new job of the same function and unique is lost with it (H2). geard
        drops queued jobs only, and does not notify those who wait for them (H5). perl's server does not support it.

        :return: fires when the server has confirmed. Fails with `ServerError`, whose code is ``"UNKNOWN_JOB"`` if the
            server does not have the job; with `RequestUnsupported`, `NoServersAvailable` or `ClientStopped`. Cancelling
            it only ignores the server's answer.
        :raises TypeError: `handle` is not a `JobHandle`.
        :raises ValueError: the handle names a server that is not one of ``job_servers``, or can't be sent.
        """
        self._check_thread()
        if not isinstance(handle, JobHandle):
            raise TypeError(f"handle must be a JobHandle, not {type(handle).__name__}; see JobHandle.from_string()")
        command = text.cancel_job(handle.handle)
        server = self._servers.by_address(handle.server)
        return self._ask(command, server) if self._use() else fail(ClientStopped())

    def shutdown(self, *, graceful: bool = False) -> Deferred[Answers[None]]:
        """Shut the servers down. Only perl's server supports it; send gearmand a signal instead.

        :param graceful: whether running jobs may finish first.
        """
        return self._ask_all(text.shutdown(graceful=graceful))

    def _wire_name(self, function: str | bytes) -> bytes:
        return self._prefix + function_bytes(function)

    # All servers.

    def _ask_all(self, command: Command[T]) -> Deferred[Answers[T]]:
        return self._each(partial(self._ask, command))

    @staticmethod
    def _ask(command: Command[T], server: JobServer[AdminProtocol]) -> Deferred[T]:
        return server.use(lambda connection: connection.ask(command.line, is_last=command.is_last)).addCallback(
            command.parse
        )

    def _each(self, call: Callable[[JobServer[AdminProtocol]], Deferred[T]]) -> Deferred[Answers[T]]:
        self._check_thread()
        if not self._use():
            return fail(ClientStopped())
        servers = list(self._servers)
        asked = [call(server).addErrback(_as_answer) for server in servers]
        gathered = gatherResults(asked, consumeErrors=True).addErrback(first_error)
        return gathered.addCallback(partial(_sorted, [server.address for server in servers]))


def _as_answer(failure: Failure) -> GearmanError | Failure:
    """Return the error of a server as its answer; but `ClientStopped` fails the call as a whole."""
    error = failure.value
    return error if isinstance(error, GearmanError) and not isinstance(error, ClientStopped) else failure


def first_error(failure: Failure) -> Failure:
    """Return the failure that ended `gatherResults`, without its `FirstError`: a cancel fails with `CancelledError`."""
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
        raise TypeError(f"limit must be int, not {type(limit).__name__}")
    if not 0 <= limit <= text.MAX_QUEUE:
        raise ValueError(f"limit must be from 0 to {text.MAX_QUEUE}, not {limit}")
