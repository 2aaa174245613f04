"""Real job servers, each on a free port, stopped by the process that was started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from txgearman.testing.gearmand import ask, free_port

from .programs import perl_server, require, require_program

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Daemon", "Geard", "Gearmand", "Haproxy", "PerlServer", "Prometheus", "Stunnel", "free_port"]

START_LIMIT = 20.0


class Daemon:
    """A server process. Once it is entered or `start()` returns, it accepts connections."""

    def __init__(self, *options: str, listen: str = "127.0.0.1") -> None:
        self.options = options
        self.listen = listen
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"[{self.listen}]:{self.port}" if ":" in self.listen else f"{self.listen}:{self.port}"

    def command(self) -> list[str]:
        raise AssertionError("a subclass knows")

    def start(self) -> None:
        """Start it, on the same port as before."""
        assert self._process is None
        process = self._process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + START_LIMIT
        while True:
            try:
                socket.create_connection((self.listen, self.port), 1.0).close()
                return
            except OSError:
                assert process.poll() is None, f"{self.command()} ended with {process.returncode}"
                assert time.monotonic() < end, f"{self.command()} does not listen"
                time.sleep(0.01)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it; when this returns, it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(START_LIMIT)

    def exit_code(self) -> int | None:
        """Return what it ended with; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stall(self) -> None:
        """Stop it where it is, until SIGCONT; when this returns, all of its threads stand still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def admin(self, line: str) -> list[str]:
        """Send one line of the text protocol; return the lines of its answer."""
        return ask(self.listen, self.port, line).splitlines()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class Gearmand(Daemon):
    """gearmand, from the package gearman-job-server, or the one that TXGEARMAN_GEARMAND names."""

    def command(self) -> list[str]:
        program = require_program("gearmand")
        log = [] if any(option.startswith("--log-file") for option in self.options) else ["--log-file=none"]
        return [program, f"--listen={self.listen}", f"--port={self.port}", *log, *self.options]


class Stunnel(Daemon):
    """stunnel, from the package stunnel4: speaks TLS in front of a server that speaks plain text."""

    def __init__(self, server: str, certificate: Path, *options: str) -> None:
        """
        :param server: the address of that server.
        :param certificate: a PEM file with stunnel's certificate and key. Its settings are written beside it.
        :param options: more lines of settings.
        """
        super().__init__(*options)
        self._settings = certificate.with_suffix(f".{self.port}.conf")
        lines = ["foreground = yes", "pid =", "[gearman]", f"accept = {self.address}"]
        lines += [f"connect = {server}", f"cert = {certificate}", *options]
        self._settings.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [require_program("stunnel4"), str(self._settings)]


class Haproxy(Daemon):
    """haproxy, from the package of that name: drops connections on which nothing was sent for a while."""

    def __init__(self, server: str, folder: Path, idle_timeout: float) -> None:
        """
        :param server: the address of the server behind it.
        :param folder: where its settings are written.
        :param idle_timeout: seconds of silence after which it closes both sides of a connection.
        """
        super().__init__()
        self._settings = folder / f"haproxy.{self.port}.cfg"
        idle = f"{round(idle_timeout * 1000)}ms"
        lines = ["defaults", "mode tcp", "timeout connect 5s", f"timeout client {idle}", f"timeout server {idle}"]
        lines += ["listen gearman", f"bind {self.address}", f"server gearmand {server}"]
        self._settings.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [require_program("haproxy"), "-db", "-f", str(self._settings)]


class Prometheus(Daemon):
    """prometheus, from the package of that name."""

    def __init__(self, settings: Path) -> None:
        """
        :param settings: the file with its settings. Its data are written beside it.
        """
        super().__init__()
        self._settings = settings

    def command(self) -> list[str]:
        return [
            require_program("prometheus"),
            f"--config.file={self._settings}",
            f"--storage.tsdb.path={self._settings.with_suffix('.data')}",
            f"--web.listen-address={self.address}",
        ]


class Geard(Daemon):
    """geard, from the Python package gear."""

    def admin(self, line: str) -> list[str]:
        """Send one line, again where a busy machine's geard closes the connection that it has just accepted."""
        end = time.monotonic() + START_LIMIT
        while True:
            try:
                return super().admin(line)
            except ConnectionResetError:
                if time.monotonic() > end:
                    raise

    def command(self) -> list[str]:
        require("gear")
        start = "import sys; from gear.cmd.geard import main; sys.exit(main())"
        return [
            sys.executable,
            "-c",
            start,
            "-d",
            f"--listen-address={self.listen}",
            f"-p{self.port}",
            *self.options,
        ]


class PerlServer(Daemon):
    """The job server in Perl, from the package gearman-server."""

    def command(self) -> list[str]:
        return [*perl_server(), f"--listen={self.listen}", f"--port={self.port}", *self.options]
