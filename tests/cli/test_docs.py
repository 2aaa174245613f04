"""Holds docs/command-line.md and the help of each command to the command line itself."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping

import click
import pytest

from txgearman.cli.exit_codes import BROKEN_PIPE, INTERNAL_ERROR, ExitCode
from txgearman.cli.main import cli

from ..processes import ROOT
from ..programs import require_program
from .harness import parse_command

PAGE = (ROOT / "docs" / "command-line.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS: Mapping[str, click.Command] = cli.commands

OPTION = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|-\w)(?![\w-])")

COMMON = set(OPTION.findall(PAGE.partition("### Servers")[2].partition("## Commands")[0])) | {"--help", "-h"}
"""Options that the page documents once for many commands."""


def sections() -> list[tuple[set[str], str]]:
    """Return the commands in each heading, and the section of the page below it."""
    commands = PAGE.partition("## Commands")[2].partition("\n## ")[0]
    headings = re.split(r"^### (.*)$", commands, flags=re.MULTILINE)[1:]
    pairs = zip(headings[::2], headings[1::2], strict=True)
    return [(set(re.findall(r"`([a-z]+)", heading)), heading + text) for heading, text in pairs]


def options(names: set[str]) -> set[str]:
    """Return the options of the commands."""
    parameters = [parameter for name in names for parameter in COMMANDS[name].params]
    return {option for parameter in parameters if isinstance(parameter, click.Option) for option in parameter.opts}


def test_page_has_section_for_each_command() -> None:
    assert set().union(*(names for names, _ in sections())) == set(COMMANDS)


def test_section_documents_each_option_of_its_commands() -> None:
    texts = {name: " ".join(text for names, text in sections() if name in names) for name in COMMANDS}
    missing = {name: options({name}) - COMMON - set(OPTION.findall(texts[name])) for name in COMMANDS}
    assert not {name: options for name, options in missing.items() if options}


def test_page_documents_existing_options_only() -> None:
    everywhere = options(set(COMMANDS)) | {"-v", "-h", "--help"}
    page = PAGE[: PAGE.index("## Examples")].replace("python -m", "")
    assert set(OPTION.findall(page)) <= everywhere


def is_valid(line: str) -> bool:
    """Return whether a command line can be parsed. The Python modules of the examples do not exist."""
    try:
        parse_command(*shlex.split(line)[1:])
    except click.UsageError as error:
        return "No module named 'mypackage'" in error.format_message()
    return True


def commands_in(text: str) -> list[str]:
    """Return the txgearman commands in a piece of a shell script, without pipes and redirections."""
    return [line.strip() for line in re.findall(r"txgearman [^|<>&()\n]*", text)]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_valid_example(name: str) -> None:
    lines = commands_in((COMMANDS[name].help or "").partition("Example")[2])
    assert any(line.startswith(f"txgearman {name}") for line in lines)
    assert [line for line in lines if not is_valid(line)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal_of_80_columns(name: str) -> None:
    context = click.Context(COMMANDS[name], info_name=f"txgearman {name}", terminal_width=80, max_content_width=80)
    assert [line for line in COMMANDS[name].get_help(context).splitlines() if len(line) > 80] == []


def test_examples_of_page_are_valid() -> None:
    lines = commands_in(PAGE.partition("## Examples")[2].partition("\n## ")[0])
    assert len(lines) == 10
    assert [line for line in lines if not is_valid(line)] == []


def test_commands_of_guide_are_valid() -> None:
    pages = [path.read_text("utf-8") for path in (ROOT / "docs").glob("guide/*.md")]
    blocks = [block for page in pages for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    lines = commands_in("\n".join(blocks))
    assert "txgearman ping" in lines
    assert [line for line in lines if not is_valid(line)] == []


def test_examples_of_readme_are_valid() -> None:
    lines = commands_in("\n".join(re.findall(r"^txgearman .*", README, re.MULTILINE)))
    assert len(lines) > 3
    assert [line for line in lines if not is_valid(line)] == []


def test_page_and_help_document_exit_codes() -> None:
    section = PAGE.partition("## Exit status")[2].partition("\n## ")[0]
    documented = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for code in row.split(",")
    }
    assert documented == {*map(int, ExitCode), INTERNAL_ERROR, 129, 130, 143, BROKEN_PIPE}
    assert {int(code) for code in re.findall(r"^ +(\d+)  ", cli.epilog or "", re.MULTILINE)} == documented - {129, 143}


def c_tool_options(tool: str) -> set[str]:
    """Return the options that the help of a C tool lists."""
    result = subprocess.run([require_program(tool), "--help"], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return {option for line in lines for option in OPTION.findall(line.lstrip()[:28].partition(" - ")[0])}


@pytest.mark.daemon
@pytest.mark.parametrize(("tool", "count"), [("gearman", 18), ("gearadmin", 16)])
def test_page_compares_each_option_of_c_tools(tool: str, count: int) -> None:
    rows = PAGE.partition(f"| `{tool}` |")[2].partition("\n\n")[0].splitlines()
    documented = {option for row in rows for option in OPTION.findall(row.split(" | ")[0])}
    assert len(c_tool_options(tool)) >= count
    assert c_tool_options(tool) <= documented
