"""``python -m txgearman.testing``: a job server for development. Its jobs are lost when it ends."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import react
from twisted.logger import globalLogBeginner

from .. import __version__
from . import MemoryJobServer
from .development import DevelopmentLog, LogFile, hangups_handled, log_traffic
from .server import host_handle_prefix


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line, whose options have the names of gearmand's."""
    parser = argparse.ArgumentParser(
        prog="python -m txgearman.testing", description="Run an in-memory Gearman job server."
    )
    parser.add_argument("-p", "--port", type=int, default=4730, help="0 for any free port (default: %(default)s)")
    parser.add_argument("-L", "--listen", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument(
        "-j",
        "--job-retries",
        type=int,
        default=0,
        metavar="N",
        help="how many workers a job is given to before it fails; 0, the default, for no limit",
    )
    parser.add_argument(
        "--job-handle-prefix",
        default="",
        metavar="PREFIX",
        help="the prefix of job handles (default: H: and the name of the host)",
    )
    parser.add_argument(
        "--exceptions", action="store_true", help="also send exceptions to clients that have not asked for them"
    )
    parser.add_argument(
        "-l", "--log-file", metavar="FILE", help="log to this file, which SIGHUP reopens (default: standard error)"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log connections, requests and what is refused; twice for the other answers, too. By default, requests "
        "that are refused without an answer are logged",
    )
    parser.add_argument("-V", "--version", action="version", version=f"txgearman {__version__}")
    return parser.parse_args(arguments)


def job_server_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that `MemoryJobServer` takes."""
    return {
        "job_retries": options.job_retries,
        "job_handle_prefix": options.job_handle_prefix or host_handle_prefix(),
        "exceptions": options.exceptions,
    }


async def main(reactor: Any, options: argparse.Namespace) -> None:
    """Run the job server until a signal ends the process."""
    with ExitStack() as stack:
        try:
            log_file = LogFile(options.log_file, options.verbose) if options.log_file else None
            server = MemoryJobServer(reactor, **job_server_options(options))
            address = server.listen(options.port, options.listen)
        except (ValueError, OSError, CannotListenError) as error:
            raise SystemExit(f"txgearman.testing: {error}") from None
        if log_file is not None:
            stack.enter_context(log_file)
        log_traffic(server)
        stack.enter_context(hangups_handled(reactor, log_file))
        print(f"a job server on {address}", flush=True)
        await Deferred()


def begin_log(options: argparse.Namespace) -> None:
    """Log to standard error, unless there is a log file."""
    log = DevelopmentLog(sys.stderr, options.verbose, lambda _: "txgearman.testing: ")
    globalLogBeginner.beginLoggingTo([] if options.log_file else [log], redirectStandardIO=False, discardBuffer=True)


if __name__ == "__main__":
    parsed = parse_arguments()
    begin_log(parsed)
    react(main, [parsed])
