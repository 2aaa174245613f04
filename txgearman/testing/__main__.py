"""``python -m txgearman.testing``: a job server for development. Its jobs are lost when it ends."""

from __future__ import annotations

import argparse
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import react

from . import MemoryJobServer
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
    try:
        address = MemoryJobServer(reactor, **job_server_options(options)).listen(options.port, options.listen)
    except (ValueError, CannotListenError) as error:
        raise SystemExit(f"txgearman.testing: {error}") from None
    print(f"a job server on {address}", flush=True)
    await Deferred()


if __name__ == "__main__":
    react(main, [parse_arguments()])
