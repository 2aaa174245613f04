"""What runs before the command line is read: the extra may not be installed."""

from __future__ import annotations

import sys

import pytest

from txgearman.__main__ import main


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
    monkeypatch.setitem(sys.modules, "txgearman.cli.options", None)
    with pytest.raises(ImportError, match=r"txgearman\.cli\.options"):
        main()
