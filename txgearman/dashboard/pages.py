"""Pages of ``twisted.web`` that the dashboard is made of."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from importlib import resources
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import CACHED
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from ..errors import ClientStopped

__all__ = ["STOPPED", "DeferredPage", "Page", "Refusal", "StaticPage", "TextPage"]

_log = Logger()

PLAIN: Final = "text/plain; charset=utf-8"

INTERNAL_ERROR: Final = "internal error\n"

STOPPED: Final = "the dashboard has stopped\n"


class Page(Resource):
    """A page with no other below it, except those that were added."""

    def getChild(self, path: bytes, request: Request) -> Resource:  # noqa: N802  # Twisted's name
        return Refusal("not found\n", 404)


class TextPage(Page):
    """A page of plain text, which is always the same."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._content = text.encode()

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # Twisted's name
        request.setHeader("Content-Type", PLAIN)
        request.setHeader("Cache-Control", "no-store")
        return self._content


class Refusal(TextPage):
    """The answer to a request that is refused, whatever its method is."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self._code = code

    def render(self, request: Request) -> bytes:
        request.setResponseCode(self._code)
        return self.render_GET(request)


class StaticPage(Page):
    """A file of this package. A browser that has it asks whether it has changed."""

    def __init__(self, name: str, content_type: str) -> None:
        super().__init__()
        self._content = resources.files(__package__).joinpath(name).read_bytes()
        self._content_type = content_type
        self._tag = b'"%b"' % hashlib.sha256(self._content).hexdigest()[:32].encode()

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # Twisted's name
        request.setHeader("Cache-Control", "no-cache")
        if request.setETag(self._tag) is CACHED:
            return b""
        request.setHeader("Content-Type", self._content_type)
        return self._content


class DeferredPage(Page):
    """A page whose content takes time. Nothing is written if the browser disconnects before."""

    content_type = "application/json"

    def render_GET(self, request: Request) -> int:  # noqa: N802  # Twisted's name
        request.setHeader("Cache-Control", "no-store")
        try:
            content = self.content(request)
        except ValueError as error:
            _send_text(request, 400, f"{error}\n")
            return NOT_DONE_YET
        content.addCallback(self._send, request).addErrback(self._failed, request)
        request.notifyFinish().addErrback(lambda _: content.cancel())
        return NOT_DONE_YET

    @abstractmethod
    def content(self, request: Request) -> Deferred[bytes]:
        """Return the content.

        :raises ValueError: the request is invalid; its text is the answer.
        """

    def _send(self, content: bytes, request: Request) -> None:
        request.setHeader("Content-Type", self.content_type)
        request.write(content)
        request.finish()

    def _failed(self, failure: Failure, request: Request) -> None:
        if failure.check(CancelledError):  # the browser has disconnected
            return
        if failure.check(ClientStopped):
            _send_text(request, 503, STOPPED)
            return
        _log.failure("A page was not sent", failure)
        _send_text(request, 500, INTERNAL_ERROR)


def _send_text(request: Request, code: int, text: str) -> None:
    request.setResponseCode(code)
    request.setHeader("Content-Type", PLAIN)
    request.write(text.encode())
    request.finish()
