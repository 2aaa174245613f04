"""The text protocol: a line in, its answer out (GEARMAN.md section 11)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from .core import Core
from .jobs import Function

VERSION: Final = b"1.1.20-txgearman"
"""What `version` says: the gearmand that this server behaves like, and that it is another."""

MAX_LINE: Final = 8191
MAX_WORDS: Final = 5

OK: Final = b"OK\r\n"
UNKNOWN: Final = b"ERR UNKNOWN_COMMAND Unknown+server+command%b\r\n"
INCOMPLETE: Final = b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+%b\r\n"


def answer(core: Core, line: bytes) -> bytes | None:
    """The answer to a line (without its end); None where gearmand closes the connection."""
    words = line.split(b" ")
    if len(line) > MAX_LINE or len(words) > MAX_WORDS:
        return None
    name, *arguments = words
    command = _COMMANDS.get(name.lower())
    return UNKNOWN % name if command is None else command(core, arguments)


def _listing(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in [*lines, b"."])


def _status(core: Core, _: list[bytes]) -> bytes:
    return _listing(
        [
            b"%b\t%d\t%d\t%d" % (function.name, function.total, function.running, len(function.abilities))
            for function in core.jobs.functions.values()
        ]
    )


def _priority_status(core: Core, _: list[bytes]) -> bytes:
    return _listing([_priority_row(function) for function in core.jobs.functions.values()])


def _priority_row(function: Function) -> bytes:
    counts = [*map(len, function.queues), len(function.abilities)]
    return b"\t".join([function.name, *(b"%d" % count for count in counts)])


def _workers(core: Core, _: list[bytes]) -> bytes:
    return _listing(
        [
            b"%d %b %b :%b"
            % (
                connection.number,
                connection.host,
                connection.client_id,
                b"".join(b" " + ability.function.name for ability in connection.abilities),
            )
            for connection in core.connections
        ]
    )


def _show(core: Core, arguments: list[bytes]) -> bytes:
    words = [argument.lower() for argument in arguments]
    if not words:
        return UNKNOWN % b"show"
    if words == [b"jobs"]:
        return _listing(
            [b"%b\t%d\t%d\t%d" % (job.handle, job.retries, job.dropped, job.worker is not None) for job in core.jobs]
        )
    if words == [b"unique", b"jobs"]:
        return _listing([job.unique for job in core.jobs])
    return b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"


def _version(_: Core, __: list[bytes]) -> bytes:
    return b"OK %b\n" % VERSION


def _verbose(_: Core, __: list[bytes]) -> bytes:
    return b"OK ERROR\n"


def _getpid(_: Core, __: list[bytes]) -> bytes:
    return b"OK %d\n" % os.getpid()


def _max_queue(core: Core, arguments: list[bytes]) -> bytes:
    if not arguments:
        return INCOMPLETE % b"maxqueue"
    name, *numbers = arguments
    function = core.jobs.functions.get(name)
    if function is not None:
        limits = [max(0, _leading_number(number)) for number in numbers]
        function.limits = limits if len(limits) == len(function.limits) else [*limits, 0][:1] * len(function.limits)
    return OK


def _leading_number(text: bytes) -> int:
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return int(digits or 0)


def _create(core: Core, arguments: list[bytes]) -> bytes:
    if len(arguments) == 2 and arguments[0].lower() == b"function":
        core.jobs.function(arguments[1])
        return OK
    return UNKNOWN % b"create"


def _drop(core: Core, arguments: list[bytes]) -> bytes:
    if len(arguments) == 2 and arguments[0].lower() == b"function":
        if arguments[1] not in core.jobs.functions:
            return b"ERR function not found\r\n"
        if core.jobs.drop_function(arguments[1]):
            return OK
        return b"ERR there are still connected workers or executing clients\r\n"
    return UNKNOWN % b"drop"


def _cancel(core: Core, arguments: list[bytes]) -> bytes:
    if len(arguments) != 2:
        return UNKNOWN % b"cancel" + b""
    if arguments[0].lower() != b"job":
        return b"ERR UNKNOWN_ERROR\r\n"
    job = core.jobs.by_handle(arguments[1])
    if job is None:
        return b"ERR UNKNOWN_JOB\r\n"
    core.cancel(job)
    return OK


_COMMANDS: Final[Mapping[bytes, Callable[[Core, list[bytes]], bytes]]] = {
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
