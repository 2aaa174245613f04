"""Run Python scripts, each in a process that is forked from this one, which has imported what most scripts import.

The imports take longer than the scripts; that of the reactor is theirs. Each line of standard input names, in JSON,
the file of a script, and the files of its standard output and error. Two lines answer it: the pid of its process, as
soon as there is one, and its exit code.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

MODULES = ["asyncio", "twisted.internet.epollreactor", "twisted.internet.task", "txgearman", "txgearman.testing"]


def next_script() -> str | None:
    """Return the text of a script, in the process that is to run it; None at the end of the input."""
    for line in sys.stdin:
        script, *files = json.loads(line)
        pid = os.fork()
        if not pid:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for descriptor, file in enumerate(files, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            with open(script, encoding="utf-8") as text:
                return text.read()
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    for module in MODULES:
        import_module(module)
    source = next_script()
    if source is not None:
        exec(compile(source, "<script>", "exec"), {"__name__": "__main__"})
