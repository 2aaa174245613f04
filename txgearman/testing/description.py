"""Describes tasks, jobs and servers in the messages of failing tests."""

from __future__ import annotations

from typing import Final

from twisted.internet.task import Clock

from ..client.client import GearmanClient
from ..client.task import Task
from ..connection.pool import ServerInfo, ServerState
from ..models import JobHandle
from .clock import quoted
from .core import ManualWorker
from .group import GroupedServer, ServerGroup, Submit
from .jobs import Job
from .protocol import JobServerProtocol

_MAX_TASKS: Final = 10
"""Tasks that are described in one message."""


def describe_task(task: Task, place: str) -> str:
    """Return the function, job and origin of a task."""
    handle = task.handle
    job = f"job {handle.handle.decode('utf-8', 'backslashreplace')} on {handle.server}, " if handle else ""
    return f"task {quoted(task.function)} ({job}submitted at {place})"


def describe_job(server: GroupedServer, job: Job, group: ServerGroup) -> str:
    """Return the handle, function and origin of a job."""
    place = group.places.get(JobHandle(server.name, job.handle))
    origin = f", submitted at {place}" if place else ""
    kind = "background job" if job.background else "job"
    handle = job.handle.decode("utf-8", "backslashreplace")
    return f"{kind} {handle} of {quoted(job.function.name)} on {server.name}{origin}"


def describe_position(server: GroupedServer, job: Job) -> str:
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


def describe_progress(task: Task, submit: Submit, group: ServerGroup) -> str:
    """Return what a task without an outcome waits for."""
    handle = task.handle
    if handle is not None:
        server = group.by_name(handle.server)
        job = server._core.jobs.by_handle(handle.handle) if server else None
        if server is None or job is None:
            return "its server does not have its job"
        waits = job.worker is None and not job.dropped
        return f"its job {describe_position(server, job)}" + (", and nobody has taken it" if waits else "")
    client = submit.client
    retried = f"after attempt {task.attempt} " if task.attempt else ""
    return f"{retried}it has no job; its client: {describe_client(client) if client else 'is gone'}"


def describe_client(client: GearmanClient) -> str:
    """Return the state of a client's connections."""
    return ", ".join(f"{info.address} {_state(info)}" for info in client.servers)


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
    """Return a line for each task without an outcome."""
    pending = [(task, submit) for task, submit in group.submits.items() if not task.ended]
    lines = [
        f"{describe_task(task, submit.place)} has no outcome: {describe_progress(task, submit, group)}"
        for task, submit in pending[:_MAX_TASKS]
    ]
    more = len(pending) - len(lines)
    return [*lines, f"and {more} more tasks"] if more > 0 else lines


def _describe_jobs(server: GroupedServer, group: ServerGroup, function: bytes) -> list[str]:
    """Return a line for each background job of a function: those in the foreground have tasks."""
    jobs = [job for job in server._core.jobs if job.function.name == function and job.background]
    return [f"{describe_job(server, job, group)} {describe_position(server, job)}" for job in jobs[:_MAX_TASKS]]


def describe_all(server: GroupedServer, group: ServerGroup, function: bytes = b"") -> str:
    """Return the state of everything that a test uses, as lines to follow a message.

    :param function: whose jobs are described.
    """
    lines = [
        *describe_tasks(group),
        *_describe_jobs(server, group, function),
        *map(describe_server, group.servers or [server]),
    ]
    if not isinstance(server.clock, Clock):
        lines.append("the server is on a reactor, where nothing happens during this call: await what is to happen")
    return "".join(f"\n  {line}" for line in lines)
