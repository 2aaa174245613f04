"""Programs that some tests need and that a machine may lack: such a test is skipped, and CI lets none be skipped."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final, NoReturn

import pytest

from txgearman.testing.gearmand import GearmandMissing, gearmand_program, is_in_perl

__all__ = [
    "APT",
    "PERL_SERVER",
    "PIP",
    "REQUIRED",
    "gearmand_version",
    "is_version",
    "missing_programs",
    "open_terminal",
    "perl_server",
    "require",
    "require_program",
    "require_version",
]

APT: Final = {
    "gearmand": "gearman-job-server",
    "gearman-server": "gearman-server",
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
    "perl": "perl",
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

PERL_SERVER: Final = "TXGEARMAN_PERL_SERVER"
"""The environment variable with the directory into which the packages of Perl's job server were unpacked. CI does not
install them, since its program has the name of gearmand, too."""

ABSENT: Final = re.compile(r"needs ([\w-]+), which is not installed")


def require_program(name: str) -> str:
    """Return where the program is. Where it is not installed, skip the test.

    Of the C programs, an environment variable names another one: TXGEARMAN_GEARMAND, TXGEARMAN_GEARMAN,
    TXGEARMAN_GEARADMIN.
    """
    if name == "gearmand":
        try:
            return gearmand_program()
        except GearmandMissing:
            _absent(name)
    named = os.environ.get(f"TXGEARMAN_{name.upper()}")
    # Debian has daemons in /usr/sbin, which is not on a plain user's PATH.
    return named or shutil.which(name) or shutil.which(name, path="/usr/sbin") or _absent(name)


@functools.cache
def gearmand_version() -> str:
    """Return what gearmand says of its version: "1.1.20+ds", "2.0.0"."""
    command = [require_program("gearmand"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]


def is_version(version: str, *prefixes: str) -> bool:
    """Return whether a version begins with all numbers of one of these: 1.1.20+ds does with 1.1, and not with 1.1.2."""
    return any(re.match(rf"{re.escape(prefix)}(?!\d)", version) for prefix in prefixes)


def require_version(*prefixes: str) -> None:
    """Skip the test where gearmand is of none of these versions."""
    version = gearmand_version()
    if not is_version(version, *prefixes):
        pytest.skip(f"is about gearmand {' or '.join(prefixes)}; this one is {version}")


def perl_server() -> list[str]:
    """Return the command that starts the job server in Perl. Where it is not installed, skip the test."""
    directory = os.environ.get(PERL_SERVER, "/")
    program = os.path.join(directory, "usr/bin/gearmand")
    if not (os.path.exists(program) and is_in_perl(program)):
        _absent("gearman-server")
    return [require_program("perl"), "-I", os.path.join(directory, "usr/share/perl5"), program]


def require(name: str) -> None:
    """Skip the test where this program, library or Python module is not installed."""
    if name == "gearman-server":
        perl_server()
    elif name in PIP:
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
