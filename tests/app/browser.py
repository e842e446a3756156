"""A headless browser, and the page served for it: no torch, and no network but this machine's."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

#: Set where the browser must be there, as `.ci/run` installs it.
REQUIRED = "CRFRNN_REQUIRE_BROWSER"

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip

#: Serves the page in a process that sees no torch, and that may reach no other machine.
_SERVER = """
import signal, socket, sys

# A process started in the background ignores SIGINT; this one shall not.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *more):
        return None if name.partition(".")[0] == "torch" else self.finder.find_spec(name, *more)

sys.meta_path[:] = [Hiding(f) if hasattr(f, "find_spec") else f for f in sys.meta_path]

LOCAL = ("127.0.0.1", "localhost", "::1", "", None)

def refuse(host):
    with open({log!r}, "a") as file:
        file.write(f"{{host}}\\n")
    raise OSError(f"the test lets nothing reach {{host}}")

class Socket(socket.socket):
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            refuse(address[0])
        return super().connect(address)

look_up = socket.getaddrinfo
def getaddrinfo(host, *more, **named):
    name = host.decode() if isinstance(host, bytes) else host
    return look_up(host, *more, **named) if name in LOCAL else refuse(name)

socket.socket, socket.getaddrinfo = Socket, getaddrinfo
from crfrnn.cli import main
code = main(["app", *{arguments!r}])
assert "torch" not in sys.modules
sys.exit(code)
"""


def needs() -> tuple[str, str]:
    """The browser and its driver; skips the test where one is missing."""
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    missing = "" if browser and driver else "needs chromium and chromedriver"
    if missing and os.environ.get(REQUIRED):
        pytest.fail(f"{missing}, and {REQUIRED} is set")
    if missing:
        pytest.skip(missing)
    assert browser is not None
    assert driver is not None
    return browser, driver


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[str]:
    """Run `crfrnn app` in a folder; gives the address, and checks that it asked no one else."""
    log = folder / "reached.txt"
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    text = _SERVER.format(log=str(log), arguments=list(arguments))
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            _, errors = process.communicate(timeout=60)
            raise AssertionError(errors)
        yield address
    finally:
        process.send_signal(2)  # Ctrl-C
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, errors
    assert not log.exists(), f"the page's server asked for {log.read_text()}"
    left = [path for path in temporary.rglob("*") if path.is_file()]
    assert not left, f"left behind: {left}"


class Browser:
    """A tab of a headless browser.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        browser, driver = needs()
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for switch in (*_SWITCHES, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.hosts: set[str] = set()

    def open(self, address: str, width: int = 1280, height: int = 900) -> None:
        """Open an address in a window of this width, and wait for the picture."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        self.driver.get(address)
        self.until(lambda: self.picture() != "", "a picture")

    def close(self) -> None:
        """Close the browser."""
        self.driver.quit()

    def find(self, css: str) -> Any:
        """The first element that a CSS selector finds."""
        return self.driver.find_element("css selector", css)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page."""
        return self.driver.execute_script(script, *arguments)

    def text(self, css: str) -> str:
        """The text of an element, or the value of a field."""
        script = (
            "const e = document.querySelector(arguments[0]); return e?.value ?? e?.innerText ?? ''"
        )
        return str(self.run(script, css) or "").strip()

    def picture(self) -> str:
        """The picture on the board, as a data URL."""
        script = "return document.querySelector('#board img.after')?.src ?? ''"
        return str(self.run(script))

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := holds():
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds:g} s for {what}; message: {self.text('#message')}")

    def changes(self, do: Callable[[], Any], css: str = "") -> str:
        """Do something, and wait until the picture, or the text of an element, has changed."""
        look = self.picture if not css else lambda: self.text(css)
        before = look()
        do()
        self.until(lambda: look() != before, f"a change of {css or 'the picture'}")
        return look()

    def keys(self, *keys: str) -> None:
        """Press keys, one after another."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, css: str) -> None:
        """Click an element, after scrolling to it."""
        element = self.find(css)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def click_text(self, tag: str, text: str) -> None:
        """Click the first element with this tag that shows this text."""
        path = f"//{tag}[contains(normalize-space(.), '{text}')]"
        element = self.driver.find_element("xpath", path)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def drag(self, points: Sequence[tuple[float, float]]) -> None:
        """Drag over the picture through points, in shares of its width and height."""
        from selenium.webdriver import ActionChains

        stage = self.find("#board .stage")
        self.run("arguments[0].scrollIntoView({block: 'center'})", stage)
        width, height = stage.size["width"], stage.size["height"]
        chain = ActionChains(self.driver, duration=50)
        for index, (x, y) in enumerate(points):
            chain.move_to_element_with_offset(
                stage, round((x - 0.5) * width), round((y - 0.5) * height)
            )
            if index == 0:
                chain.click_and_hold()
        chain.release().perform()

    def upload(self, what: str, path: Path) -> None:
        """Give a file to a field for uploads."""
        self.run(
            "document.querySelectorAll('button.label-wrap').forEach(b => "
            "{ if (b.innerText.includes('Open a') && !b.classList.contains('open')) b.click() })"
        )
        field = self.until(
            lambda: self.driver.find_elements("css selector", f"#upload-{what} input[type=file]"),
            "the field for uploads",
        )[0]
        field.send_keys(str(path))

    def requests(self) -> set[str]:
        """The hosts that the browser has asked so far."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if url.startswith(("http", "ws")):
                    self.hosts.add(url.split("/")[2].split(":")[0])
        return self.hosts

    def screenshot(self, path: Path, css: str = "body") -> None:
        """Save the whole page, or an element of it, as a JPEG."""
        self.run("document.activeElement.blur(); window.scrollTo(0, 0)")
        time.sleep(0.3)  # for transitions
        box = self.run(
            "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return {x: b.x, y: b.y, width: b.width, height: b.height, scale: 1}",
            css,
        )
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": box}
        )
        with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as picture:
            picture.convert("RGB").save(path, quality=80, subsampling=0, optimize=True)
