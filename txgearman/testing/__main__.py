"""``python -m txgearman.testing``: a job server for development. It keeps nothing when it ends."""

from __future__ import annotations

import argparse
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import react

from . import MemoryJobServer


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; the options are called as gearmand's."""
    parser = argparse.ArgumentParser(prog="python -m txgearman.testing", description="A Gearman job server in memory.")
    parser.add_argument("-p", "--port", type=int, default=4730, help="0 for any that is free (default: %(default)s)")
    parser.add_argument("-L", "--listen", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument(
        "-j",
        "--job-retries",
        type=int,
        default=0,
        metavar="N",
        help="workers that a job is given to before it fails; 0, the default, for no limit",
    )
    parser.add_argument(
        "--job-handle-prefix", default="H:memory", metavar="PREFIX", help="of job handles (default: %(default)s)"
    )
    parser.add_argument(
        "--exceptions", action="store_true", help="send exceptions to clients that have not asked for them, too"
    )
    return parser.parse_args(arguments)


def job_server_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those of them that `MemoryJobServer` takes."""
    return {name: getattr(options, name) for name in ("job_retries", "job_handle_prefix", "exceptions")}


async def main(reactor: Any, options: argparse.Namespace) -> None:
    """Serve until a signal."""
    try:
        address = MemoryJobServer(reactor, **job_server_options(options)).listen(options.port, options.listen)
    except (ValueError, CannotListenError) as error:
        raise SystemExit(f"txgearman.testing: {error}") from None
    print(f"a job server on {address}", flush=True)
    await Deferred()


if __name__ == "__main__":
    react(main, [parse_arguments()])
