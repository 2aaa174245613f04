"""Random mutants of the library, and which of them the tests of the default tier kill.

    python -m tests.mutants choose 400 >tests/mutants.txt     # a fixed seed: the same list for the same code
    python -m tests.mutants run tests/mutants.txt --jobs 2    # prints each mutant with what became of it

A mutant is one small change of the syntax tree: a comparison, a constant or a condition turned round, a statement left
out. It is killed if a test fails, or hangs. Tests of the mutant's own package run first.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent

SEED: Final = 17

TIME_LIMIT: Final = 240.0
"""Seconds after which a run of the tests counts as hanging."""

Change = Callable[[ast.AST], "ast.AST | None"]


class Mutant(NamedTuple):
    """One change of one file.

    :ivar path: the file, from the project's root.
    :ivar line: where the changed node begins.
    :ivar operator: the name of the change.
    :ivar number: which of the nodes of this file that the change fits, in the order of `ast.walk`.
    """

    path: str
    line: int
    operator: str
    number: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.operator} {self.number}"

    @classmethod
    def read(cls, text: str) -> Mutant:
        """Read what ``str()`` printed."""
        place, operator, number = text.split()[:3]
        path, _, line = place.rpartition(":")
        return cls(path, int(line), operator, int(number))


_OPPOSITE: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def _comparison(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return None
    return ast.Compare(node.left, [_OPPOSITE[type(node.ops[0])]()], node.comparators)


def _number(node: ast.AST) -> ast.AST | None:
    is_number = isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and type(node.value) is not bool
    return ast.BinOp(node, ast.Add(), ast.Constant(1)) if is_number and isinstance(node, ast.expr) else None


def _boolean(node: ast.AST) -> ast.AST | None:
    return ast.Constant(not node.value) if isinstance(node, ast.Constant) and type(node.value) is bool else None


def _and_or(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.BoolOp):
        return None
    return ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)


def _condition(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.If):
        return None
    return ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


def _arithmetic(node: ast.AST) -> ast.AST | None:
    opposite = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add}
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in opposite:
        changed = ast.parse(ast.unparse(node)).body[0]
        inner = changed.value if isinstance(changed, ast.Expr) else changed
        assert isinstance(inner, (ast.BinOp, ast.AugAssign))
        inner.op = opposite[type(node.op)]()
        return inner
    return None


def _left_out(node: ast.AST) -> ast.AST | None:
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await))
    return ast.Pass() if is_call or isinstance(node, (ast.Delete, ast.Raise)) else None


def _result(node: ast.AST) -> ast.AST | None:
    is_value = isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant)
    return ast.Return(ast.Constant(None)) if is_value else None


OPERATORS: Final[dict[str, Change]] = {
    "comparison": _comparison,
    "number": _number,
    "boolean": _boolean,
    "and-or": _and_or,
    "condition": _condition,
    "arithmetic": _arithmetic,
    "left-out": _left_out,
    "result": _result,
}


def mutants_of(path: str) -> Iterator[Mutant]:
    """Every mutant of a file."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    for name, change in OPERATORS.items():
        fitting = [node for node in _code(tree) if change(node) is not None]
        for number, node in enumerate(fitting):
            yield Mutant(path, getattr(node, "lineno", 0), name, number)


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: not annotations, nor what only type checkers see."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "type_params"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                    continue
                yield node
                yield from _code(node)


def choose(count: int) -> list[Mutant]:
    """Choose that many, spread over the packages by the square root of their sizes."""
    packages: dict[str, list[Mutant]] = {}
    for path in sorted((ROOT / "txgearman").rglob("*.py")):
        relative = path.relative_to(ROOT)
        packages.setdefault(relative.parts[1] if len(relative.parts) > 2 else "shared", []).extend(
            mutants_of(str(relative))
        )
    source = random.Random(SEED)  # it must be the same each time
    weights = {name: len(mutants) ** 0.5 for name, mutants in packages.items()}
    shares = {name: round(count * weight / sum(weights.values())) for name, weight in weights.items()}
    return [mutant for name, mutants in packages.items() for mutant in source.sample(mutants, shares[name])]


def mutated(mutant: Mutant, source: str) -> str:
    """The file's text with the change."""
    tree = ast.parse(source)
    change = OPERATORS[mutant.operator]
    target = [node for node in _code(tree) if change(node) is not None][mutant.number]
    replacement = change(target)
    assert replacement is not None

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            if node is target:
                assert replacement is not None
                return ast.copy_location(replacement, node)
            self.generic_visit(node)
            return node

    return ast.unparse(ast.fix_missing_locations(Replace().visit(tree)))


def killer_of(mutant: Mutant, tree: Path) -> str:
    """The first test that fails with the mutant in this copy of the tree; empty if none does."""
    path = tree / mutant.path
    source = path.read_text("utf-8")
    path.write_text(mutated(mutant, source), "utf-8")
    try:
        own = tree / "tests" / Path(mutant.path).parts[1]
        for where in ([str(own)] if own.is_dir() else []) + ["tests"]:
            killer = _first_failure(tree, where)
            if killer:
                return killer
        return ""
    finally:
        path.write_text(source, "utf-8")


def _first_failure(tree: Path, where: str) -> str:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=no", where]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TEST_DEADLINE": "20"}
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        printed, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "(it hangs)"
    failed = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "" if process.returncode in (0, 5) else failed[0] if failed else f"(exit status {process.returncode})"


def run(mutants: list[Mutant], jobs: int) -> None:
    """Try each, and print what became of it."""
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(jobs):
            tree = Path(folder, str(number))
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "build", "__pycache__", ".hypothesis"))
            trees.put(tree)

        def attempt(mutant: Mutant) -> bool:
            tree = trees.get()
            try:
                killer = killer_of(mutant, tree)
            finally:
                trees.put(tree)
            print(mutant, "killed by" if killer else "SURVIVES", killer, flush=True)
            return bool(killer)

        with ThreadPoolExecutor(jobs) as pool:
            killed = sum(pool.map(attempt, mutants))
    print(f"{killed} of {len(mutants)} killed")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("choose").add_argument("count", type=int)
    running = commands.add_parser("run")
    running.add_argument("list", type=Path)
    running.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.command == "choose":
        print(*choose(arguments.count), sep="\n")
    else:
        run([Mutant.read(line) for line in arguments.list.read_text("utf-8").splitlines()], arguments.jobs)


if __name__ == "__main__":
    main()
