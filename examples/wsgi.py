"""A web application with threads, as of Django or Flask, whose views call Gearman workers.

    GEARMAN_SERVER=127.0.0.1:4730 python examples/wsgi.py
    curl --data stressed http://127.0.0.1:8000/

Needs a gearmand there, and examples/worker.py. The application is a plain WSGI one: any server may run it, in processes
that it forks, too.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from bridge import call, reactor
from txgearman import GearmanClient, NoServersAvailable, TaskError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

client = GearmanClient([os.environ.get("GEARMAN_SERVER", "127.0.0.1:4730")], timeout=10.0)
reactor.addSystemEventTrigger("before", "shutdown", client.stopService)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a request with its body reversed."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        status, answer = "200 OK", call(client.add_task, "reverse", body)
    except (NoServersAvailable, TaskError) as error:
        status, answer = "503 Service Unavailable", f"{error}\n".encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request. The end of the program waits for those that run."""

    request_queue_size = 128


class Handler(WSGIRequestHandler):
    """Without a line on stderr for each request."""

    def log_message(self, *_: object) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a page that has the body of a POST reversed by a worker.")
    parser.add_argument("--port", type=int, default=8000)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with (
        suppress(KeyboardInterrupt),
        make_server("127.0.0.1", parser.parse_args().port, application, Server, Handler) as server,
    ):
        print(f"listening on {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
