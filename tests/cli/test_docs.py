"""docs/command-line.md, and the help of each command: they tell of all there is, and of nothing else."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping

import click
import pytest

from txgearman.cli.exit_codes import BROKEN_PIPE, BUG, Exit
from txgearman.cli.main import cli

from .harness import ROOT, parsed

PAGE = (ROOT / "docs" / "command-line.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS: Mapping[str, click.Command] = cli.commands

OPTION = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|-\w)(?![\w-])")

COMMON = set(OPTION.findall(PAGE.partition("### Servers")[2].partition("## Commands")[0])) | {"--help", "-h"}
"""Options that the page tells of once for many commands."""


def sections() -> list[tuple[set[str], str]]:
    """The commands in each heading, and what the page says of them."""
    commands = PAGE.partition("## Commands")[2].partition("\n## ")[0]
    headings = re.split(r"^### (.*)$", commands, flags=re.MULTILINE)[1:]
    pairs = zip(headings[::2], headings[1::2], strict=True)
    return [(set(re.findall(r"`([a-z]+)", heading)), heading + text) for heading, text in pairs]


def options(names: set[str]) -> set[str]:
    """Those of these commands."""
    parameters = [parameter for name in names for parameter in COMMANDS[name].params]
    return {option for parameter in parameters if isinstance(parameter, click.Option) for option in parameter.opts}


def test_each_command_has_a_section() -> None:
    assert set().union(*(names for names, _ in sections())) == set(COMMANDS)


def test_each_option_is_told_of_where_its_command_is() -> None:
    texts = {name: " ".join(text for names, text in sections() if name in names) for name in COMMANDS}
    untold = {name: options({name}) - COMMON - set(OPTION.findall(texts[name])) for name in COMMANDS}
    assert not {name: missing for name, missing in untold.items() if missing}


def test_no_option_is_told_of_that_is_none() -> None:
    everywhere = options(set(COMMANDS)) | {"-v", "-h", "--help"}
    page = PAGE[: PAGE.index("## Examples")].replace("python -m", "")
    assert set(OPTION.findall(page)) <= everywhere


def understood(line: str) -> bool:
    """Whether a command line can be parsed. (Python functions in examples are not there.)"""
    try:
        parsed(*shlex.split(line)[1:])
    except click.UsageError as error:
        return "No module named 'mypackage'" in error.format_message()
    return True


def commands_in(text: str) -> list[str]:
    """The command lines in a piece of a shell script, without what is around them."""
    return [line.strip() for line in re.findall(r"txgearman [^|<>&()\n]*", text)]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_an_example_that_is_understood(name: str) -> None:
    lines = commands_in((COMMANDS[name].help or "").partition("Example")[2])
    assert any(line.startswith(f"txgearman {name}") for line in lines)
    assert [line for line in lines if not understood(line)] == []


def test_examples_are_understood() -> None:
    lines = commands_in(PAGE.partition("## Examples")[2].partition("\n## ")[0])
    assert len(lines) == 9
    assert [line for line in lines if not understood(line)] == []


def test_examples_of_readme_are_understood() -> None:
    lines = commands_in("\n".join(re.findall(r"^txgearman .*", README, re.MULTILINE)))
    assert len(lines) > 3
    assert [line for line in lines if not understood(line)] == []


def test_exit_codes_are_told_of() -> None:
    section = PAGE.partition("## Exit status")[2].partition("\n## ")[0]
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for code in row.split(",")}
    assert told == {*map(int, Exit), BUG, 130, 143, BROKEN_PIPE}
    assert {int(code) for code in re.findall(r"^ +(\d+)  ", cli.epilog or "", re.MULTILINE)} == told - {143}


def options_of_theirs(tool: str) -> set[str]:
    """What a C tool's own help lists."""
    ran = subprocess.run([tool, "--help"], capture_output=True, text=True, check=False)
    lines = (ran.stdout + ran.stderr).splitlines()
    return {option for line in lines for option in OPTION.findall(line.lstrip()[:28].partition(" - ")[0])}


@pytest.mark.parametrize(("tool", "count"), [("gearman", 18), ("gearadmin", 16)])
def test_each_option_of_the_c_tools_is_beside_ours(tool: str, count: int) -> None:
    rows = PAGE.partition(f"| `{tool}` |")[2].partition("\n\n")[0].splitlines()
    told = {option for row in rows for option in OPTION.findall(row.split(" | ")[0])}
    assert len(options_of_theirs(tool)) >= count
    assert options_of_theirs(tool) <= told
