"""Describes tasks, jobs and servers in the messages of failing tests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from twisted.internet.task import Clock

from ..client.client import GearmanClient
from ..connection.pool import ServerInfo, ServerState
from ..models import JobHandle
from .clock import quoted
from .core import ManualWorker
from .group import GroupedServer, ServerGroup
from .jobs import Job
from .protocol import JobServerProtocol
from .submits import BatchSubmit, Submit, TaskSubmit

_MAX_SHOWN: Final = 10
"""Tasks, or kinds of jobs, that are described in one message."""


def describe_submit(submit: Submit) -> str:
    """Return what was submitted, and where; of a task also its job."""
    handle = submit.task.handle if isinstance(submit, TaskSubmit) and submit.task else None
    job = f"{_describe_handle(handle)}, " if handle else ""
    return f"{submit.name} ({job}submitted at {submit.place})"


def _describe_handle(handle: JobHandle) -> str:
    return f"job {handle.handle.decode('utf-8', 'backslashreplace')} on {handle.server}"


def _describe_job(server: GroupedServer, job: Job, place: str | None) -> str:
    """Return the handle, function and origin of a background job."""
    origin = f", submitted at {place}" if place else ""
    handle = job.handle.decode("utf-8", "backslashreplace")
    return f"background job {handle} of {quoted(job.function.name)} on {server.name}{origin}"


def _describe_position(server: GroupedServer, job: Job) -> str:
    """Return where a job is: in a queue, or with whom."""
    worker = job.worker
    if isinstance(worker, ManualWorker):
        return f"was taken at {worker.place}, and has not ended"
    if worker is not None:
        found = next((each for each in server._protocols if each is worker), None)
        return f"is running in {describe_connection(found)}" if found else "is running"
    if job.dropped:
        return "was dropped, and stays queued until a worker asks for it"
    wait = job.at - server.clock.seconds()
    if wait > 0:
        return f"is queued, and due in {wait:g} s (at={job.at:g}; the clock is at {server.clock.seconds():g})"
    return "is queued again" if job.retries else "is queued"


def describe_jobs(server: GroupedServer, jobs: Iterable[Job], group: ServerGroup, more: str = "") -> list[str]:
    """Return a line for the jobs of each function, submit and state: the first of them, and how many more there are.

    :param more: follows the state.
    """
    found: dict[tuple[bytes, str | None, str], list[Job]] = {}
    for job in jobs:
        place = group.places.get(JobHandle(server.name, job.handle))
        found.setdefault((job.function.name, place, _describe_position(server, job)), []).append(job)
    return [
        f"{_describe_job(server, same[0], place)} {position}{more}{_others(len(same) - 1)}"
        for (_, place, position), same in found.items()
    ]


def _others(count: int) -> str:
    return f" (and {count:,} more like it)" if count else ""


def describe_unended(submit: Submit, group: ServerGroup) -> str:
    """Return what a task or batch without an outcome waits for."""
    text = f"{describe_submit(submit)} has no outcome"
    if isinstance(submit, BatchSubmit):
        return text + _describe_batch(submit, group)
    task = submit.task if isinstance(submit, TaskSubmit) else None
    if task is not None and task.handle is not None:
        progress = _progress(task.handle, group)
        return f"{text}: {f'its job {progress}' if progress else 'its server does not have its job'}"
    retried = f"after attempt {task.attempt} " if task is not None and task.attempt else ""
    return f"{text}: {retried}it has no job; its client: {_describe_client(submit.client)}"


def _progress(handle: JobHandle, group: ServerGroup) -> str:
    """Return where a foreground job is; empty if its server does not have it."""
    server = group.by_name(handle.server)
    job = server._core.jobs.by_handle(handle.handle) if server else None
    if server is None or job is None:
        return ""
    waits = job.worker is None and not job.dropped
    return _describe_position(server, job) + (", and nobody has taken it" if waits else "")


def _describe_batch(submit: BatchSubmit, group: ServerGroup) -> str:
    """Return what the jobs of a batch wait for that have no outcome, as far as it is not the same."""
    batch = submit.batch
    handles = batch.handles() if batch else []
    missing = batch.missing if batch else 0
    found: dict[str, list[JobHandle]] = {}
    for handle in handles:
        found.setdefault(_progress(handle, group) or "is not known to its server", []).append(handle)
    texts = [
        f"{_describe_handle(same[0])} {progress}{_others(len(same) - 1)}"
        for progress, same in islice(found.items(), _MAX_SHOWN)
    ]
    if missing > len(handles):
        unanswered = missing - len(handles)
        texts.append(f"submits without an answer: {unanswered:,}; its client: {_describe_client(submit.client)}")
    return f" for {missing:,} of its jobs: {'; '.join(texts)}"


def _describe_client(client: GearmanClient | None) -> str:
    """Return the state of a client's connections."""
    return ", ".join(f"{info.address} {_state(info)}" for info in client.servers) if client else "is gone"


def _state(info: ServerInfo) -> str:
    if info.state is ServerState.READY:
        return f"is connected, with {info.in_flight} in flight"
    if info.state is ServerState.WAITING:
        return f"is down ({info.last_error}), next attempt in {info.next_attempt or 0:.3g} s"
    return f"is {info.state.value}"


def describe_connection(connection: JobServerProtocol) -> str:
    """Return what a connection is used for."""
    functions = ", ".join(quoted(ability.function.name) for ability in connection.abilities)
    kind = f"worker for {functions}" if functions else "client" if connection.requests else "connection"
    named = f" {quoted(connection.client_id)}" if connection.client_id != b"-" else ""
    return f"{kind}{named} (connection {connection.number})"


def describe_server(server: GroupedServer) -> str:
    """Return who is connected to a server, and which faults last."""
    connected = ", ".join(map(describe_connection, server._protocols)) or "nobody"
    faults = ", ".join(fault._name for fault in server._faults.active)
    return f"{server.name}: connected: {connected}" + (f"; faults that last: {faults}" if faults else "")


def describe_tasks(group: ServerGroup) -> list[str]:
    """Return a line for each task or batch without an outcome."""
    pending = [submit for submit in group.submits if not submit.ended]
    lines = [describe_unended(submit, group) for submit in pending[:_MAX_SHOWN]]
    more = len(pending) - len(lines)
    return [*lines, f"and {more} more tasks"] if more > 0 else lines


def _background_jobs(server: GroupedServer, function: bytes) -> list[Job]:
    """Return the background jobs of a function: those in the foreground have tasks."""
    return [job for job in server._core.jobs if job.function.name == function and job.background]


def describe_all(server: GroupedServer, group: ServerGroup, function: bytes = b"") -> str:
    """Return the state of everything that a test uses, as lines to follow a message.

    :param function: whose jobs are described.
    """
    lines = [
        *describe_tasks(group),
        *group.calls.describe(),
        *describe_jobs(server, _background_jobs(server, function), group)[:_MAX_SHOWN],
        *map(describe_server, group.servers or [server]),
    ]
    if not isinstance(server.clock, Clock):
        lines.append("the server is on a reactor, where nothing happens during this call: await what is to happen")
    return "".join(f"\n  {line}" for line in lines)
