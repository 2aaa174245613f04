"""Which tests a run is made of, and what becomes of those whose programs are not installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from txgearman.testing import gearmand

from . import programs
from .programs import (
    is_version,
    missing_programs,
    open_terminal,
    perl_server,
    require,
    require_program,
    require_version,
)
from .tiers import Guard, chosen_tiers, left_out, parse_tiers, tier_of


def config(*tiers: str, arguments: tuple[str, ...] = ("tests",)) -> Any:
    return SimpleNamespace(getoption=lambda name: list(tiers), args=list(arguments))


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ((), {"memory"}),
        (("daemon",), {"daemon"}),
        (("daemon, process", "soak"), {"daemon", "process", "soak"}),
        (("memory", "all"), {"memory", "daemon", "process", "soak"}),
    ],
)
def test_tiers_are_chosen_by_the_option(arguments: tuple[str, ...], chosen: set[str]) -> None:
    assert chosen_tiers(config(*arguments)) == chosen


def test_a_test_that_is_named_runs_in_any_tier() -> None:
    assert len(chosen_tiers(config(arguments=("tests/test_geard.py::test_a",)))) == 4
    assert chosen_tiers(config(arguments=("tests/test_geard.py::test_a", "tests"))) == {"memory"}
    assert chosen_tiers(config("soak", arguments=("tests/test_geard.py::test_a",))) == {"soak"}


def test_an_unknown_tier_is_a_usage_error() -> None:
    with pytest.raises(pytest.UsageError, match="not daemons, slow"):
        parse_tiers("slow,memory,daemons")


def item(*marks: str, fixtures: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(iter_markers=lambda: [SimpleNamespace(name=name) for name in marks], fixturenames=fixtures)


@pytest.mark.parametrize(
    ("marks", "fixtures", "tier"),
    [
        ((), (), "memory"),
        (("guarantee", "parametrize"), ("monkeypatch",), "memory"),
        (("process",), (), "process"),
        ((), ("gearmand",), "daemon"),
        (("process",), ("gearmand",), "process"),
        (("soak", "daemon"), (), "soak"),
    ],
)
def test_the_tier_of_a_test(marks: tuple[str, ...], fixtures: tuple[str, ...], tier: str) -> None:
    assert tier_of(item(*marks, fixtures=fixtures)) == tier


def test_what_is_left_out_is_reported_with_the_option_that_runs_it() -> None:
    assert left_out({}) == ""
    line = left_out({"soak": 1, "daemon": 1234})
    assert line.startswith("not run: 1,234 of daemon, 1 of soak (--tier=daemon,soak ")


def test_a_test_of_the_tier_memory_can_start_no_server() -> None:
    guard = Guard()
    popen: tuple[str, Any] = ("subprocess.Popen", ("/usr/sbin/gearmand", ["/usr/sbin/gearmand", "-d"], None, {}))
    guard(*popen)  # no test is run
    guard.tier = "daemon"
    guard(*popen)
    guard.tier = "memory"
    guard("subprocess.Popen", ("cat", ["cat"], None, {}))
    for command in (["/usr/sbin/gearmand", "-d"], ["python3.11", "-c", ""], b"python"):
        with pytest.raises(AssertionError, match="must be marked"):
            guard("subprocess.Popen", (None, command, None, {}))


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv(programs.REQUIRED, raising=False)
    monkeypatch.delenv(gearmand.PROGRAM, raising=False)
    monkeypatch.setenv(programs.PERL_SERVER, str(tmp_path))


@pytest.mark.usefixtures("nothing_installed")
def test_a_test_is_skipped_where_its_program_is_not_installed() -> None:
    reasons = []
    for name in (*programs.APT.keys() - {"libgearman"}, *programs.PIP, "stunnel4"):
        with pytest.raises(pytest.skip.Exception) as skipped:
            require(name)
        reasons.append(str(skipped.value))
    line = missing_programs([*reasons, "only Linux tells"])
    assert line.split(": ") == [
        "24 tests were skipped for lack of apscheduler, cc, chromium, crochet, curl, gear, gearadmin, gearman, "
        "gearman-server, gearmand, haproxy, klein, msgspec, mypy, mypy_zope, perl, prometheus, promtool, sentry_sdk, "
        "stunnel4, systemd-analyze, watchfiles, yaml",
        "apt-get install chromium curl gcc gearman-job-server gearman-server gearman-tools haproxy libc6-dev perl "
        "prometheus stunnel4 systemd; "
        "pip install APScheduler PyYAML crochet gear klein msgspec mypy mypy-zope sentry-sdk watchfiles",
    ]


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_program_is_a_failure_where_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(programs.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=r"needs gearmand, .*apt-get install gearman-job-server"):
        require_program("gearmand")


@pytest.mark.usefixtures("nothing_installed")
def test_a_test_is_skipped_where_there_is_no_pseudo_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "openpty", lambda: os.open("/no/such/device", os.O_RDWR))
    with pytest.raises(pytest.skip.Exception, match="mount -t devpts"):
        open_terminal()


def test_no_line_where_nothing_is_missing() -> None:
    assert missing_programs(["only Linux tells"]) == ""


@pytest.mark.usefixtures("nothing_installed")
def test_a_program_that_a_plain_users_path_has_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: path and f"{path}/{name}")
    assert require_program("stunnel4") == "/usr/sbin/stunnel4"


def test_a_program_is_named_by_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXGEARMAN_GEARADMIN", "/opt/gearadmin")
    monkeypatch.setenv("TXGEARMAN_GEARMAND", sys.executable)
    assert [require_program(name) for name in ("gearadmin", "gearmand")] == ["/opt/gearadmin", sys.executable]


def test_the_server_in_perl_is_started_from_where_it_was_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setenv(programs.PERL_SERVER, str(tmp_path))
    program = tmp_path / "usr" / "bin" / "gearmand"
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/perl\n")
    assert perl_server() == ["/usr/bin/perl", "-I", f"{tmp_path}/usr/share/perl5", str(program)]


@pytest.mark.parametrize(
    ("version", "prefixes", "expected"),
    [
        ("1.1.20+ds", ("1.1",), True),
        ("1.1.20+ds", ("1.1.2", "2.0"), False),
        ("2.0.0-51-ge4f600b6", ("1.1", "2.0"), True),
        ("2.0.0", ("2.0.0-",), False),
    ],
)
def test_version_begins_with_all_numbers_of_a_prefix(version: str, prefixes: tuple[str, ...], expected: bool) -> None:
    assert is_version(version, *prefixes) == expected


def test_a_test_of_another_version_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "gearmand_version", lambda: "1.1.20+ds")
    require_version("1.1")
    with pytest.raises(pytest.skip.Exception, match=r"is about gearmand 2\.0; this one is 1\.1\.20\+ds"):
        require_version("2.0")


@pytest.mark.parametrize("code", [0, 1])
def test_libgearman_is_there_if_the_compiler_finds_it(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    monkeypatch.delenv(programs.REQUIRED, raising=False)
    if code:
        with pytest.raises(pytest.skip.Exception, match=r"needs libgearman, .*libgearman-dev"):
            require("libgearman")
    else:
        require("libgearman")
