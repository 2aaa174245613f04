"""What a viewer asks for: the first jobs of a server, and the state of one job."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from ..admin import commands as text
from ..admin.admin import GearmanAdmin, first_error
from ..admin.commands import JobInfo
from ..admin.reports import query_server
from ..client.client import GearmanClient
from ..connection.reactor import Reactor
from ..connection.waiters import Waiters
from ..errors import ClientStopped, GearmanError
from ..models import JobHandle, JobStatus
from .document import error_text, name_text

__all__ = ["JobLists", "job_state"]

Value = object
"""What can be converted to JSON."""

MAX_JOBS: Final = 200
"""Jobs that are listed of one server."""

MIN_AGE: Final = 5.0
"""Seconds between two lists of one server: to print it, the server holds up all else."""


def _first_jobs(answer: bytes) -> tuple[int, tuple[JobInfo, ...]]:
    """Return the number of jobs in an answer, and the first ones: to parse a million would block for seconds."""
    total = answer.count(b"\n") - 1
    if total <= MAX_JOBS:
        return total, text.JOBS.parse(answer)
    end = 0
    for _ in range(MAX_JOBS):
        end = answer.index(b"\n", end) + 1
    return total, text.JOBS.parse(answer[:end] + answer[answer.rindex(b".") :])


_FIRST_JOBS: Final = text.Command(text.JOBS.line, _first_jobs)


class _JobList:
    """The jobs of one server, as of its last answer."""

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at
        self.waiting: Waiters[Value] = Waiters()
        self.value: Value = None


class JobLists:
    """The first jobs of each server. Viewers who ask at the same time, or soon after, get the same answer."""

    def __init__(self, admin: GearmanAdmin, reactor: Reactor, timeout: float) -> None:
        self._admin = admin
        self._reactor = reactor
        self._timeout = timeout
        self._lists: dict[str, _JobList] = {}

    def get(self, address: str) -> Deferred[Value]:
        """Return the first jobs of a server.

        :return: fires with an object for JSON, which has an ``error`` if the server has not answered. Fails with
            `ClientStopped`. Cancelling it only ignores the answer.
        :raises ValueError: there is no such server.
        """
        now = self._reactor.seconds()
        jobs = self._lists.get(address)
        if jobs is not None and jobs.value is None:
            return jobs.waiting.wait()
        if jobs is not None and now - jobs.asked_at < MIN_AGE:
            return succeed(jobs.value)
        query = query_server(self._admin, address, _FIRST_JOBS, self._timeout)
        jobs = self._lists[address] = _JobList(now)
        waiting = jobs.waiting.wait()
        answer = query.addCallbacks(_jobs, _error, callbackArgs=(address,), errbackArgs=(address,))
        answer.addBoth(self._answered, jobs)
        return waiting

    def _answered(self, outcome: dict[str, Value] | Failure, jobs: _JobList) -> None:
        if isinstance(outcome, Failure):
            self._lists.clear()
        else:
            outcome["time"] = round(self._reactor.seconds(), 3)
            jobs.value = outcome
        jobs.waiting.fire(outcome)


def _jobs(answer: tuple[int, tuple[JobInfo, ...]], address: str) -> dict[str, Value]:
    total, jobs = answer
    return {
        "server": address,
        "total": total,
        "jobs": [
            {
                "handle": name_text(job.handle),
                "id": str(JobHandle(address, job.handle)),
                "retries": job.retries,
                "ignored": job.ignored,
                "stored": job.stored,
            }
            for job in jobs
        ],
    }


def _error(failure: Failure, address: str) -> dict[str, Value]:
    """Return the error of a server; but `ClientStopped` is none of a server."""
    error = failure.value
    if not isinstance(error, GearmanError) or isinstance(error, ClientStopped):
        failure.raiseException()
    return {"server": address, "error": error_text(address, error)}


def job_state(client: GearmanClient, handle: str, addresses: Iterable[str]) -> Deferred[Value]:
    """Ask for the state of a job.

    :param handle: the handle as the server has it, which all servers are asked about; or with its server, as
        ``str(JobHandle)`` returns it.
    :param addresses: those of all servers.
    :return: fires with an object for JSON that has the answer or error of each server. Fails with `ClientStopped`.
    :raises ValueError: the handle is invalid, or its server is none of these.
    """
    if "//" in handle:
        handles = [JobHandle.from_string(handle)]
    else:
        handles = [JobHandle(address, handle.encode()) for address in addresses]
    asked = [_ask(client, each) for each in handles]
    gathered = gatherResults(asked, consumeErrors=True).addErrback(first_error)
    return gathered.addCallback(lambda answers: {"handle": name_text(handles[0].handle), "answers": answers})


def _ask(client: GearmanClient, handle: JobHandle) -> Deferred[dict[str, Value]]:
    def answer(status: JobStatus) -> dict[str, Value]:
        return {
            "server": handle.server,
            "known": status.known,
            "running": status.running,
            "numerator": status.numerator,
            "denominator": status.denominator,
        }

    return client.get_status(handle).addCallbacks(answer, _error, errbackArgs=(handle.server,))
