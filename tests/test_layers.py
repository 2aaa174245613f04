"""Each room imports only rooms above it in this list; none imports the reactor at its top."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import txgearman

ROOMS = ["errors", "packets", "tasks", "connection", "client_protocol", "servers", "client"]
"""From the top of the house down."""

NO_TWISTED = {"errors", "packets"}

PACKAGE = Path(txgearman.__file__).parent


def imports(nodes: list[ast.stmt]) -> set[str]:
    """The modules that these statements import, in full; those of this package as ``.name``."""
    found = set()
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import):
                found |= {alias.name for alias in inner.names}
            elif isinstance(inner, ast.ImportFrom):
                module = "." * inner.level + (inner.module or "")
                found |= {module if inner.module else module + alias.name for alias in inner.names}
                found |= {f"{module}.{alias.name}" for alias in inner.names if not inner.level}
    return found


def test_every_room_is_in_the_list() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    tree = ast.parse((PACKAGE / f"{room}.py").read_text())
    own = {name[1:] for name in imports(tree.body) if name.startswith(".")}
    own |= {name.split(".")[1] for name in imports(tree.body) if name.startswith("txgearman.")}
    assert own <= set(ROOMS[: ROOMS.index(room)])


@pytest.mark.parametrize("room", sorted(NO_TWISTED))
def test_the_codec_and_the_errors_know_no_twisted(room: str) -> None:
    tree = ast.parse((PACKAGE / f"{room}.py").read_text())
    assert not {name for name in imports(tree.body) if name.split(".")[0] in ("twisted", "zope")}


@pytest.mark.parametrize("room", ["__init__", *ROOMS])
def test_no_module_imports_the_reactor_at_its_top(room: str) -> None:
    """Whoever imports txgearman may still choose a reactor."""
    tree = ast.parse((PACKAGE / f"{room}.py").read_text())
    top = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert "twisted.internet.reactor" not in imports(top)


def test_importing_the_package_installs_no_reactor() -> None:
    """The same, as it happens: some module that ours import might do it."""
    import subprocess
    import sys

    script = "import sys, txgearman; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, check=False, timeout=60).returncode == 0
