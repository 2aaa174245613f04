"""A job that the test took, to play its worker."""

from __future__ import annotations

from collections.abc import Callable

from ..packets import WORK_COMPLETE, WORK_DATA, WORK_FAIL, WORK_STATUS, WORK_WARNING, PacketType
from ..validation import payload_bytes
from .core import Core
from .jobs import Ability, Job


class Hand:
    """The worker that a test plays: one for each job that it takes."""

    def __init__(self) -> None:
        self.abilities: list[Ability] = []

    def wake(self) -> None:
        """It does not sleep."""


class TakenJob:
    """A job that a test took from a `MemoryJobServer`, as a worker would; the test now says what comes of it.

    With a `Clock`, whatever it says has arrived at the client when the call returns.

    :ivar handle: its handle.
    :ivar function: the function's name, prefix included.
    :ivar unique: as submitted; empty if there was none.
    :ivar workload: the payload.
    """

    def __init__(self, core: Core, hand: Hand, job: Job, settle: Callable[[], None]) -> None:
        self._core = core
        self._hand = hand
        self._job = job
        self._settle = settle
        self._ended = False
        self.handle = job.handle
        self.function = job.function.name
        self.unique = job.unique
        self.workload = job.workload

    def __repr__(self) -> str:
        return f"<TakenJob {self.handle.decode()} of {self.function!r}>"

    def send_data(self, data: bytes) -> None:
        """WORK_DATA."""
        self._send_data(WORK_DATA, data)

    def send_warning(self, data: bytes) -> None:
        """WORK_WARNING."""
        self._send_data(WORK_WARNING, data)

    def send_status(self, numerator: int, denominator: int) -> None:
        """WORK_STATUS."""
        self._check()
        packet = WORK_STATUS.response(self.handle, b"%d" % numerator, b"%d" % denominator)
        self._core.work_status(self._job, packet, numerator, denominator)
        self._settle()

    def complete(self, result: bytes = b"") -> None:
        """WORK_COMPLETE: it is done."""
        self._end(WORK_COMPLETE.response(self.handle, payload_bytes("result", result)))

    def fail(self) -> None:
        """WORK_FAIL: there will be no result, and no reason."""
        self._end(WORK_FAIL.response(self.handle))

    def send_exception(self, data: bytes) -> None:
        """WORK_EXCEPTION, which is the end."""
        payload = payload_bytes("data", data)
        self._check()
        self._ended = True
        self._core.work_exception(self._job, payload)
        self._leave()

    def abandon(self) -> None:
        """The worker dies: the server gives the job to another one, as often as its `job_retries` allow."""
        self._check()
        self._ended = True
        self._leave()

    def _check(self) -> None:
        if self._ended:
            raise RuntimeError(f"{self!r} has ended")

    def _send_data(self, packet_type: PacketType, data: bytes) -> None:
        self._check()
        self._core.work_data(self._job, packet_type, payload_bytes("data", data))
        self._settle()

    def _end(self, packet: bytes) -> None:
        self._check()
        self._ended = True
        self._core.work_end(self._job, packet)
        self._leave()

    def _leave(self) -> None:
        self._core.remove_abilities(self._hand.abilities)
        self._settle()
