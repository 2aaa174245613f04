"""The group of all commands, and what runs before the command line is read: the extra may not be installed."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest
from click.shell_completion import ShellComplete

from txgearman.__main__ import main, open_closed_descriptors
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.main import cli
from txgearman.cli.options import Servers
from txgearman.cli.terminal import Terminal

from .harness import parse_command, usage_error


def test_main_runs_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["txgearman", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().out.split(",")[0]) == (0, "txgearman")


@pytest.fixture
def command_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "txgearman.cli.main")


@pytest.mark.usefixtures("command_not_imported")
def test_missing_click_is_missing_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "python -m pip install 'txgearman[cli]'" in capsys.readouterr().err


@pytest.mark.usefixtures("command_not_imported")
def test_other_missing_module_is_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "txgearman.cli.commands", None)
    with pytest.raises(ImportError, match=r"txgearman\.cli\.commands"):
        main()


NAGIOS: Final = "check"
"""The command whose letters are those of Nagios plugins."""


def test_letter_means_the_same_in_each_command() -> None:
    names: defaultdict[str, set[str]] = defaultdict(set)
    for command in [cli, *(command for name, command in cli.commands.items() if name != NAGIOS)]:
        for option in command.params:
            for letter in (name for name in option.opts if not name.startswith("--")):
                names[letter] |= {name for name in option.opts if name.startswith("--")}
    assert {letter: long for letter, long in names.items() if letter.startswith("-") and len(long) != 1} == {}


# Options before and after the command.


@pytest.fixture
def servers_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Servers, int]]:
    """What a command line makes of its options: the servers of the command, and the verbosity of the log."""
    shown: list[Servers] = []

    async def show(_: Terminal, __: str, servers: Servers, *___: object, **____: object) -> ExitCode:
        shown.append(servers)
        return ExitCode.DONE

    def parse(*arguments: str) -> tuple[Servers, int]:
        main, verbosity = parse_command(*arguments)
        with suppress(StopIteration):
            main(Terminal(None)).send(None)
        return shown.pop(), verbosity

    monkeypatch.setattr("txgearman.cli.admin.show", show)
    return parse


def test_options_may_precede_command_or_follow_it(servers_of: Callable[..., tuple[Servers, int]]) -> None:
    options = "-s", "a", "-s", "b", "--prefix", "p", "--connect-timeout", "1m", "--tls-ca", "ca.pem", "-v"
    before = servers_of(*options, "status")
    assert before == servers_of("status", *options)
    assert before == (Servers(["a", "b"], b"p", 60.0, {"trust_roots": "ca.pem"}), 1)


def test_empty_address_is_a_usage_error_and_not_the_default() -> None:
    """It is what a variable of a shell that is not set gives: `drop` would reach another server than was meant."""
    assert "--server must be an address, not ''" in usage_error("-s", "", "drop", "resize")


def test_option_after_command_overrides_the_one_before(servers_of: Callable[..., tuple[Servers, int]]) -> None:
    servers, _ = servers_of("-s", "a", "-s", "b", "--prefix", "p", "status", "-s", "c")
    assert (servers.addresses, servers.prefix) == (["c"], b"p")


def test_verbosity_before_and_after_command_is_added_up(servers_of: Callable[..., tuple[Servers, int]]) -> None:
    assert servers_of("-v", "status", "-v")[1] == servers_of("status", "-vv")[1] == 2


def test_option_that_command_does_not_have_is_refused_before_it() -> None:
    assert usage_error("-s", "a", "server") == "server has no option --server"
    for command in ("ping", "submit"):  # that of a job is another
        assert usage_error("--server-timeout", "1", command, "f") == f"{command} has no option --server-timeout"


def test_quiet_may_precede_command() -> None:
    assert parse_command("-q", "work", "f", "cat")[1] == parse_command("work", "-q", "f", "cat")[1] == -1


def test_options_before_command_override_environment(
    servers_of: Callable[..., tuple[Servers, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEARMAN_SERVERS", "e:1,f:2")
    assert servers_of("status")[0].addresses == ["e:1", "f:2"]
    assert servers_of("-s", "a", "status")[0].addresses == ["a"]


def test_help_lists_each_command_once_in_sections(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"], standalone_mode=False)
    listing = capsys.readouterr().out.partition("\nJobs:\n")[2].partition("Exit codes")[0]
    assert re.findall(r"^(\w+):$", listing, re.MULTILINE) == ["Servers", "Monitoring", "Development"]
    assert sorted(re.findall(r"^  (\w+)", listing, re.MULTILINE)) == sorted(cli.commands)


def test_help_lists_own_options_of_command_before_shared_ones(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["job", "--help"], standalone_mode=False)
    options = re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)
    assert options.index("--unique") < options.index("--server") < options.index("--verbose") < options.index("--help")


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["st"], ["status"]),
        (["status", "--js"], ["--json"]),
        (["-s", "a", "top", "--interval", "1", "--co"], ["--count", "--connect-timeout"]),
    ],
)
def test_shell_completes_commands_and_options(words: list[str], completions: list[str]) -> None:
    *before, word = words
    completed = ShellComplete(cli, {}, "txgearman", "_TXGEARMAN_COMPLETE").get_completions(before, word)
    assert sorted(each.value for each in completed) == sorted(completions)


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2), ()])
def test_closed_descriptors_are_opened_on_null_device(closed: tuple[int, ...]) -> None:
    saved = {descriptor: os.dup(descriptor) for descriptor in closed}
    for descriptor in closed:
        os.close(descriptor)
    try:
        open_closed_descriptors()
        devices = [os.fstat(descriptor).st_rdev for descriptor in closed]
        inheritable = [os.get_inheritable(descriptor) for descriptor in closed]
    finally:
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
    assert devices == [os.stat(os.devnull).st_rdev] * len(closed)
    assert all(inheritable)


def test_help_that_cant_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rest is then written to the null device, when Python exits."""
    errors = io.StringIO()
    monkeypatch.setattr("txgearman.cli.main.cli", raising(errno.ENOSPC))
    monkeypatch.setattr(sys, "stderr", errors)
    saved = os.dup(1)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
        device = os.fstat(1).st_rdev
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert ended.value.code == 74
    assert device == os.stat(os.devnull).st_rdev
    assert errors.getvalue() == "txgearman: can't write the output: No space left on device\n"


def raising(number: int) -> Callable[..., None]:
    def fail(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_other_error_of_system_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txgearman.cli.main.cli", raising(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        main()
