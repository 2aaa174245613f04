"""gearmand's text protocol: answers the lines of an administrator (docs/gearman.md §11)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from ..validation import whole_number
from .core import Connection, JobServerCore
from .jobs import MAX_UNIQUE, Function, Job

VERSION: Final = b"1.1.20-txgearman"
"""The answer to `version`: the gearmand that this server imitates, and that it is not one itself."""

MAX_ARGUMENTS: Final = 4
"""gearmand closes the connection for a line with more."""

OK: Final = b"OK\r\n"


def answer(core: JobServerCore, line: bytes) -> bytes | None:
    """Answer a line.

    The caller has looked at the jobs.

    :return: the answer, with its line end; None where gearmand closes the connection.
    """
    core.jobs.see_all()
    command = Command(line)
    if len(command.arguments) > MAX_ARGUMENTS:
        return None
    return _COMMANDS.get(command.name.lower(), _unknown)(core, command)


class Command:
    """One line.

    :ivar name: its first word, as it was received.
    :ivar arguments: the other words. As in C, each ends at its first NUL.
    :ivar bare: whether the line ends with LF alone, without CR.
    """

    def __init__(self, line: bytes) -> None:
        text = line.removesuffix(b"\n")
        self.bare = not text.endswith(b"\r")
        words = [_c_string(word) for word in re.split(rb" +", text.removesuffix(b"\r"))]
        self.name, *self.arguments = words

    def is_about(self, subject: bytes, count: int) -> bool:
        """Return whether it has that many arguments, of which this is the first."""
        return len(self.arguments) == count and self.arguments[0].lower() == subject


def _c_string(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def _unknown(_: JobServerCore, command: Command) -> bytes:
    return b"ERR UNKNOWN_COMMAND Unknown+server+command%b\r\n" % command.name


def _incomplete(command: Command) -> bytes:
    text = b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+%b\r\n"
    return text % command.name


def _listing(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in [*lines, b"."])


def _row(function: Function, *numbers: int) -> bytes:
    return b"\t".join([_c_string(function.name), *(b"%d" % number for number in numbers)])


def _status(core: JobServerCore, _: Command) -> bytes:
    functions = core.jobs.functions.values()
    return _listing([_row(each, each.total, each.running, len(each.abilities)) for each in functions])


def _priority_status(core: JobServerCore, _: Command) -> bytes:
    functions = core.jobs.functions.values()
    return _listing([_row(each, *map(len, each.queues), len(each.abilities)) for each in functions])


def _workers(core: JobServerCore, _: Command) -> bytes:
    return _listing([_worker(connection) for connection in core.connections])


def _worker(connection: Connection) -> bytes:
    names = b"".join(b" " + _c_string(ability.function.name) for ability in reversed(connection.abilities))
    return b"%d %b %b :%b" % (connection.number, connection.host, _c_string(connection.client_id), names)


def _show(core: JobServerCore, command: Command) -> bytes:
    words = [argument.lower() for argument in command.arguments]
    if not words:
        return _unknown(core, command)
    if words == [b"jobs"]:
        return _listing([_job(job) for job in core.jobs])
    if words == [b"unique", b"jobs"]:
        return _listing([job.unique[:MAX_UNIQUE] for job in core.jobs])
    return b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"


def _job(job: Job) -> bytes:
    return b"%b\t%d\t%d\t%d" % (job.handle, job.retries, job.dropped, job.background and not job.dropped)


def _version(_: JobServerCore, __: Command) -> bytes:
    return b"OK %b\n" % VERSION


def _verbose(_: JobServerCore, __: Command) -> bytes:
    return b"OK ERROR\n"


def _getpid(_: JobServerCore, __: Command) -> bytes:
    return b"OK %d\n" % os.getpid()


def _max_queue(core: JobServerCore, command: Command) -> bytes:
    if not command.arguments:
        return _incomplete(command)
    name, *texts = command.arguments
    function = core.jobs.functions.get(name)
    if function is not None:
        limits = [max(0, whole_number(text)) for text in texts] or [0]
        function.limits = limits * 3 if len(limits) == 1 else [*limits, 0][:3]
    return OK


def _create(core: JobServerCore, command: Command) -> bytes:
    if not command.is_about(b"function", 2):
        return _incomplete(command)
    name = command.arguments[1]
    core.jobs.function(name[:-1] if command.bare else name)
    return OK


def _drop(core: JobServerCore, command: Command) -> bytes:
    if not command.is_about(b"function", 2):
        return _incomplete(command)
    if command.arguments[1] not in core.jobs.functions:
        return b"ERR function not found\r\n"
    if core.jobs.drop_function(command.arguments[1]):
        return OK
    return b"ERR there are still connected workers or executing clients\r\n"


def _cancel(core: JobServerCore, command: Command) -> bytes:
    if len(command.arguments) < 2:
        return _unknown(core, command)
    if not command.is_about(b"job", 2):
        return b"ERR UNKNOWN_ERROR\r\n"
    job = core.jobs.by_handle(command.arguments[1])
    if job is None:
        return b"ERR UNKNOWN_JOB\r\n"
    core.cancel(job)
    return OK


_COMMANDS: Final[Mapping[bytes, Callable[[JobServerCore, Command], bytes]]] = {
    b"status": _status,
    b"prioritystatus": _priority_status,
    b"workers": _workers,
    b"show": _show,
    b"version": _version,
    b"verbose": _verbose,
    b"getpid": _getpid,
    b"maxqueue": _max_queue,
    b"create": _create,
    b"drop": _drop,
    b"cancel": _cancel,
}
