from typing import Any

import pytest
from thumbnails import BROKEN, LATER, thumbnail
from txgearman.testing import MemoryJobServer


@pytest.mark.parametrize(
    ("happens", "shown"),
    [
        (lambda server: server.take("thumbnail").complete(b"small"), b"small"),
        (lambda server: server.take("thumbnail").fail(), BROKEN),
        (lambda server: server.drop_connections(), LATER),
        (lambda server: server.advance(10), LATER),
    ],
    ids=["success", "failure", "lost connection", "time-out"],
)
def test_thumbnail(job_server: MemoryJobServer, happens: Any, shown: bytes) -> None:
    outcome = thumbnail(job_server.clock, job_server.client(), b"large")
    happens(job_server)
    assert job_server.result_of(outcome) == shown
