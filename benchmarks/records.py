"""What was measured, with what, and where: files of JSON, and beside each its tables for the page about speed."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import twisted

import txgearman

from .pages import write_pages

__all__ = ["describe_build", "surroundings", "write"]

_BUILD = """
import platform, sysconfig
arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
print(platform.python_version())
print("--enable-optimizations" in arguments)
print("--with-lto" in arguments)
"""


def describe_build(python: str) -> str:
    """Say whether an interpreter was built with what makes it faster, as those of most distributions are.

    Debian's is, by other means than the arguments that are looked at here.
    """
    version, profiled, linked = _build(python)
    if profiled and linked:
        return f"Python {version}, built with PGO and LTO"
    missing = " and ".join(name for name, there in (("PGO", profiled), ("LTO", linked)) if not there)
    return f"Python {version}, configured without {missing}: most distributions have both, and take 10 to 16 % less CPU"


def _build(python: str) -> tuple[str, bool, bool]:
    """Return the version of an interpreter, and whether it was configured with PGO and LTO."""
    printed = subprocess.run([python, "-c", _BUILD], check=True, capture_output=True, text=True).stdout.split()
    return printed[0], printed[1] == "True", printed[2] == "True"


def surroundings(python: str = sys.executable) -> dict[str, Any]:
    """The date, the machine, and the versions of what takes part."""
    version, profiled, linked = _build(python)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "kernel": platform.release()},
        "versions": {
            "txgearman": txgearman.__version__,
            "Twisted": twisted.__version__,
            "Python": version,
            "gearmand": _gearmand(),
        },
        "build": {"PGO": profiled, "LTO": linked},
    }


def write(path: Path, figures: Mapping[str, Any], python: str = sys.executable) -> None:
    """Write these, what surrounds them, and the tables of both.

    :param python: the interpreter that was measured.
    """
    path.write_text(json.dumps({**surroundings(python), **figures}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    write_pages(path)


def _processor() -> str:
    with open("/proc/cpuinfo") as info:
        found = re.search(r"^model name\s*:\s*(.*)$", info.read(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _gearmand() -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    printed = subprocess.run(
        ["gearmand", "--version"], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    return printed.stdout.split()[1]
