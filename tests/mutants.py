"""Random mutants of the library, and which tests of the default tier kill them.

    python -m tests.mutants choose 400 >tests/mutants.txt    # the seed is fixed: the same list for the same code
    python -m tests.mutants run tests/mutants.txt            # prints each mutant with what became of it
    python -m tests.mutants run --seconds 5 tests/mutants.txt    # the quickest tests that run a mutant's lines alone

A mutant is one small change of the syntax tree: a comparison, a constant or a condition turned round, a statement left
out. It is killed if a test fails, or hangs. Only tests that run the mutant's lines are tried (tests/mutant_runs.py). A
list is of the code that it was chosen from: of what has changed since, nothing is said but STALE.
"""

from __future__ import annotations

import argparse
import ast
import copy
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent

SEED: Final = 17

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

    @property
    def package(self) -> str:
        """The folder of the library that it is of."""
        return package_of(self.path)


def package_of(path: str) -> str:
    """The package of a file of the library: its folder, or "shared"."""
    parts = Path(path).parts
    return parts[1] if len(parts) > 2 else "shared"


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
    if not isinstance(node, (ast.BinOp, ast.AugAssign)) or type(node.op) not in opposite:
        return None
    changed = copy.copy(node)
    changed.op = opposite[type(node.op)]()
    return changed


def _left_out(node: ast.AST) -> ast.AST | None:
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await))
    if isinstance(node, ast.stmt) and (is_call or isinstance(node, (ast.Delete, ast.Raise))):
        return ast.If(ast.Constant(False), [node], [])  # the function's closure stays the same, unlike with `pass`
    return None


def _result(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Return) or node.value is None or isinstance(node.value, ast.Constant):
        return None
    return ast.Return(ast.IfExp(ast.Constant(True), ast.Constant(None), node.value))  # likewise


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
    for name in OPERATORS:
        for number, node in enumerate(_fitting(tree, name)):
            yield Mutant(path, getattr(node, "lineno", 0), name, number)


def _fitting(tree: ast.AST, operator: str) -> list[ast.AST]:
    change = OPERATORS[operator]
    return [node for node in _code(tree) if change(node) is not None]


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
        name = str(path.relative_to(ROOT))
        packages.setdefault(package_of(name), []).extend(mutants_of(name))
    weights = {name: len(mutants) ** 0.5 for name, mutants in packages.items()}
    shares = {name: round(count * weight / sum(weights.values())) for name, weight in weights.items()}
    # A source for each package: a change of one leaves the choice from the others as it was.
    return [
        mutant
        for name, mutants in packages.items()
        for mutant in random.Random(f"{SEED} {name}").sample(mutants, shares[name])
    ]


def target_of(mutant: Mutant, tree: ast.Module) -> ast.AST | None:
    """The node of its file's tree that a mutant changes; None if it isn't there any more."""
    fitting = _fitting(tree, mutant.operator)
    target = fitting[mutant.number] if mutant.number < len(fitting) else None
    return target if getattr(target, "lineno", None) == mutant.line else None


def mutated(mutant: Mutant, tree: ast.Module, target: ast.AST) -> ast.Module:
    """The file's tree with the change. The tree that is passed is changed."""
    replacement = OPERATORS[mutant.operator](target)
    if replacement is None:
        raise ValueError(f"{mutant} does not fit")
    changed = ast.fix_missing_locations(_Replace(target, ast.copy_location(replacement, target)).visit(tree))
    assert isinstance(changed, ast.Module)
    return changed


class _Replace(ast.NodeTransformer):
    def __init__(self, target: ast.AST, replacement: ast.AST) -> None:
        self._target = target
        self._replacement = replacement

    def visit(self, node: ast.AST) -> ast.AST:
        return self._replacement if node is self._target else super().generic_visit(node)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("choose").add_argument("count", type=int)
    running = commands.add_parser("run")
    running.add_argument("list", type=Path)
    running.add_argument("--seconds", type=float, default=math.inf, help="how long to try a mutant at most")
    running.add_argument("--tests", nargs="+", default=["tests", "txgearman"], help="the tests to try, as for pytest")
    arguments = parser.parse_args()
    if arguments.command == "choose":
        print(*choose(arguments.count), sep="\n")
    else:
        from .mutant_runs import run  # it measures what is imported from then on

        mutants = [Mutant.read(line) for line in arguments.list.read_text("utf-8").splitlines()]
        sys.exit(run(mutants, arguments.seconds, arguments.tests))


if __name__ == "__main__":
    main()
