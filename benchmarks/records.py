"""What was measured, with what, and where: files of JSON, which the page about speed is made from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import twisted

import txgearman

__all__ = ["surroundings", "write"]


def surroundings() -> dict[str, Any]:
    """The date, the machine, and the versions of what takes part."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "kernel": platform.release()},
        "versions": {
            "txgearman": txgearman.__version__,
            "Twisted": twisted.__version__,
            "Python": platform.python_version(),
            "gearmand": _gearmand(),
        },
    }


def write(path: Path, figures: Mapping[str, Any]) -> None:
    """Write these, and what surrounds them."""
    path.write_text(json.dumps({**surroundings(), **figures}, indent=1, ensure_ascii=False) + "\n", "utf-8")


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
