"""The group of all commands, and what runs before the command line is read: the extra may not be installed."""

from __future__ import annotations

import re
import sys

import pytest

from txgearman.__main__ import main
from txgearman.cli.main import cli


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


def test_help_lists_each_command_once_in_sections(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"], standalone_mode=False)
    listing = capsys.readouterr().out.partition("\nJobs:\n")[2].partition("Exit codes")[0]
    assert re.findall(r"^(\w+):$", listing, re.MULTILINE) == ["Servers", "Monitoring", "Development"]
    assert sorted(re.findall(r"^  (\w+)", listing, re.MULTILINE)) == sorted(cli.commands)
