"""The command in a process of its own: signals, closed pipes, start-up, imports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel

from txgearman.cli import reactor_loop, terminal
from txgearman.cli.exit_codes import ExitCode, exit_code_for
from txgearman.cli.reactor_loop import CommandRun, StderrLogObserver, run, wait_for_signal
from txgearman.cli.terminal import StreamError, Terminal, run_in_thread
from txgearman.packets import CAN_DO, GRAB_JOB, NO_JOB

from ..contract.harness import SocketPeer
from ..daemons import Gearmand, free_port
from ..processes import ROOT
from ..programs import open_terminal
from . import harness
from .harness import interrupt, is_alive, parse_command, reactor, start_process


@pytest.fixture(scope="module")
def server() -> Iterator[Gearmand]:
    with Gearmand() as server:
        yield server


@pytest.fixture(scope="module")
def server_option(server: Gearmand) -> Iterator[list[str]]:
    """Run workers of the command; return the option for their server."""
    option = ["-s", server.address]
    endless = ["sh", "-c", "while echo line; do sleep 0.01; done"]
    with (
        start_process("work", "-q", *option, "cat", "cat"),
        start_process("work", "-q", *option, "echo=tests.cli.jobs:echo"),
        start_process("work", "-q", *option, "--lines", "drip", *endless),
    ):
        yield option


def has_no_job(server: Gearmand, function: str) -> bool:
    """Return whether the server has no job of the function: gearmand drops jobs that no client waits for."""
    worker = SocketPeer(server.port)
    worker.send(CAN_DO.request(function.encode()))
    answer = worker.ask(GRAB_JOB.request())
    worker.close()
    return answer == (NO_JOB, [])


# Exit codes, of real processes.


@pytest.mark.process
def test_success_exits_with_0(server_option: list[str]) -> None:
    assert harness.run_process("submit", *server_option, "cat", "abc") == (0, b"abc", "")


@pytest.mark.process
def test_usage_error_exits_with_2() -> None:
    result = harness.run_process("submit")
    assert (result.code, result.out) == (ExitCode.USAGE, b"")
    assert "Usage: txgearman submit" in result.err


@pytest.mark.process
def test_timeout_exits_with_4(server: Gearmand) -> None:
    result = harness.run_process("submit", "-s", server.address, "-t", "0.1", "no_worker")
    assert (result.code, result.out) == (ExitCode.TIMED_OUT, b"")


@pytest.mark.process
def test_unreachable_server_of_environment_exits_with_6() -> None:
    result = harness.run_process("ping", environment={"GEARMAN_SERVERS": f"127.0.0.1:{free_port()}"})
    assert (result.code, result.out) == (ExitCode.NO_SERVER, b"")
    assert result.err.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels_job_and_sets_exit_code(server: Gearmand, number: int) -> None:
    """The client disconnects, and gearmand drops its job."""
    name = f"waits_{number}"
    with start_process("submit", "-s", server.address, name) as started:
        while not any(line.startswith(name) for line in server.admin("status")):
            time.sleep(0.01)
        result = interrupt(started, number)
    assert result == (128 + number, b"", "")
    assert has_no_job(server, name)


@pytest.mark.process
def test_second_signal_kills_program_and_exits_at_once(server: Gearmand, tmp_path: Path) -> None:
    """The worker has a job that does not finish. Its program is killed."""
    script = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000"
    with start_process("work", "-s", server.address, "sleepy", "sh", "-c", script) as worker:
        handle = harness.run_process("submit", "-s", server.address, "-b", "sleepy")
        assert handle.code == 0
        end = time.monotonic() + harness.PROCESS_TIMEOUT
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        worker.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)
        assert interrupt(worker).code == 130
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + harness.PROCESS_TIMEOUT
    while is_alive(pid):
        assert time.monotonic() < end


@pytest.mark.process
@pytest.mark.parametrize("function", ["drip", "echo"])
def test_closed_output_exits_with_141_without_traceback(server_option: list[str], function: str) -> None:
    """As with ``head -1``."""
    lines = ["--lines"] if function == "echo" else []
    with start_process("submit", *server_option, *lines, function, stdin=subprocess.PIPE, bufsize=0) as started:
        started.stdin.write(b"line\n" * 100)
        if function == "drip":
            started.stdin.close()
            started.stdin = None
        assert started.stdout.readline() == b"line\n"
        started.stdout.close()
        if function == "echo":
            for _ in range(50):
                try:
                    started.stdin.write(b"line\n" * 1000)
                except BrokenPipeError:
                    break
        assert started.wait(harness.PROCESS_TIMEOUT) == 141
        assert started.stderr.read() == b""
        if started.stdin is not None:
            started.stdin.close()
        started.stdin = started.stdout = None


def peak_memory(pid: int) -> int:
    """Return the peak memory of a process in KiB. (`wait4` includes that of its parent before the exec.)"""
    match = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


@pytest.mark.soak
def test_lines_take_constant_memory(server_option: list[str], tmp_path: Path) -> None:
    """32 MiB of input and output do not make the process grow."""
    result = tmp_path / "out"
    line = os.urandom(8192).replace(b"\n", b"x")
    whole = b"".join(b"%08d%b\n" % (number, line) for number in range(4096))
    with (
        result.open("wb") as stdout,
        start_process(
            "submit", *server_option, "-n", "-j", "20", "echo", stdin=subprocess.PIPE, stdout=stdout
        ) as started,
    ):
        started.stdin.write(whole)
        started.stdin.flush()
        end = time.monotonic() + harness.PROCESS_TIMEOUT
        while result.stat().st_size < len(whole):
            assert time.monotonic() < end
            time.sleep(0.01)
        memory = peak_memory(started.pid)
        started.stdin.close()
        assert started.wait(harness.PROCESS_TIMEOUT) == 0
        started.stdin = None
    assert result.read_bytes() == whole
    assert memory < 100 * 1024


# Imports.


@pytest.mark.process
@pytest.mark.parametrize("modules", ["txgearman", "txgearman.testing"])
def test_library_imports_no_extra(modules: str) -> None:
    unwanted = {"click", "rich", "prometheus_client", "txgearman.cli", "txgearman.cli.main"}
    script = f"import sys, {modules}; print({unwanted!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert result.stdout == "set()\n"


@pytest.mark.process
def test_help_imports_no_slow_module() -> None:
    """No reactor and no rich, so that it is fast."""
    script = (
        "import sys; from txgearman.cli.main import cli; cli.main(['submit', '--help'], standalone_mode=False);"
        "slow = {'rich', 'prometheus_client', 'twisted.internet.reactor', 'twisted.web', 'txgearman.testing'};"
        "print(slow & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert result.stdout.endswith("set()\n")


@pytest.mark.process
def test_missing_extra_reports_how_to_install_it() -> None:
    script = "import sys; sys.modules['click'] = None; from txgearman.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert "python -m pip install 'txgearman[cli]'" in result.stderr


@pytest.mark.process
def test_other_import_errors_are_not_hidden() -> None:
    script = "import sys; sys.modules['txgearman.cli.options'] = None; from txgearman.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert "txgearman.cli.options" in result.stderr


@pytest.mark.process
def test_version_is_printed() -> None:
    assert harness.run_process("--version").out.startswith(b"txgearman, version ")


# Runs, in this process.


@pytest.fixture
def own_reactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a second reactor, which runs without signal handlers."""
    own: Any = SelectReactor()
    monkeypatch.setattr(own, "run", lambda: SelectReactor.run(own, installSignalHandlers=False))
    names = (*reactor_loop.STOP_SIGNALS, *reactor_loop.DEADLY_SIGNALS)
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in names}
    yield own
    for name, handler in handlers.items():
        signal.signal(getattr(signal, name), handler)


async def return_42(_: Terminal) -> int:
    return 42


def test_run_returns_exit_code_of_command(own_reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted.internet.reactor", own_reactor)
    monkeypatch.setattr(reactor_loop, "globalLogBeginner", Beginner())
    assert run(return_42, verbosity=1) == 42


class Beginner:
    def beginLoggingTo(  # noqa: N802  # Twisted's name
        self, observers: list[Any], **_: object
    ) -> None:
        assert [type(observer) for observer in observers] == [StderrLogObserver]


def test_signal_cancels_run(own_reactor: Any) -> None:
    cancelled: list[str] = []

    async def wait(_: Terminal) -> int:
        try:
            await Deferred()
        finally:
            cancelled.append("cancelled")
        return 0

    own_reactor.callWhenRunning(lambda: own_reactor.callLater(0.01, os.kill, os.getpid(), signal.SIGTERM))
    assert CommandRun(Terminal(own_reactor)).run(wait) == 128 + signal.SIGTERM
    assert cancelled == ["cancelled"]


@pytest.mark.parametrize(
    ("number", "code", "code_of_other"),
    [(signal.SIGTERM, 0, 143), (signal.SIGHUP, 0, 129), (signal.SIGINT, 130, 130)],
)
async def test_signal_sets_exit_code_of_service_and_of_other_command(
    number: int, code: int, code_of_other: int
) -> None:
    service, other = CommandRun(Terminal(reactor)), CommandRun(Terminal(reactor))
    finished = service.start(serve), other.start(wait_forever)
    for command_run in (service, other):
        command_run.signal_received(number)
    assert [await each for each in finished] == [code, code_of_other]


async def test_signal_after_end_leaves_exit_code() -> None:
    """The reactor has still to be stopped."""
    command_run = CommandRun(Terminal(reactor))
    finished = command_run.start(return_0)
    command_run.signal_received(signal.SIGINT)
    await deferLater(reactor, 0)
    assert await finished == 0


async def serve(_: Terminal) -> int:
    return await wait_for_signal()


async def return_0(_: Terminal) -> int:
    return 0


async def test_further_hangup_signals_do_not_exit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is closed sends several, by its shell and by the kernel."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    command_run = CommandRun(Terminal(reactor))
    finished = command_run.start(serve)
    for _ in range(3):
        command_run.signal_received(signal.SIGHUP)
    assert (await finished, exits) == (0, [])


async def test_first_signal_may_come_twice_and_another_exits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """timeout(1) sends it to the program and then to its process group."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    command_run = CommandRun(Terminal(reactor))
    finished = command_run.start(serve)
    for _ in range(2):
        command_run.signal_received(signal.SIGTERM)
    assert exits == []
    command_run.signal_received(signal.SIGINT)
    assert exits == [130]
    assert await finished == 0


@pytest.mark.parametrize("ignored", [True, False])
def test_hangup_signal_that_is_ignored_at_start_stays_so(own_reactor: Any, ignored: bool) -> None:
    """As nohup has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    def send() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        if ignored:
            os.kill(os.getpid(), signal.SIGTERM)

    own_reactor.callWhenRunning(own_reactor.callLater, 0.01, send)
    assert CommandRun(Terminal(own_reactor)).run(wait_forever) == 128 + (signal.SIGTERM if ignored else signal.SIGHUP)


def test_other_deadly_signal_kills_children_and_ends_program(
    own_reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is handled already is left alone."""
    sent: list[tuple[int, int]] = []
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    monkeypatch.setattr(terminal, "child_groups", {child.pid})
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell starts background programs with it ignored
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    async def receive(_: Terminal) -> int:
        monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
        handler: Any = signal.getsignal(signal.SIGQUIT)
        handler(signal.SIGQUIT, None)
        assert signal.getsignal(signal.SIGQUIT) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        return 0

    with (tmp_path / "err").open("wb") as file:
        assert CommandRun(Terminal(own_reactor, 0, 1, file.fileno())).run(receive) == 0
    assert child.wait(harness.PROCESS_TIMEOUT) == -signal.SIGKILL
    assert sent == [(os.getpid(), signal.SIGQUIT)]


def test_signal_during_start_of_child_waits_for_its_process_group(
    own_reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the program would end without its child, which nobody knew yet."""
    sent: list[tuple[int, int]] = []
    children: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(terminal, "child_groups", set())
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

    async def receive(_: Terminal) -> int:
        monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
        handler: Any = signal.getsignal(signal.SIGQUIT)
        with terminal.child_start:
            handler(signal.SIGQUIT, None)
            children.append(subprocess.Popen(["sleep", "1000"], start_new_session=True))
            terminal.child_groups.add(children[0].pid)
            assert sent == []
        return 0

    with (tmp_path / "err").open("wb") as file:
        assert CommandRun(Terminal(own_reactor, 0, 1, file.fileno())).run(receive) == 0
    assert children[0].wait(harness.PROCESS_TIMEOUT) == -signal.SIGKILL
    assert sent == [(os.getpid(), signal.SIGQUIT)]


@pytest.mark.parametrize("limit", [harness.PROCESS_TIMEOUT, 0.0])
def test_thread_waits_for_start_of_child_but_not_for_long(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(terminal, "START_LIMIT", limit)
    monkeypatch.setattr(terminal, "child_groups", set())
    monkeypatch.setattr(os, "killpg", lambda group, _: killed.append(group))
    thread = threading.Thread(target=terminal.kill_child_groups)
    with terminal.child_start:
        thread.start()
        if not limit:
            thread.join()
        terminal.child_groups.add(7)
    thread.join()
    assert killed == ([7] if limit else [])


async def test_command_exits_after_its_limit_though_reactor_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    exited = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: exits.append(code) or exited.set())  # type: ignore[func-returns-value]  # both return None
    command_terminal = Terminal(reactor)
    command_terminal.stop_limit = 0.01
    command_run = CommandRun(command_terminal)
    finished = command_run.start(wait_forever)
    command_run.signal_received(signal.SIGTERM)
    assert exited.wait(harness.PROCESS_TIMEOUT)
    assert exits == [ExitCode.FAILED]
    await finished


async def test_limit_ends_with_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command_terminal = Terminal(reactor)
    command_terminal.stop_limit = 1000.0
    command_run = CommandRun(command_terminal)
    finished = command_run.start(wait_forever)
    before = threading.active_count()
    command_run.signal_received(signal.SIGTERM)
    assert threading.active_count() == before + 1
    assert await finished == 143
    while threading.active_count() > before:
        await deferLater(reactor, 0.001)


def test_thread_that_runs_does_not_delay_exit(own_reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    gate = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: exits.append(code) or gate.set())  # type: ignore[func-returns-value]  # both return None
    monkeypatch.setattr(sys, "stdout", None)

    async def start_thread(_: Terminal) -> int:
        own_reactor.callInThread(gate.wait)
        return 42

    assert CommandRun(Terminal(own_reactor)).run(start_thread) == 42
    assert exits == [42]


# Standard streams that can't be read or written.


@pytest.mark.parametrize("rich", [True, False])
async def test_output_that_cant_be_written_is_one_line(tmp_path: Path, rich: bool) -> None:
    async def write(command_terminal: Terminal) -> int:
        if rich:
            command_terminal.rich_console().print("text")
        else:
            await command_terminal.write(b"text\n")
        return 0

    with Path("/dev/full").open("wb") as output, (tmp_path / "err").open("wb") as errors:
        finished = CommandRun(Terminal(reactor, 0, output.fileno(), errors.fileno())).start(write)
        assert await finished == ExitCode.INPUT_OUTPUT
    assert (tmp_path / "err").read_text() == "txgearman: can't write the output: No space left on device\n"


async def test_input_that_cant_be_read_is_one_line(tmp_path: Path) -> None:
    async def read(command_terminal: Terminal) -> int:
        return len(await command_terminal.read_all())

    directory = os.open(tmp_path, os.O_RDONLY)
    with (tmp_path / "err").open("wb") as errors:
        finished = CommandRun(Terminal(reactor, directory, 1, errors.fileno())).start(read)
        assert await finished == ExitCode.INPUT_OUTPUT
    os.close(directory)
    assert (tmp_path / "err").read_text() == "txgearman: can't read standard input: Is a directory\n"


async def test_errors_that_cant_be_written_do_no_harm() -> None:
    """The terminal may have been closed, or the disk be full."""

    async def fail(_: Terminal) -> int:
        raise StreamError("as text")

    with Path("/dev/full").open("wb") as errors:
        assert await CommandRun(Terminal(reactor, 0, 1, errors.fileno())).start(fail) == ExitCode.INPUT_OUTPUT


async def test_second_signal_shows_cursor_and_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(reactor_loop, "REPEAT_TIME", 0.0)
    master, slave = open_terminal()
    command_run = CommandRun(Terminal(reactor, 0, slave, slave))
    finished = command_run.start(wait_forever)
    command_run.signal_received(signal.SIGINT)
    command_run.signal_received(signal.SIGINT)
    assert exits == [130]
    assert os.read(master, 100) == b"\x1b[?25h"
    assert await finished == 130
    os.close(master)
    os.close(slave)


async def wait_forever(_: Terminal) -> int:
    await Deferred()
    return 0


def test_clean_up_writes_nothing_without_terminal(tmp_path: Path) -> None:
    with (tmp_path / "err").open("wb") as file:
        Terminal(reactor, 0, 1, file.fileno()).clean_up()
    assert (tmp_path / "err").read_bytes() == b""


def test_clean_up_kills_child_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has already exited is ignored."""
    exited, running = (subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(2))
    exited.kill()
    exited.wait()
    monkeypatch.setattr(terminal, "child_groups", {exited.pid, running.pid})
    with (tmp_path / "err").open("wb") as file:
        Terminal(reactor, 0, 1, file.fileno()).clean_up()
    assert running.wait(harness.PROCESS_TIMEOUT) == -signal.SIGKILL


def test_unexpected_error_has_no_exit_code() -> None:
    assert exit_code_for(ValueError()) is None


@pytest.mark.parametrize(("verbose", "verbosity"), [([], 0), (["-v"], 1), (["-vv"], 2)])
def test_options_set_verbosity(verbose: list[str], verbosity: int) -> None:
    assert parse_command(*verbose, "ping")[1] == verbosity
    assert parse_command(*verbose, "work", "f", "cat")[1] == max(1, verbosity)  # with -v, a line for each job
    assert parse_command(*verbose, "work", "-q", "f", "cat")[1] == verbosity - 1


# Threads.


async def test_run_in_thread_fails_with_exception_of_call() -> None:
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(reactor, lambda: 1 // 0)


async def test_run_in_thread_drops_result_after_cancel() -> None:
    go = threading.Event()
    late = run_in_thread(reactor, go.wait)
    late.addErrback(lambda _: None)
    late.cancel()
    go.set()
    assert await run_in_thread(reactor, lambda: 3) == 3


@pytest.mark.parametrize(("verbosity", "traceback"), [(0, False), (1, True)])
def test_log_of_a_failure_has_type_and_text_and_from_info_on_the_traceback(
    verbosity: int, traceback: bool, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w+b") as file:
        log = Logger("txgearman.test", observer=StderrLogObserver(Terminal(None, 0, 1, file.fileno()), verbosity))
        try:
            raise KeyError("y")
        except KeyError:
            log.failure("the job failed", level=LogLevel.warn)
        first, *others = (tmp_path / "log").read_text("utf-8").splitlines()
    assert first == "txgearman: the job failed: KeyError: 'y'"
    assert ('raise KeyError("y")' in "".join(others)) is traceback
