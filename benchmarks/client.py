"""A client on the benchmarks' workloads, with every result checked.

python -m benchmarks.client --port PORT --workload window --style callbacks

The styles are in `styles`. The client is this library's, over TCP or TLS, with one server or several, or with a server
in memory; or what it is compared with: ``bare``, ``deferreds`` and ``amp``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater, react

from txgearman import GearmanClient, ServerState, TLSOptions
from txgearman.testing import MemoryJobServer

from . import amp_calls, bare
from .common import Stopwatch, add_arguments, payloads
from .deferreds import DeferredsAlone
from .styles import STYLES, Work

CLIENTS = ("txgearman", "tls", "memory", "bare", "deferreds", "amp")


async def connect(reactor: Any, options: argparse.Namespace) -> tuple[Any, Callable[[], object]]:
    """Make the client, and what closes it."""
    client: Any
    if options.client == "memory":
        server = MemoryJobServer(reactor)
        worker = server.worker(max_jobs=options.window)
        worker.register_function("echo", lambda job: job.workload)
        return server.client(), server.close
    if options.client == "bare":
        client = await bare.connect(reactor, options.port[0])
    elif options.client == "amp":
        client = await amp_calls.connect(reactor, options.port[0])
    elif options.client == "deferreds":
        client = DeferredsAlone(reactor)
    elif options.client == "tls":
        client = GearmanClient([f"tls:127.0.0.1:{options.port[0]}"], tls=TLSOptions(trust_roots=options.roots))
    else:
        client = GearmanClient([f"127.0.0.1:{port}" for port in options.port])
    return client, client.stopService


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.add_argument("--client", choices=CLIENTS, default="txgearman")
    parser.add_argument("--style", choices=STYLES, default="callbacks")
    parser.add_argument("--roots", default="", help="the file with the CA of the server's certificate")
    return parser.parse_args()


async def main(reactor: Any) -> None:
    options = arguments()
    watch = Stopwatch()
    client, close = await connect(reactor, options)
    work = Work(client, options.workload, payloads(options.jobs, options.payload), options.window, watch)
    await client.echo()  # it is connected
    if len(options.port) > 1:
        while any(server.state is not ServerState.READY for server in client.servers):
            await deferLater(reactor, 0.01)
    watch.start()
    await STYLES[options.style](work)
    watch.stop()
    watch.report(options.jobs)
    await maybeDeferred(close)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
