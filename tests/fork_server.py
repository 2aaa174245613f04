"""Run Python programs, each in a process that is forked from this one, which has imported what most of them import.

The imports take longer than the programs; that of the reactor is theirs. Each line of standard input is a request in
JSON: the arguments of Python, the environment, the working directory, and the files of standard input, output and
error, which is the output if there are only two. A line answers it: the ID of its process. When a process has ended, a
line has its ID and its exit code.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

MODULES = [
    "asyncio",
    "twisted.internet.epollreactor",
    "twisted.internet.task",
    "txgearman",
    "txgearman.cli.main",
    "txgearman.testing",
]
NO_CHILD = (0, 0)


def next_request() -> dict[str, Any] | None:
    """Return the next request, in the process that is to run it; None at the end of the input."""
    wakeup, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    while True:
        ready, _, _ = select.select([0, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
            report_ends()
        if 0 in ready:
            line = read_line()
            if not line:
                return None
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                # What runs in the background of a shell may inherit an ignored SIGINT.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.close(wakeup)
                os.close(wake)
                return become(json.loads(line))
            print(pid, flush=True)


def read_line() -> bytes:
    """Read a line without a buffer, which would hide the next one from select. Only one comes until it is answered."""
    line = b""
    while part := os.read(0, 65536):
        line += part
        if part.endswith(b"\n"):
            break
    return line


def report_ends() -> None:
    """Print which processes have ended."""
    try:
        while (ended := os.waitpid(-1, os.WNOHANG)) != NO_CHILD:
            print(ended[0], os.waitstatus_to_exitcode(ended[1]), flush=True)
    except ChildProcessError:
        pass


def become(request: dict[str, Any]) -> dict[str, Any]:
    """Take the files, the directory and the environment that a process is to have."""
    for descriptor, file in enumerate(request["files"]):
        opened = os.open(file, os.O_WRONLY if descriptor else os.O_RDONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
    if len(request["files"]) == 2:
        os.dup2(1, 2)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if "PYTHONUNBUFFERED" in os.environ:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]  # it is a TextIOWrapper
    return request


def run(arguments: list[str], path: list[str]) -> None:
    """Do what Python does with such arguments.

    :param path: where modules are looked for, after the folder of the script, and PYTHONPATH.
    """
    main = sys.modules["__main__"] = ModuleType("__main__")
    path = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *path]
    if arguments[0] == "-m":
        sys.argv, sys.path = arguments[1:], [os.getcwd(), *path]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv, sys.path = ["-c", *arguments[2:]], ["", *path]
        exec(arguments[1], vars(main))
    else:
        sys.argv, sys.path = arguments, [os.path.dirname(arguments[0]), *path]
        main.__file__ = arguments[0]
        with open(arguments[0], encoding="utf-8") as file:
            exec(compile(file.read(), arguments[0], "exec"), vars(main))


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # in the place of the folder of this file
    for module in MODULES:
        import_module(module)
    request = next_request()
    if request is not None:
        run(request["arguments"], sys.path[1:])
