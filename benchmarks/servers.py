"""The job servers of the benchmarks, each of its own, and what stands before them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .programs import WORKER, compiled

__all__ = ["amp_server", "job_server", "running", "tls_before"]

LISTENS_WITHIN = 10.0
"""Seconds that a server may take to listen."""


@contextlib.contextmanager
def running(*command: str, ready: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended afterwards.

    :param ready: whether to wait until it has printed a line.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE if ready else None) as process:
        try:
            if process.stdout is not None:
                process.stdout.readline()
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def job_server(worker: bool = True, width: int = 128) -> Iterator[int]:
    """A gearmand, and a worker that gives workloads back if there is to be one; its port.

    :param width: requests for a job that the worker has at a time.
    """
    port = _free_port()
    program = _program("gearmand", "gearman-job-server")
    options = ["--listen=127.0.0.1", f"--port={port}", "--log-file=none", "--threads=1", "--hashtable-buckets=200003"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(program, *options))
        _await_listening(port)
        if worker:
            stack.enter_context(running(*_worker(port, width), ready=True))
        yield port


def _worker(port: int, width: int) -> list[str]:
    """The command of the worker in C; of one in plain Python, where C can't be compiled."""
    program = compiled(WORKER)
    if program is None:
        return [sys.executable, "-m", "benchmarks.echo_worker", str(port)]
    return [str(program), str(port), "-k", str(width)]


@contextlib.contextmanager
def amp_server() -> Iterator[int]:
    """A server of AMP that gives workloads back; its port."""
    port = _free_port()
    with running(sys.executable, "-m", "benchmarks.amp_calls", str(port)):
        _await_listening(port)
        yield port


@contextlib.contextmanager
def tls_before(server: int) -> Iterator[tuple[int, Path]]:
    """A stunnel before the server at that port; its own port, and the file with the CA of its certificate."""
    import trustme  # of the extra ``test``: no other case needs it

    program = _program("stunnel4", "stunnel4")
    port = _free_port()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = trustme.CA()
        roots, certificate, settings = (directory / file for file in ("ca.pem", "own.pem", "stunnel.conf"))
        authority.cert_pem.write_to_path(roots)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        lines = ["foreground = yes", "debug = emerg", "pid =", "[gearman]", f"accept = 127.0.0.1:{port}"]
        lines += [f"connect = 127.0.0.1:{server}", f"cert = {certificate}"]
        settings.write_text("\n".join(lines) + "\n", "utf-8")
        with running(program, str(settings)):
            _await_listening(port)
            yield port, roots


def _program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        raise SystemExit(f"{name} is not here: apt-get install {package}")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _await_listening(port: int) -> None:
    end = time.monotonic() + LISTENS_WITHIN
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if time.monotonic() > end:
            raise SystemExit(f"nothing listens at port {port} within {LISTENS_WITHIN} seconds")
        time.sleep(0.01)
