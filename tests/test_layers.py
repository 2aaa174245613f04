"""Each room imports only rooms above it in this list; none imports the reactor at its top."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import txgearman

ROOMS = [
    "errors",
    "packets",
    "checks",
    "tasks",
    "tls",
    "limits",
    "deadlines",
    "connection",
    "client_protocol",
    "servers",
    "service",
    "admin_text",
    "admin_protocol",
    "admin",
    "canceller",
    "dispatcher",
    "streams",
    "client",
    "worker_protocol",
    "jobs",
    "posts",
    "worker",
    "testing.jobs",
    "testing.core",
    "testing.text",
    "testing.splitter",
    "testing.faults",
    "testing.protocol",
    "testing.taken",
    "testing.wire",
    "testing.server",
    "testing.relay",
    "testing.proxy",
    "testing.trial",
    "testing",
    "testing.pytest_plugin",
    "testing.__main__",
    "cli",
    "cli.exits",
    "cli.options",
    "cli.terminal",
    "cli.running",
    "cli.tables",
    "cli.progress",
    "cli.asking",
    "cli.submitting",
    "cli.working",
    "cli.topping",
    "cli.serving",
    "cli.measuring",
    "cli.commands",
    "__main__",
]
"""From the top of the house down. A package's name stands for what it re-exports."""

NO_TWISTED = {"errors", "packets", "checks", "admin_text", "testing.jobs", "testing.splitter"}

PACKAGE = Path(txgearman.__file__).parent


def path_of(room: str) -> Path:
    path = PACKAGE.joinpath(*room.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def tree_of(room: str) -> ast.Module:
    return ast.parse(path_of(room).read_text("utf-8"))


def imports(room: str, nodes: list[ast.stmt]) -> set[str]:
    """What these statements of a room import, by full names: modules, and what is taken from them."""
    within = f"txgearman.{room}" + ("" if path_of(room).name != "__init__.py" else ".__init__")
    found = set()
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import):
                found |= {alias.name for alias in inner.names}
            elif isinstance(inner, ast.ImportFrom):
                relative = "." * inner.level + (inner.module or "")
                module = importlib.util.resolve_name(relative, within.rpartition(".")[0])
                found |= {module} | {f"{module}.{alias.name}" for alias in inner.names}
    return found


def rooms_in(names: set[str]) -> set[str]:
    return {room for room in ROOMS if f"txgearman.{room}" in names}


def test_every_room_is_in_the_list() -> None:
    modules = {name_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert modules == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    names = imports(room, tree_of(room).body)
    # A package that is imported from is no room; only its own modules may do that.
    own = rooms_in(names) - ({"testing"} if room.startswith("testing") and room != "testing.__main__" else set())
    assert own <= set(ROOMS[: ROOMS.index(room)])


def test_the_rules_see_what_is_imported() -> None:
    """So that the rules above can fail."""
    assert {"client", "tasks", "testing.faults"} <= rooms_in(imports("testing.server", tree_of("testing.server").body))
    assert "twisted.internet.defer" in imports("client", tree_of("client").body)


@pytest.mark.parametrize("room", sorted(NO_TWISTED))
def test_the_codec_and_the_models_know_no_twisted(room: str) -> None:
    assert not {name for name in imports(room, tree_of(room).body) if name.split(".")[0] in ("twisted", "zope")}


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_imports_the_reactor_at_its_top(room: str) -> None:
    """Whoever imports txgearman may still choose a reactor."""
    top = [node for node in tree_of(room).body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert "twisted.internet.reactor" not in imports(room, top)


def leaves_alone(modules: str, *unwanted: str) -> bool:
    script = f"import sys, {modules}; sys.exit(bool({set(unwanted)!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("modules", ["txgearman", "txgearman.testing"])
def test_importing_the_package_installs_no_reactor(modules: str) -> None:
    """The same, as it happens: some module that ours import might do it."""
    assert leaves_alone(modules, "twisted.internet.reactor")


def test_the_library_does_not_import_the_test_kit() -> None:
    """Nor does the test kit import what only some of its users have."""
    assert leaves_alone("txgearman", "txgearman.testing")
    assert leaves_alone("txgearman.testing", "pytest", "twisted.trial")
