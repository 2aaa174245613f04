"""Packages reach only downwards, no two modules import each other (types included), and none imports the reactor.

Each module imports only modules above it in a list, which is why there can be no circle.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pytest

import txgearman

MODULES = [
    "models",
    "validation",
    "errors",
    "failures",
    "log_fields",
    "packets",
    "retry",
    "connection",
    "connection.awaitable",
    "client.task",
    "connection.tls",
    "connection.waiters",
    "connection.options",
    "connection.reactor",
    "connection.resolver",
    "connection.names",
    "connection.addresses",
    "connection.timers",
    "connection.states",
    "connection.protocol",
    "connection.factory",
    "connection.connector",
    "connection.ring",
    "connection.pool",
    "observers",
    "service",
    "admin",
    "admin.commands",
    "admin.protocol",
    "admin.admin",
    "admin.reports",
    "admin.exporter",
    "client",
    "client.shared_job",
    "client.batch_arguments",
    "client.job_handles",
    "client.batches",
    "client.task_queue",
    "client.losses",
    "client.untaken_jobs",
    "client.job_sweep",
    "client.protocol",
    "client.canceller",
    "client.awaiting",
    "client.defaults",
    "client.fresh_attempt",
    "client.observation",
    "client.retry_log",
    "client.stream_router",
    "client.dispatcher",
    "client.iteration",
    "client.remote_function",
    "client.client",
    "worker",
    "worker.threads",
    "worker.job",
    "worker.functions",
    "worker.protocol",
    "worker.groups",
    "worker.polls",
    "worker.slots",
    "worker.execution",
    "worker.observation",
    "worker.scheduler",
    "worker.worker",
    "testing.jobs",
    "testing.packet_log",
    "testing.core",
    "testing.commands",
    "testing.request_parser",
    "testing.faults",
    "testing.fault_methods",
    "testing.protocol",
    "testing.taken_job",
    "testing.memory_transport",
    "testing.ports",
    "testing.clock",
    "testing.calls",
    "testing.logged_errors",
    "testing.submits",
    "testing.group",
    "testing.description",
    "testing.clock_methods",
    "testing.closing",
    "testing.waiting",
    "testing.server",
    "testing.interface",
    "testing.gearmand",
    "testing.relay",
    "testing.network_faults",
    "testing.proxy",
    "testing.trial",
    "testing",
    "testing.development",
    "testing.__main__",
    "http_pages",
    "metrics",
    "dashboard.history",
    "dashboard.hosts",
    "dashboard.document",
    "dashboard.poller",
    "dashboard.events",
    "dashboard.lookups",
    "dashboard.pages",
    "dashboard.table",
    "dashboard.scrape",
    "dashboard.resource",
    "dashboard.site",
    "dashboard.dashboard",
    "dashboard",
    "cli",
    "cli.exit_codes",
    "cli.options",
    "cli.terminal",
    "cli.reactor_loop",
    "cli.tables",
    "cli.server_errors",
    "cli.progress",
    "cli.screen",
    "cli.admin",
    "cli.submit",
    "cli.job",
    "cli.processes",
    "cli.command_runner",
    "cli.job_tracker",
    "cli.systemd",
    "cli.worker_run",
    "cli.child_status",
    "cli.child",
    "cli.supervisor",
    "cli.server",
    "cli.shared_metrics",
    "cli.health",
    "cli.child_worker",
    "cli.work",
    "cli.worker_app",
    "cli.child_process",
    "cli.pool_metrics",
    "cli.worker_pool",
    "cli.top",
    "cli.fault_options",
    "cli.proxy",
    "cli.metrics",
    "cli.dashboard",
    "cli.nagios",
    "cli.check",
    "cli.commands",
    "cli.commands.run",
    "cli.commands.submit",
    "cli.commands.job",
    "cli.commands.work",
    "cli.commands.admin",
    "cli.commands.top",
    "cli.commands.server",
    "cli.commands.proxy",
    "cli.commands.metrics",
    "cli.commands.dashboard",
    "cli.commands.check",
    "cli.main",
    "__main__",
]
"""In the order of the layers, the lowest first. A package's name stands for its ``__init__``."""

BELOW = {
    "": {"connection"},  # `service` is what client, worker and admin client share
    "connection": {""},
    "admin": {"", "connection"},
    "client": {"", "connection"},
    "worker": {"", "connection"},
    "metrics": {"", "connection", "client", "worker"},
    "testing": {"", "connection", "admin", "client", "worker"},
    "dashboard": {"", "connection", "admin", "client"},
    "cli": {"metrics", "dashboard", "", "connection", "admin", "client", "worker", "testing"},
}
"""Which packages each package may import from; ``""`` are the shared modules."""

EXCEPTIONS = {
    ("client.canceller", "admin"),  # a server drops a job only by the text protocol
}

NO_TWISTED = {"models", "errors", "packets", "validation", "admin.commands", "testing.jobs", "testing.request_parser"}

PACKAGE = Path(txgearman.__file__).parent


def path_of(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(path_of(name).read_text("utf-8"))


def statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Iterate over statements and those within them. To walk their expressions too takes ten times as long."""
    for node in nodes:
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from statements(getattr(node, field, ()))


def imports(name: str, nodes: list[ast.stmt]) -> set[str]:
    """What these statements of a module import, by full names: modules, and what is taken from them."""
    within = f"txgearman.{name}" + ("" if path_of(name).name != "__init__.py" else ".__init__")
    found = set()
    for node in statements(nodes):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(relative, within.rpartition(".")[0])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def imports_of(name: str) -> frozenset[str]:
    """What a module imports, at its top or later."""
    return frozenset(imports(name, tree_of(name).body))


def modules_in(names: Collection[str]) -> set[str]:
    """Those modules of ours that are among these full names."""
    return {module for module in MODULES if f"txgearman.{module}" in names}


def test_list_has_every_module() -> None:
    modules = {name_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert modules == set(MODULES)


def test_each_module_imports_only_modules_above_it() -> None:
    for number, name in enumerate(MODULES):
        names = imports_of(name)
        # The package of the test kit re-exports its modules, which is what its `__main__` imports.
        own = modules_in(names) - ({"testing"} if name.startswith("testing") and name != "testing.__main__" else set())
        assert own <= set(MODULES[:number]), name


def package_of(module: str) -> str:
    """The package of a module; ``""`` for the shared modules."""
    package, dot, _ = module.partition(".")
    return package if dot else module if module in BELOW else ""


def test_each_package_reaches_only_downwards() -> None:
    for module in set(MODULES) - {"__main__"}:
        package = package_of(module)
        reached = {package_of(other) for other in modules_in(imports_of(module))} - {package}
        allowed = {other for importer, other in EXCEPTIONS if importer == module}
        assert reached <= BELOW[package] | allowed, module


@pytest.mark.parametrize(("module", "package"), sorted(EXCEPTIONS))
def test_exception_to_the_rule_is_needed(module: str, package: str) -> None:
    assert package in {package_of(other) for other in modules_in(imports_of(module))}


def test_the_rules_see_what_is_imported() -> None:
    """So that the rules above can fail."""
    assert {"client.client", "testing.faults"} <= modules_in(imports_of("testing.server"))
    assert "twisted.internet.defer" in imports_of("client.client")


@pytest.mark.parametrize("name", sorted(NO_TWISTED))
def test_the_codec_and_the_models_know_no_twisted(name: str) -> None:
    assert not {name for name in imports_of(name) if name.split(".")[0] in ("twisted", "zope")}


def test_no_module_imports_the_reactor_at_its_top() -> None:
    """Whoever imports txgearman may still choose a reactor."""
    for name in MODULES:
        top = [node for node in tree_of(name).body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        assert "twisted.internet.reactor" not in imports(name, top), name


def leaves_alone(modules: str, *unwanted: str) -> bool:
    script = f"import sys, {modules}; sys.exit(bool({set(unwanted)!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, check=False, timeout=60).returncode == 0


@pytest.mark.process
@pytest.mark.parametrize("modules", ["txgearman", "txgearman.testing"])
def test_importing_the_package_installs_no_reactor(modules: str) -> None:
    """The same, as it happens: some module that ours import might do it."""
    assert leaves_alone(modules, "twisted.internet.reactor")


@pytest.mark.process
def test_the_library_does_not_import_the_test_kit() -> None:
    """Nor does the test kit import what only some of its users have."""
    assert leaves_alone("txgearman", "txgearman.testing")
    assert leaves_alone("txgearman.testing", "pytest", "twisted.trial")
