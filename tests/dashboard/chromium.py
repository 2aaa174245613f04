"""Drives Chromium without a window by its DevTools protocol, over a pipe, in the reactor of the tests.

Messages are JSON objects that end with a NUL: https://chromedevtools.github.io/devtools-protocol/. So it takes nothing
but the browser, of any version, and a test awaits the browser while it serves it.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO

from ..programs import require_program

reactor: Any = global_reactor

OPTIONS: Final = (
    "--headless=new",
    "--no-sandbox",  # else it does not start as root
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--no-first-run",
    "--lang=en-GB",
    "--remote-debugging-pipe",
)

TIME_LIMIT: Final = 30.0
"""Seconds that the browser may take for one call, and for a condition to become true."""

# Checks the condition now, after each change of the page, and at times for what is no change of it.
WAIT: Final = """new Promise((resolve) => {
    const check = () => {
        try {
            if (!(CONDITION)) return;
        } catch {
            return;  // an element is not there yet
        }
        observer.disconnect();
        clearInterval(timer);
        resolve();
    };
    const observer = new MutationObserver(check);
    const timer = setInterval(check, 100);
    observer.observe(document, {attributes: true, characterData: true, childList: true, subtree: true});
    check();
})"""


class Chromium(Protocol):
    """A running browser.

    :ivar errors: what its pages reported: exceptions, and violations of their Content-Security-Policy.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._received = b""
        self._calls: dict[int, Deferred[Any]] = {}
        self._number = 0

    def dataReceived(self, data: bytes) -> None:
        *messages, self._received = (self._received + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answered(self._calls.pop(message["id"]), message)
            elif message["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error" and entry["source"] != "network":
                    self.errors.append(entry["text"])

    @staticmethod
    def _answered(call: Deferred[Any], message: Any) -> None:
        if not call.called:  # its test has failed
            call.callback(message["result"] if "result" in message else AssertionError(message["error"]))

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol; return its result."""
        assert self.transport is not None
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        answer: Deferred[Any] = Deferred()
        self._calls[self._number] = answer
        self.transport.write(json.dumps(message).encode() + b"\0")
        result = await answer.addTimeout(TIME_LIMIT, reactor)
        if isinstance(result, AssertionError):
            raise result
        return result

    @asynccontextmanager
    async def page(self, url: str) -> AsyncIterator[Page]:
        """Open a page; close it at the end of the block. A page that has reported an error fails the test."""
        self.errors.clear()
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable", session)
        await self.call("Page.navigate", session, url=url)
        try:
            yield Page(self, session)
        finally:
            await self.call("Target.closeTarget", targetId=target)
        assert self.errors == []


class Page:
    """A page in the browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol for this page."""
        return await self._browser.call(method, self._session, **parameters)

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; that of a promise, once it is resolved."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait_for(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true."""
        try:
            await self.evaluate(WAIT.replace("CONDITION", condition))
        except Exception as error:
            if "navigated" in str(error):  # meanwhile; the condition is for the next page
                await self.wait_for(condition)
                return
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"{condition} did not become true, but:\n{text}") from error

    async def press(self, key: str, text: str = "") -> None:
        """Press a key, as on a keyboard."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key], **typed)

    async def type_text(self, text: str) -> None:
        """Type into the element that has the focus."""
        await self.call("Input.insertText", text=text)

    async def resize(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        """Set the size of the window in CSS pixels, and the scheme of its colours."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self) -> bytes:
        """Return a picture of the whole page, as PNG."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return b64decode(answer["data"])


@asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    """Start a browser; end it at the end of the block."""
    program = require_program("chromium")
    commands, answers = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = os.posix_spawn(
            program,
            [program, *OPTIONS, f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, output, os.devnull, os.O_WRONLY, 0) for output in (1, 2)),
                (os.POSIX_SPAWN_DUP2, commands[0], 3),
                (os.POSIX_SPAWN_DUP2, answers[1], 4),
            ],
        )
        os.close(commands[0])
        os.close(answers[1])
        browser = Chromium()
        pipes = StandardIO(browser, answers[0], commands[1], reactor=reactor)  # type: ignore[call-arg, misc]  # mypy sees that of Windows
        try:
            await browser.call("Browser.getVersion")
            yield browser
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            pipes.loseConnection()
