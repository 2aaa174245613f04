"""Programs that some tests need and that a machine may lack: such a test is skipped, and CI lets none be skipped."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final, NoReturn

import pytest

__all__ = ["APT", "PIP", "REQUIRED", "missing_programs", "open_terminal", "require", "require_program"]

APT: Final = {
    "gearmand": "gearman-job-server",
    "gearman": "gearman-tools",
    "gearadmin": "gearman-tools",
    "cc": "gcc libc6-dev",
    "libgearman": "libgearman-dev",
    "stunnel4": "stunnel4",
    "haproxy": "haproxy",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
    "chromium": "chromium",
    "curl": "curl",
}
"""The Debian packages that programs and libraries come from."""

PIP: Final = {
    "apscheduler": "APScheduler",
    "crochet": "crochet",
    "gear": "gear",
    "klein": "klein",
    "msgspec": "msgspec",
    "mypy": "mypy",
    "mypy_zope": "mypy-zope",
    "sentry_sdk": "sentry-sdk",
    "watchfiles": "watchfiles",
    "yaml": "PyYAML",
}
"""The requirements that Python modules come from."""

REQUIRED: Final = "TXGEARMAN_REQUIRE_PROGRAMS"
"""The environment variable that makes a failure of what would be a skip."""

ABSENT: Final = re.compile(r"needs ([\w-]+), which is not installed")


def require_program(name: str) -> str:
    """Return where the program is. Where it is not installed, skip the test."""
    # Debian has daemons in /usr/sbin, which is not on a plain user's PATH.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin") or _absent(name)


def require(name: str) -> None:
    """Skip the test where this program, library or Python module is not installed."""
    if name in PIP:
        importlib.util.find_spec(name) or _absent(name)
    elif name == "libgearman":
        require_program("cc")
        _have_headers("libgearman/gearman.h") or _absent(name)
    else:
        require_program(name)


def open_terminal() -> tuple[int, int]:
    """Open a pseudo-terminal; return both sides. Skip the test where there are none, as in a chroot without devpts."""
    try:
        return os.openpty()
    except OSError as error:
        _skip(f"needs a pseudo-terminal ({error}): mount -t devpts devpts /dev/pts")


def _have_headers(name: str) -> bool:
    """Whether the C compiler finds this file."""
    source = f"#include <{name}>\n".encode()
    return subprocess.run(["cc", "-E", "-"], input=source, capture_output=True, check=False).returncode == 0


def _absent(name: str) -> NoReturn:
    _skip(f"needs {name}, which is not installed: {_install([name])}")


def _skip(reason: str) -> NoReturn:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{reason} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(reason)


def missing_programs(reasons: Iterable[str]) -> str:
    """Return a line that names the programs for whose lack tests were skipped, and how to install them.

    :param reasons: why tests were skipped; other reasons are left out.
    """
    names = [found[1] for reason in reasons if (found := ABSENT.search(reason))]
    if not names:
        return ""
    missing = sorted(set(names))
    return f"{len(names):,} tests were skipped for lack of {', '.join(missing)}: {_install(missing)}"


def _install(names: Iterable[str]) -> str:
    """The commands that install these."""
    known = set(names)
    apt = sorted({package for name in known & APT.keys() for package in APT[name].split()})
    pip = sorted(PIP[name] for name in known & PIP.keys())
    commands = [f"apt-get install {' '.join(apt)}"] if apt else []
    commands += [f"pip install {' '.join(pip)}"] if pip else []
    return "; ".join(commands)
