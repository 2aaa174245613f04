"""The programs in C that the benchmarks need, compiled once for each run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["CPIPE", "LIBGEARMAN_WORKER", "WORKER", "compiled"]

CPIPE = "cpipe"
"""The fastest client in C that could be written: one connection, and a hash table of handles. Needs only a compiler."""

WORKER = "worker"
"""A worker in C that gives workloads back, and is never the slowest part. Needs only a compiler."""

LIBGEARMAN_WORKER = "libgearman_worker"
"""libgearman's worker. Needs libgearman-dev as well."""

_LIBRARIES = {LIBGEARMAN_WORKER: ["-lgearman"]}

_SOURCES = Path(__file__).parent / "c"


@cache
def compiled(name: str) -> Path | None:
    """Compile a program of the folder ``c``; None, and a line on stderr, where that is not possible."""
    program = Path(_folder().name) / name
    libraries = _LIBRARIES.get(name, [])
    compiler = shutil.which("cc")
    if compiler is not None:
        command = [compiler, "-O2", "-o", str(program), str(_SOURCES / f"{name}.c"), *libraries]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return program
    needs = "cc, and apt-get install libgearman-dev" if libraries else "cc"
    print(f"{name} is left out: it takes {needs}", file=sys.stderr)
    return None


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()  # removed at the exit of this process
