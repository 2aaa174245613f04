"""The methods of a `MemoryJobServer` that inject faults."""

from __future__ import annotations

from ..packets import PacketType
from .core import JobServerCore
from .faults import Fault, Faults, HeldAnswers


class FaultMethods:
    """The part of `MemoryJobServer` that injects faults."""

    _core: JobServerCore
    _faults: Faults

    def go_down(self, *, lose_jobs: bool = False) -> Fault:
        """Drop every connection and refuse new ones, until the `Fault` ends.

        Jobs that the test has taken are queued again; a call of such a `TakenJob` raises `RuntimeError`.

        :param lose_jobs: forget all jobs, as a gearmand that is restarted does; handles are numbered from 1 again.
        """
        fault = self._faults.go_down()
        self._core.drop_manual_workers()
        if lose_jobs:
            self._core.forget_jobs()
        return fault

    def refuse_connections(self) -> Fault:
        """Refuse new connections; open ones stay open.

        On a port, a connection is accepted and closed at once.
        """
        return self._faults.refuse_connections()

    def black_hole_connections(self) -> Fault:
        """Leave every attempt to connect unanswered.

        On a port, a connection is accepted and never read from, as by a gearmand that is out of file descriptors (H12).
        """
        return self._faults.black_hole_connections()

    def drop_connections(self) -> None:
        """Drop every connection now.

        What was sent before still arrives; `drop_before` loses it.

        :raises AssertionError: nothing is connected.
        """
        self._faults.drop_connections()

    def drop_before(self, *types: PacketType, times: int | None = 1) -> Fault:
        """Instead of processing the next packet of these types, drop its connection.

        :param types: packet types of `txgearman.packets`, such as ``SUBMIT_JOB``; none for any packet.
        :param times: how often; None for each time.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.drop_before(*types, times=times)

    def drop_after(self, *types: PacketType, times: int | None = 1) -> Fault:
        """Process the next packet of these types, and drop its connection before the answer is sent.

        :param types: as for `drop_before`.
        :param times: how often; None for each time.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.drop_after(*types, times=times)

    def leave_unanswered(self, *types: PacketType, times: int | None = 1) -> Fault:
        """Ignore the next packet of these types, as other servers do with some (H6).

        :param types: as for `drop_before`.
        :param times: how many packets are ignored; None for all.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.leave_unanswered(*types, times=times)

    def reject(
        self,
        code: str,
        text: str = "",
        *types: PacketType,
        function: str | bytes | None = None,
        times: int | None = 1,
    ) -> Fault:
        """Instead of processing the next packet of these types, answer it with an ERROR.

        :param code: the error code, such as ``"QUEUE_ERROR"``.
        :param text: the error text.
        :param types: as for `drop_before`; none for any packet that submits a job (`SUBMITS`).
        :param function: only packets whose first argument is this function's name, with the prefix if there is one.
        :param times: how many packets are rejected; None for all.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.reject(code, text, *types, function=function, times=times)

    def hold_answers(self) -> HeldAnswers:
        """Send nothing on any connection until `HeldAnswers.release`.

        Requests are still processed.
        """
        return self._faults.hold_answers()

    def fall_silent(self) -> Fault:
        """Neither read nor send anything on any connection, like a host that has lost its power."""
        return self._faults.fall_silent()

    def split_answers(self, size: int) -> Fault:
        """Send everything in pieces, each in a reactor turn of its own.

        :param size: bytes in a piece.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.split_answers(size)

    def send_raw(self, data: bytes) -> None:
        """Send these bytes to every connection, whatever they are.

        :raises AssertionError: nothing is connected.
        """
        self._faults.send_raw(data)

    def verify(self) -> None:
        """Check that every fault has happened, and that no answer is still held. `close` verifies more.

        :raises AssertionError: naming each fault that has not happened, and why.
        """
        self._faults.verify()
