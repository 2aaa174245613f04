"""A worker that has its jobs done by a web application: it posts each workload there, and the answer is the result.

    GEARMAN_SERVER=127.0.0.1:4730 WEB_APPLICATION=http://127.0.0.1:8000/ twistd -ny examples/poster.tac

The application knows nothing of Gearman. Any answer but 2xx fails the job, with its status and its first bytes as
exception. When twistd is stopped, requests that run get their answers first.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from io import BytesIO
from typing import Any

from twisted.application.service import Application, MultiService
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool, readBody
from twisted.web.http_headers import Headers
from txgearman import GearmanWorker, Job

reactor: Any = global_reactor

SERVERS = os.environ.get("GEARMAN_SERVER", "127.0.0.1:4730").split(",")
URL = os.environ.get("WEB_APPLICATION", "http://127.0.0.1:8000/").encode()

REQUESTS = 10
"""Requests that run at a time."""

HEADERS = Headers({b"Content-Type": [b"application/octet-stream"]})


class RequestRefused(Exception):
    """The application has answered a request by something else than 2xx."""


class Poster(MultiService):
    """The worker, and its connections to the application, which are closed once no job needs them any longer."""

    def __init__(self) -> None:
        super().__init__()
        self._connections = HTTPConnectionPool(reactor)
        self._connections.maxPersistentPerHost = REQUESTS
        self._agent = Agent(reactor, connectTimeout=5.0, pool=self._connections)
        worker = GearmanWorker(SERVERS, client_id="poster", max_jobs=REQUESTS)
        worker.register_function("post", self.post, timeout=60.0)
        worker.setServiceParent(self)

    async def post(self, job: Job) -> bytes:
        """Post a job. If its server is lost meanwhile, the request is dropped, since another worker gets the job."""
        response = await self._agent.request(b"POST", URL, HEADERS, FileBodyProducer(BytesIO(job.workload)))
        body = await readBody(response)
        if response.code // 100 != 2:
            raise RequestRefused(f"{response.code} {body[:100].decode(errors='replace')}")
        return body

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        yield super().stopService()
        yield self._connections.closeCachedConnections()


application = Application("poster")
Poster().setServiceParent(application)
