"""How mutants are tried: in forks of one process that has collected the tests.

The first fork runs all tests under coverage, and notes which test runs which lines, and how long it takes. Then each
mutant has a fork of its own: there the functions that it changes get the changed code, and the tests that run the
mutant's lines are run, quickest first. What runs as modules are imported can't be changed in this way: for such a
mutant, pytest is run in a copy of the tree, with the test modules that run anything of its file.
"""

from __future__ import annotations

import ast
import gc
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import IO, Any, Final, NamedTuple

import pytest
from coverage import Coverage

from .mutants import ROOT, Mutant, mutated, target_of

OPTIONS: Final = (
    *("-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-seed=0"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # this package is imported before pytest runs
)

TEST_LIMIT: Final = 30
"""Seconds after which a test hangs, and its process is ended: twice as many at most."""

GRACE: Final = 0.5
"""Seconds in which sockets that a test closed must be gone: a failed test may leave some, and is waited for."""

CPU_LIMIT: Final = 20
"""Seconds of the processor after which a fork is ended, beside three times what its tests take; its mutant counts as
killed."""

MEMORY_LIMIT: Final = 4 << 30
"""Bytes that a fork may take, as a loop may have lost its end."""

ERROR: Final = "error of the fork itself"

END: Final = "end of the profile"


class CannotSwap(Exception):
    """The functions that are there can't get this code."""


class Profile(NamedTuple):
    """What the tests run of the library, where nothing is changed.

    :ivar imported: for each file, the lines that run outside of tests.
    :ivar tests: for each file and line, the numbers of the tests that run it.
    :ivar seconds: how long each test takes.
    :ivar broken: the numbers of tests that fail.
    """

    imported: dict[str, set[int]]
    tests: dict[str, dict[int, set[int]]]
    seconds: dict[int, float]
    broken: set[int]

    def of_lines(self, path: str, lines: Iterable[int]) -> set[int]:
        """The tests that run one of these lines."""
        of_file = self.tests.get(path, {})
        return set().union(*(of_file.get(line, set()) for line in lines)) - self.broken

    def of_file(self, path: str) -> set[int]:
        """The tests that run any line of a file."""
        return self.of_lines(path, self.tests.get(path, {}))

    def quickest_first(self, tests: Iterable[int]) -> list[int]:
        return sorted(tests, key=lambda test: (self.seconds[test], test))


class Runner:
    """Plugin of pytest that tries mutants in place of running the tests."""

    def __init__(self, mutants: list[Mutant], seconds: float, imports: Coverage, output: IO[str]) -> None:
        self._mutants = mutants
        self._seconds = seconds
        self._imports = imports
        self._output = output
        self._items: list[pytest.Item] = []
        self._failed = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try the mutants."""
        self._items = session.items
        session.config.pluginmanager.unregister(name="terminalreporter")
        self._profile = self._take_profile()
        killed: dict[str, list[bool]] = {}
        for mutant in self._mutants:
            began = time.monotonic()
            killer = self._killer(mutant)
            outcome = "STALE" if killer is None else f"killed by {killer}" if killer else "SURVIVES"
            self._print(f"{mutant} {outcome} ({time.monotonic() - began:.1f} s)")
            if killer is not None:
                killed.setdefault(mutant.package, []).append(bool(killer))
        for package, outcomes in {**killed, "all": [*itertools.chain(*killed.values())]}.items():
            self._print(f"{package}: {sum(outcomes)} of {len(outcomes)} killed")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed = self._failed or report.failed

    def _print(self, text: str) -> None:
        print(text, file=self._output, flush=True)

    def _take_profile(self) -> Profile:
        self._imports.stop()
        imported = {path: set(lines) for path, lines, _ in _measured(self._imports)}
        profile = Profile(imported, {}, {}, set())
        *lines, end = _in_fork(self._profile_tests)
        if end != END:
            raise RuntimeError("a test has ended the process")
        for line in lines:
            kind, path, *numbers = line.split()
            first, *others = map(int, numbers)
            if kind == "lines":
                profile.tests.setdefault(path, {})[first] = set(others)
            else:
                profile.seconds[first] = others[0] / 1e6
                profile.broken.update([first] if kind == "failed" else [])
        passed = len(self._items) - len(profile.broken)
        self._print(f"{passed} tests pass without a mutant, in {sum(profile.seconds.values()):.0f} s")
        for number in sorted(profile.broken):
            self._print(f"left out, as it fails without a mutant: {self._items[number].nodeid}")
        return profile

    def _profile_tests(self, output: IO[str]) -> None:
        coverage = _new_coverage()
        coverage.start()
        for number, following in _with_next(range(len(self._items))):
            coverage.switch_context(str(number))
            began = time.perf_counter()
            outcome = "passed" if self._passes(number, following) else "failed"
            print(outcome, "-", number, int((time.perf_counter() - began) * 1e6), file=output)
        coverage.stop()
        for path, lines, contexts in _measured(coverage):
            for line in lines:
                print("lines", path, line, *(context for context in contexts[line] if context), file=output)
        print(END, file=output)

    def _passes(self, number: int, following: int | None) -> bool:
        self._failed = False
        item = self._items[number]
        after = None if following is None else self._items[following]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        return not self._failed

    def _killer(self, mutant: Mutant) -> str | None:
        source = (ROOT / mutant.path).read_text("utf-8")
        tree = ast.parse(source)
        target = target_of(mutant, tree)
        if target is None:
            return None
        lines = set(_lines_of(tree, target))
        swaps = _in_function(tree, target) and not lines & self._profile.imported.get(mutant.path, set())
        changed = mutated(mutant, tree, target)
        if swaps:
            try:
                swap = _swaps(ROOT / mutant.path, ast.parse(source), changed)
                tests = self._profile.quickest_first(self._profile.of_lines(mutant.path, lines))
                return self._killer_in_fork(swap, self._within_limit(tests))
            except CannotSwap:
                pass
        return _killer_in_copy(mutant, ast.unparse(changed), self._modules_of(mutant))

    def _killer_in_fork(self, swap: list[tuple[FunctionType, CodeType]], tests: list[int]) -> str:
        def try_tests(output: IO[str]) -> None:
            seconds = int(CPU_LIMIT + 3 * sum(self._profile.seconds[number] for number in tests))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            signal.alarm(seconds + 2 * TEST_LIMIT)
            for function, code in swap:
                function.__code__ = code
            for number, following in _with_next(tests):
                print(self._items[number].nodeid.replace(" ", "_"), file=output)
                if not self._passes(number, following):
                    return
            print("", file=output)

        return _in_fork(try_tests)[-1]  # the test that it failed in, or did not come back from

    def _within_limit(self, tests: list[int]) -> list[int]:
        ends = itertools.accumulate(self._profile.seconds[number] for number in tests)
        return [number for number, end in zip(tests, ends, strict=True) if end < self._seconds]

    def _modules_of(self, mutant: Mutant) -> list[list[str]]:
        """The test modules that run anything of the mutant's file: first those of its package."""
        tests = self._profile.quickest_first(self._profile.of_file(mutant.path))
        modules = dict.fromkeys(self._items[number].nodeid.partition("::")[0] for number in tests)
        own = f"tests/{mutant.package}/" if mutant.package != "shared" else "tests/test_"
        stages = [[name for name in modules if name.startswith(own) is first] for first in (True, False)]
        return [stage for stage in stages if stage]


def _with_next(tests: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    return zip(tests, [*tests[1:], None], strict=False)


def _in_fork(work: Callable[[IO[str]], None]) -> list[str]:
    """Do this in a fork, and return the lines that it has printed by its end, however it ends."""
    with tempfile.TemporaryFile("w+", buffering=1) as output:
        process = os.fork()
        if not process:
            _be_a_fork(work, output)
        os.waitpid(process, 0)
        output.seek(0)
        lines = output.read().split("\n")[:-1]
    if ERROR in lines:
        raise RuntimeError("\n".join(lines))
    return lines


def _be_a_fork(work: Callable[[IO[str]], None], output: IO[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    from . import conftest

    conftest.GRACE = GRACE
    try:
        work(output)
    except BaseException:
        print(traceback.format_exc(), ERROR, sep="\n", file=output)
    finally:
        output.flush()
        os._exit(0)


def _new_coverage() -> Coverage:
    return Coverage(data_file=None, config_file=False, include=[f"{ROOT}/txgearman/*"])


def _measured(coverage: Coverage) -> Iterator[tuple[str, list[int], dict[int, list[str]]]]:
    """What was run: files, lines, and the contexts of each line."""
    data = coverage.get_data()
    for path in sorted(data.measured_files()):
        yield str(Path(path).relative_to(ROOT)), data.lines(path) or [], data.contexts_by_lineno(path)


def _in_function(tree: ast.Module, target: ast.AST) -> bool:
    """Whether a node is in the body of a function: not among its decorators and defaults."""
    bodies: list[list[ast.stmt] | list[ast.expr]] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            bodies.append(node.body)
        elif isinstance(node, ast.Lambda):
            bodies.append([node.body])
    return any(target is node for body in bodies for part in body for node in ast.walk(part))


def _lines_of(tree: ast.Module, target: ast.AST) -> range:
    """The lines of the statement that a node is in; of one with a body, those before that."""
    statements = [
        node for node in ast.walk(tree) if isinstance(node, ast.stmt) and any(target is part for part in ast.walk(node))
    ]
    innermost = statements[-1]  # `walk` is breadth first
    body = getattr(innermost, "body", None)
    end = body[0].lineno - 1 if isinstance(body, list) else innermost.end_lineno
    return range(innermost.lineno, max(innermost.lineno, end or 0) + 1)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _swaps(path: Path, before: ast.Module, after: ast.Module) -> list[tuple[FunctionType, CodeType]]:
    """The functions that are there and that a change of their file changes, with their new code."""
    new: dict[tuple[str, int], list[CodeType]] = {}
    for code in _codes(compile(after, str(path), "exec", dont_inherit=True)):
        new.setdefault((code.co_name, code.co_firstlineno), []).append(code)
    same = set(_codes(compile(before, str(path), "exec", dont_inherit=True)))
    swaps = []
    for function in _functions_of(path):
        candidates = new.get((function.__code__.co_name, function.__code__.co_firstlineno), [])
        if function.__code__ not in same or len(set(candidates)) > 1:
            raise CannotSwap
        swaps += [(function, code) for code in candidates[:1] if code != function.__code__]
    if not swaps or any(function.__code__.co_freevars != code.co_freevars for function, code in swaps):
        raise CannotSwap
    return swaps


def _functions_of(path: Path) -> list[FunctionType]:
    everything: list[Any] = gc.get_objects()
    return [one for one in everything if type(one) is FunctionType and one.__code__.co_filename == str(path)]


def _killer_in_copy(mutant: Mutant, text: str, stages: list[list[str]]) -> str:
    """The first test of these modules that fails with the mutant in a copy of the tree; empty if none does."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "build", ".hypothesis"))
        (tree / mutant.path).write_text(text, "utf-8")
        return next(filter(None, (_first_failure(tree, modules) for modules in stages)), "")


def _first_failure(tree: Path, modules: list[str]) -> str:
    command = [sys.executable, "-m", "pytest", "-x", *OPTIONS, *modules]
    environment = {**os.environ, "TEST_LIMIT": str(TEST_LIMIT)}
    ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    failed = [line.split()[1] for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"(exit status {ran.returncode})" if ran.returncode else ""


def run(mutants: list[Mutant], seconds: float, tests: list[str]) -> int:
    """Try these tests on each mutant, and print what became of it."""
    os.environ["TEST_DEADLINE"] = "20"
    os.environ["TEST_LIMIT"] = "1e6"  # the timer of conftest.py is none of a fork's: each has an alarm of its own
    imports = _new_coverage()
    imports.start()
    with tempfile.TemporaryDirectory() as folder, os.fdopen(os.dup(1), "w") as output:
        runner = Runner(mutants, seconds, imports, output)
        return pytest.main([*OPTIONS, "--capture=fd", f"--basetemp={folder}/tests", *tests], plugins=[runner])
