"""A headless Chromium, driven over its DevTools pipe: no driver, no port, nothing to install but the browser."""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
    "--enable-precise-memory-info", "--force-color-profile=srgb", "--lang=en",
)  # fmt: skip

SILENCE = 60  # seconds in which any command is answered


class Unavailable(Exception):
    """Why there can be no browser here."""


def find() -> str:
    """The path of a Chromium, which root installs by apt if there is none.

    Raises:
        Unavailable: there is none, and it cannot be installed.
    """
    if (path := next(filter(None, map(shutil.which, BROWSERS)), None)) is not None:
        return path
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable("no Chromium is installed, and only root with apt-get could install it")
    quiet: dict[str, Any] = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True}
    subprocess.run(["apt-get", "update"], check=False, **quiet)
    done = subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "chromium"], check=False, **quiet)
    if done.returncode:
        raise Unavailable(f"apt-get could not install Chromium: {done.stderr.decode().strip()[-300:]}")
    return find()


class Tab:
    """A page of a browser.

    Args:
        to: where commands are written.
        back: where answers and events are read.

    Attributes:
        events: what the browser told unasked: requests, messages of the console, exceptions.
    """

    def __init__(self, to: BinaryIO, back: BinaryIO) -> None:
        self.to, self.back, self.number = to, back, 0
        self.rest, self.session, self.events = b"", "", list[dict[str, Any]]()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a DevTools command.

        Raises:
            RuntimeError: the browser refuses it.
        """
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.to.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        self.to.flush()
        while (answer := self.read()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def read(self) -> dict[str, Any]:
        """The next message of the browser.

        Raises:
            RuntimeError: it has ended, or says nothing.
        """
        while b"\0" not in self.rest:
            if not select.select([self.back], [], [], SILENCE)[0]:
                raise RuntimeError(f"the browser has said nothing for {SILENCE} s")
            if not (more := os.read(self.back.fileno(), 1 << 20)):
                raise RuntimeError("the browser has ended")
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\0")
        return dict(json.loads(line))

    def open(self, page: Path, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Load a page at a size and wait until its script has ended."""
        self.size(width, height)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.events.clear()
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.loaded()

    def reload(self) -> None:
        """Load the page again, at the address where it is."""
        self.events.clear()
        self.send("Page.reload")
        self.loaded()

    def loaded(self) -> None:
        """Wait until the script of a page has ended."""
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events[-50:]) or not self.run(
            "document.readyState === 'complete' && location.protocol === 'file:'"
        ):
            self.send("Runtime.evaluate", expression="1")

    def size(self, width: int, height: int) -> None:
        """Set the size of the window, in CSS pixels."""
        phone = width < 500
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, a promise awaited.

        Raises:
            RuntimeError: it throws.
        """
        options = {"returnByValue": True, "awaitPromise": True, "allowUnsafeEvalBlockedByCSP": False}
        done = self.send("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in done:
            raise RuntimeError(f"{script}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key as a keyboard does: it goes to what has the focus."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"windowsVirtualKeyCode": VIRTUAL[key]} if key in VIRTUAL else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def click(self, selector: str) -> None:
        """Click the middle of the first element of a selector, as a mouse does."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, file: Path) -> None:
        """Write a screenshot (PNG)."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


VIRTUAL = {"Enter": 13, "Escape": 27, "Tab": 9, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40}


@contextmanager
def chromium() -> Iterator[Tab]:
    """A browser with one page, ended afterwards.

    Raises:
        Unavailable: there is no browser.
    """
    path = find()
    with TemporaryDirectory(ignore_cleanup_errors=True) as home:
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        # DevTools reads file descriptor 3 and writes 4; bash moves ours there.
        moved = f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}'
        command = ["bash", "-c", moved, path, *OPTIONS, f"--user-data-dir={home}", "about:blank"]
        quiet = subprocess.DEVNULL
        browser = subprocess.Popen(command, pass_fds=(from_us, to_us), stdin=quiet, stdout=quiet, stderr=quiet)
        os.close(from_us)
        os.close(to_us)
        with os.fdopen(to_browser, "wb") as to, os.fdopen(from_browser, "rb", buffering=0) as back:
            try:
                yield Tab(to, back)  # type: ignore[arg-type]
            finally:
                browser.terminate()
                try:
                    browser.wait(10)
                except subprocess.TimeoutExpired:
                    browser.kill()
