"""The commands on the pages about running workers and on *Recipes*; and code that needs other packages.

`test_documentation.py` runs all other code.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from .blocks import Pool, check, pool
from .cli.harness import Result, parse_command, run_process, start_process
from .daemons import Gearmand
from .processes import EXAMPLES, ROOT, Running

__all__ = ["pool"]

PAGES: Final = {name: (ROOT / "docs" / name).read_text("utf-8") for name in ("recipes.md", "guide/run-workers.md")}

TYPED: Final = (ROOT / "docs" / "guide" / "typed.md").read_text("utf-8")

COMMANDS: Final = [
    line
    for page in PAGES.values()
    for block in re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]


def command_with(words: str) -> list[str]:
    """Return the words of the one command on the pages that has these."""
    (command,) = (line for line in COMMANDS if words in line)
    return shlex.split(command)


def block_with(words: str, page: str) -> str:
    (block,) = (each for each in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if words in each)
    return str(block)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_accepted(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "watchfiles":
        program, *arguments = shlex.split(arguments[2])
    assert program == "txgearman"
    main, _ = parse_command(*arguments)
    assert callable(main)


@pytest.mark.process("apscheduler")
def test_code_with_apscheduler_does_what_it_says(pool: Pool) -> None:
    check(block_with("apscheduler", PAGES["recipes.md"]), pool)


@pytest.mark.process("sentry_sdk")
def test_code_with_sentry_does_what_it_says(pool: Pool) -> None:
    check(block_with("sentry_sdk", PAGES["recipes.md"]), pool)


@pytest.mark.process("msgspec")
def test_code_with_msgspec_does_what_it_says(pool: Pool) -> None:
    check(block_with("import msgspec", TYPED), pool)


def submit(server: Gearmand, *arguments: str) -> Result:
    return run_process("submit", "-s", server.address, *arguments)


@contextmanager
def application() -> Iterator[int]:
    """A web application that does jobs of ``upper``; return its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            workload = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if (self.path, workload) == ("/jobs/upper", b"hello") else 500)
            self.end_headers()
            self.wfile.write(workload.upper())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.process("curl")
def test_web_application_does_jobs(gearmand: Gearmand) -> None:
    _, *arguments = command_with("curl")
    with application() as port:
        arguments = [word.replace("8000", str(port)) for word in arguments]
        with start_process(*arguments, environment={"GEARMAN_SERVERS": gearmand.address}):
            done = submit(gearmand, "upper", "hello")
            failed = submit(gearmand, "upper", "other")
    assert (done.code, done.out) == (0, b"HELLO")
    assert (failed.code, failed.out, "error: 500" in failed.err) == (1, b"", True)


@pytest.mark.process("gearmand")
def test_dead_letters_are_handed_back(gearmand: Gearmand) -> None:
    _, *arguments = command_with("resize.dead")
    arguments[arguments.index("--count") + 1] = "1"
    arguments[arguments.index("--") + 1 :] = [sys.executable, "-m", *command_with("resize.dead")[-4:]]
    submit(gearmand, "--background", "resize.dead", "holiday.txt")
    assert run_process(*arguments, environment={"GEARMAN_SERVERS": gearmand.address}).code == 0
    assert "resize\t1\t0\t0" in gearmand.admin("status")


@pytest.mark.soak("watchfiles")
def test_worker_has_new_code_after_file_was_saved(gearmand: Gearmand, tmp_path: Path) -> None:
    workers = Path(shutil.copy(EXAMPLES / "deploy" / "workers.py", tmp_path))
    _, *arguments = command_with("watchfiles")
    arguments[2] = f"{sys.executable} -m {arguments[2]}"
    with Running("-m", "watchfiles", *arguments, cwd=tmp_path, GEARMAN_SERVERS=gearmand.address) as watching:
        watching.await_line("connected to")
        assert submit(gearmand, "upper", "Hello").out == b"HELLO"
        workers.write_text(workers.read_text().replace("workload.upper", "workload.lower"))
        watching.await_line("connected to")
        assert submit(gearmand, "upper", "Hello").out == b"hello"
        watching.terminate()
