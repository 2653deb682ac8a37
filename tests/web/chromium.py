"""A headless Chromium that tests steer by the DevTools protocol over two pipes, with the standard library alone."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync"),
    *("--no-sandbox", "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en"),  # root has no sandbox
)
SECONDS = 60  # most that any answer of the browser takes on a busy machine


def find_chromium() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A context: the browser, with a profile that it may fill."""

    def __init__(self, program: str, profile: Path) -> None:
        self.command = [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.rest = b""

    def __enter__(self) -> "Browser":
        read_end, self.write = os.pipe()
        self.read, write_end = os.pipe()
        # the browser reads descriptor 3 and writes descriptor 4; first out of their way
        inputs, outputs = (fcntl.fcntl(end, fcntl.F_DUPFD, 64) for end in (read_end, write_end))

        def connect() -> None:
            os.dup2(inputs, 3)
            os.dup2(outputs, 4)

        self.process = subprocess.Popen(
            self.command, preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in (read_end, write_end, inputs, outputs):
            os.close(end)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.read)
            os.close(self.write)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        os.write(self.write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            reply = self.receive()
            if reply.get("id") == number:
                assert "error" not in reply, (method, reply["error"])
                return reply["result"]

    def receive(self) -> dict[str, Any]:
        """Return the next message; if it is an event, also keep it."""
        while b"\0" not in self.rest:
            assert select.select([self.read], [], [], SECONDS)[0], "the browser does not answer"
            chunk = os.read(self.read, 2**20)
            assert chunk, "the browser has ended"
            self.rest += chunk
        text, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def page(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> "Page":
        """Open an empty page of that size."""
        return Page(self, width=width, height=height, dark=dark)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, *, width: int, height: int, dark: bool) -> None:
        self.browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call(
            "Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
        )

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of a kind so far."""
        self.evaluate("0")  # what has happened before has arrived
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"] for event in mine if event["method"] == method]

    def go(self, address: str, until: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait(until)

    def wait_for_event(self, method: str, after: int = 0) -> dict[str, Any]:
        """Return the parameters of the event number ``after`` of a kind; wait until it comes."""
        while len(found := self.events(method)) <= after:
            self.browser.receive()
        return found[after]

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, awaited."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, condition: str, seconds: float = SECONDS) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} stays false; the page says: {self.text('body')}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """The text that the page shows in the first element of a selector."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def centre(self, selector: str) -> tuple[float, float]:
        """Scroll to an element and return the place of its centre."""
        return tuple(
            self.evaluate(
                f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
                "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
            )
        )

    def click(self, selector: str) -> None:
        """Press and release the mouse on an element."""
        x, y = self.centre(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, selector: str, file: Path) -> None:
        """Click what opens the dialog for files, and choose a file in it."""
        self.call("Page.setInterceptFileChooserDialog", enabled=True)
        before = len(self.events("Page.fileChooserOpened"))
        self.click(selector)
        opened = self.wait_for_event("Page.fileChooserOpened", before)
        self.call("DOM.setFileInputFiles", files=[str(file)], backendNodeId=opened["backendNodeId"])

    def drop(self, selector: str, files: Sequence[Path]) -> None:
        """Drag files from outside the browser and drop them on an element."""
        x, y = self.centre(selector)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str, *, code: int = 0, text: str = "") -> None:
        """Press and release a key, such as Tab (code 9) or Enter (13)."""
        for kind in ("keyDown", "keyUp"):
            words = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **words)

    def picture(self, file: Path, *, quality: int = 80, whole: bool = True) -> None:
        """Save the page as a WebP."""
        taken = self.call("Page.captureScreenshot", format="webp", quality=quality, captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))
