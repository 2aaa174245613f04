"""An application's code that has a job done. How it is tested: test_thumbnails_trial.py, test_thumbnails_pytest.py."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from txgearman import GearmanClient, TaskFailed

BROKEN: Final = b"the picture of a broken picture"
LATER: Final = b"the picture of an hourglass"


def thumbnail(reactor: Any, client: GearmanClient, picture: bytes) -> Deferred[bytes]:
    """Have a picture made small, within ten seconds; else there is another one to show."""
    return client.add_task("thumbnail", picture).addTimeout(10, reactor).addErrback(stand_in)


def stand_in(failure: Failure) -> bytes:
    return BROKEN if failure.check(TaskFailed) else LATER
