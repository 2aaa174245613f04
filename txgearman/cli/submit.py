"""``txgearman submit``: has jobs done."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..client.client import GearmanClient
from ..client.iteration import map_workloads
from ..client.task import Task
from ..errors import ClientStopped, GearmanError, NoServersAvailable
from ..models import Priority
from .exit_codes import Exit, exit_of
from .options import Servers
from .progress import Bar, Lines, progress
from .reactor_loop import first_failure, usage
from .terminal import Terminal

__all__ = ["Request", "submit"]


@dataclass(frozen=True)
class Request:
    """What is asked for on the command line.

    :ivar workload: None for what is read from the standard input.
    :ivar lines: what ends a line of the standard input, each of which is a workload; None if all of it is one.
    :ivar options: those of `Task`.
    """

    function: bytes
    workload: bytes | None
    servers: Servers
    lines: bytes | None = None
    concurrency: int = 100
    background: bool = False
    at: float | None = None
    unique: bytes = b""
    priority: Priority = Priority.NORMAL
    timeout: float | None = None
    retries: int = 0
    server_wait: float = 0.0
    quiet: bool = False
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        options = {"unique": self.unique, "priority": self.priority, "timeout": self.timeout}
        if self.background:
            options |= {"background": True, "at": self.at}
        else:
            options |= {"retries": self.retries}
        object.__setattr__(self, "options", options)


async def submit(terminal: Terminal, request: Request) -> Exit:
    """Have done what is asked for."""
    with usage():
        Task(request.function, **request.options)
        client = GearmanClient(
            request.servers.addresses,
            prefix=request.servers.prefix,
            reactor=terminal.reactor,
            connect_timeout=request.servers.connect_timeout,
            server_wait=request.server_wait,
        )
    with progress(terminal, request.quiet) as shown:
        async with client:
            if request.lines is not None:
                return await Batch(terminal, request, client, shown).run()
            workload = await terminal.read() if request.workload is None else request.workload
            if request.background:
                await terminal.write(await _in_background(request, client, workload))
            else:
                await _in_foreground(terminal, request, client, workload, shown)
    return Exit.DONE


def _in_background(request: Request, client: GearmanClient, workload: bytes) -> Deferred[bytes]:
    with usage():
        submitted = client.submit(Task(request.function, workload, **request.options))
    return submitted.addCallback(lambda handle: f"{handle}\n".encode())


async def _in_foreground(
    terminal: Terminal, request: Request, client: GearmanClient, workload: bytes, shown: Bar | Lines
) -> None:
    """Write the result as it comes."""
    with usage():
        chunks = client.stream(
            request.function, workload, on_status=shown.status, on_warning=shown.warning, **request.options
        )
    last = b"\n"
    async with aclosing(chunks):
        with usage():  # the task is submitted here
            chunk = await anext(chunks, None)
        while chunk is not None:
            shown.clear()
            await terminal.write(chunk)
            last = chunk
            chunk = await anext(chunks, None)
    if terminal.shows_output and not last.endswith(b"\n"):
        await terminal.write(b"\n")  # so that the prompt does not stand behind it


class Batch:
    """One job for each line of the standard input."""

    def __init__(self, terminal: Terminal, request: Request, client: GearmanClient, shown: Bar | Lines) -> None:
        assert request.lines is not None
        self._terminal = terminal
        self._request = request
        self._client = client
        self._shown = shown
        self._end = request.lines
        self._lines = 0
        self._codes: list[Exit] = []

    async def run(self) -> Exit:
        """Write the results, each as a line, in the order of the input."""
        workloads = self._terminal.lines(self._end)
        counts = not (self._terminal.shows_output or self._terminal.reads_keys)  # else they show it themselves
        done = 0
        results: AsyncGenerator[bytes, None] = map_workloads(self._submit, workloads, self._request.concurrency)
        async with aclosing(results):
            async for result in results:
                done += 1
                await self._terminal.write(result + self._end)
                if counts:
                    self._shown.lines(done)
        return first_failure(self._codes)

    def _submit(self, workload: bytes) -> Deferred[bytes]:
        self._lines += 1
        if self._request.background:
            submitted = _in_background(self._request, self._client, workload)
            return submitted.addCallbacks(lambda line: line[:-1], self._failed, errbackArgs=(self._lines,))
        data: list[bytes] = []
        with usage():
            task = Task(
                self._request.function,
                workload,
                on_data=lambda _, chunk: data.append(chunk),
                on_warning=self._shown.warning,
                on_retry=lambda _, __: data.clear(),
                **self._request.options,
            )
            submitted = self._client.submit(task)
        return submitted.addCallbacks(
            lambda result: b"".join([*data, result]), self._failed, errbackArgs=(self._lines,)
        )

    def _failed(self, failure: Failure, line: int) -> bytes:
        """A line that failed has an empty one in the output, and the others go on; unless there is no server at all."""
        error = failure.value
        if not isinstance(error, GearmanError) or isinstance(error, (ClientStopped, NoServersAvailable)):
            failure.raiseException()
        code = exit_of(error)
        assert code is not None
        self._shown.clear()
        self._terminal.say(f"txgearman: line {line}: {error}")
        if not self._codes:
            self._codes.append(code)
        return b""
