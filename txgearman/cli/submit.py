"""``txgearman submit``: submits jobs and prints their results."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..client.client import GearmanClient
from ..client.iteration import map_workloads
from ..client.task import Task
from ..errors import ClientStopped, GearmanError, NoServersAvailable
from ..models import Priority
from .exit_codes import ExitCode, exit_code_for
from .options import Servers
from .progress import Progress, make_progress
from .reactor_loop import usage_errors
from .terminal import Terminal

__all__ = ["Request", "submit"]

HINT_DELAY: Final = 2.0
"""Seconds without input after which `submit` reports that it reads its standard input."""


@dataclass(frozen=True)
class Request:
    """What the command line asks to submit.

    :ivar workload: None reads it from standard input.
    :ivar implicit: whether the workload was omitted. Then standard input is read unless it is a terminal.
    :ivar lines: what ends a line of standard input, each of which is a workload; None for a single workload.
    :ivar options: the options of `Task`, made from the other fields.
    """

    function: bytes
    workload: bytes | None
    servers: Servers
    implicit: bool = False
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


async def submit(terminal: Terminal, request: Request) -> ExitCode:
    """Submit the job or jobs of a request, and write their results to standard output."""
    with usage_errors():
        Task(request.function, **request.options)
        client = GearmanClient(
            request.servers.addresses,
            prefix=request.servers.prefix,
            reactor=terminal.reactor,
            connect_timeout=request.servers.connect_timeout,
            server_wait=request.server_wait,
            tls=request.servers.tls_options(),
        )
    with make_progress(terminal, quiet=request.quiet) as progress:
        async with client:
            if request.lines is not None:
                return await LineBatch(terminal, request, client, progress).run()
            workload = await _read_workload(terminal, request) if request.workload is None else request.workload
            if request.background:
                await terminal.write(await _submit_background(request, client, workload))
            else:
                await _stream_result(terminal, request, client, workload, progress)
    return ExitCode.DONE


async def _read_workload(terminal: Terminal, request: Request) -> bytes:
    """Read the workload from standard input."""
    if not request.implicit:
        return await terminal.read_all()
    if terminal.is_stdin_tty:
        return b""
    with _hint(terminal, quiet=request.quiet) as cancel_hint:
        chunks = []
        async for chunk in terminal.read_chunks():
            cancel_hint()
            chunks.append(chunk)
        return b"".join(chunks)


@contextmanager
def _hint(terminal: Terminal, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Report that standard input is read if that takes long: nobody may write to it.

    :return: a callable that cancels this. The end of the context does so, too.
    """
    text = "txgearman: reading the workload from standard input; give '' for none"
    hint = terminal.reactor.callLater(HINT_DELAY, terminal.write_error, text)

    def cancel() -> None:
        if hint.active():
            hint.cancel()

    if quiet:
        cancel()
    try:
        yield cancel
    finally:
        cancel()


def _submit_background(request: Request, client: GearmanClient, workload: bytes) -> Deferred[bytes]:
    """Submit a background job.

    :return: fires with the line to print, which is the job handle; fails with the error of the task.
    """
    with usage_errors():
        submitted = client.submit(Task(request.function, workload, **request.options))
    return submitted.addCallback(_line_of)


def _line_of(handle: object) -> bytes:
    return f"{handle}\n".encode()


async def _stream_result(
    terminal: Terminal, request: Request, client: GearmanClient, workload: bytes, progress: Progress
) -> None:
    """Submit a foreground job, and write its data and result as they arrive."""
    with usage_errors():
        chunks = client.stream(
            request.function,
            workload,
            on_status=progress.status_received,
            on_warning=progress.warning_received,
            **request.options,
        )
    last = b"\n"
    async with aclosing(chunks):
        with usage_errors():  # the task is submitted by the first step
            chunk = await anext(chunks, None)
        while chunk is not None:
            progress.clear()
            await terminal.write(chunk)
            last = chunk
            chunk = await anext(chunks, None)
    if terminal.is_stdout_tty and not last.endswith(b"\n"):
        await terminal.write(b"\n")  # so that the shell's prompt starts on a new line


class LineBatch:
    """Submits one job for each line of standard input."""

    def __init__(self, terminal: Terminal, request: Request, client: GearmanClient, progress: Progress) -> None:
        assert request.lines is not None
        self._terminal = terminal
        self._request = request
        self._client = client
        self._progress = progress
        self._line_end = request.lines
        self._lines_submitted = 0
        self._first_code = ExitCode.DONE

    async def run(self) -> ExitCode:
        """Write each result as a line, in the order of the input; return the exit code of the first failure."""
        workloads = self._terminal.read_lines(self._line_end)
        # On a terminal, the lines themselves show the progress.
        shows_count = not (self._terminal.is_stdout_tty or self._terminal.is_stdin_tty)
        done = 0
        results: AsyncGenerator[bytes, None] = map_workloads(self._submit, workloads, self._request.concurrency)
        async with aclosing(results):
            async for result in results:
                done += 1
                await self._terminal.write(result + self._line_end)
                if shows_count:
                    self._progress.lines_done(done)
        return self._first_code

    def _submit(self, workload: bytes) -> Deferred[bytes]:
        """Submit the job of the next line.

        :return: fires with the line to print. A failed job is reported, and its line is empty.
        """
        self._lines_submitted += 1
        if self._request.background:
            handle = _submit_background(self._request, self._client, workload)
            result = handle.addCallback(lambda line: line[:-1])
        else:
            result = self._submit_foreground(workload)
        return result.addErrback(self._line_failed, self._lines_submitted)

    def _submit_foreground(self, workload: bytes) -> Deferred[bytes]:
        """Submit a foreground job; its Deferred fires with its data and result, joined."""
        data: list[bytes] = []
        with usage_errors():
            submitted = self._client.add_task(
                self._request.function,
                workload,
                on_data=lambda _, chunk: data.append(chunk),
                on_warning=self._progress.warning_received,
                on_retry=lambda _, __: data.clear(),
                **self._request.options,
            )
        return submitted.addCallback(lambda result: b"".join([*data, result]))

    def _line_failed(self, failure: Failure, line: int) -> bytes:
        """Report the failure of a line and return an empty result; raise if the other lines would fail as well."""
        error = failure.value
        if not isinstance(error, GearmanError) or isinstance(error, (ClientStopped, NoServersAvailable)):
            failure.raiseException()
        code = exit_code_for(error)
        assert code is not None
        self._progress.clear()
        self._terminal.write_error(f"txgearman: line {line}: {error}")
        self._first_code = self._first_code or code
        return b""
