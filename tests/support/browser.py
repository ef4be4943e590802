"""Chromium without a network, controlled over a pipe with the DevTools protocol."""

import base64
import json
import os
import re
import shutil
import subprocess
import time

COMMANDS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # No host name can be resolved, so nothing outside this machine can be reached.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
# CircuitsVis fills the element that a script has put into the place of a view.
DRAWN = "!document.querySelector('[data-circuitsvis]:empty, [data-circuitsvis] > div:empty')"
MISSING = (
    "these tests need Chromium, and found none of "
    f"{', '.join(COMMANDS)}: apt-get install chromium, or leave them out with -m 'not browser'"
)


class Browser:
    """One Chromium, which opens pages one after the other."""

    def __init__(self, profile, timeout=60):
        command = next(filter(None, map(shutil.which, COMMANDS)), None)
        assert command, MISSING
        self.timeout = timeout
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        # Chromium reads commands from file descriptor 3 and answers on 4.
        redirected = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", command, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._unread = b""
        self._number = 0
        self.events = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    _session = None

    def close(self):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method, **params):
        """Send one command and return its result; keep the events that come before it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self):
        while b"\0" not in self._unread:
            piece = os.read(self._answers, 1 << 20)
            assert piece, "Chromium ended"
            self._unread += piece
        message, self._unread = self._unread.split(b"\0", 1)
        answer = json.loads(message)
        if "method" in answer:
            self.events.append(answer)
        return answer

    def open(self, path, width=1280, scheme="light", scripts=True):
        """Open a file at a width, in a light or dark scheme, and wait until it is drawn."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send("Page.navigate", url=path.as_uri())
        self._wait(lambda: any(e["method"] == "Page.loadEventFired" for e in self.events))
        if scripts:
            self.wait_for(DRAWN)
            self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        return self

    def wait_for(self, expression):
        """Wait until a JavaScript expression in the page is true."""
        self._wait(lambda: self.evaluate(expression))

    def _wait(self, condition):
        until = time.monotonic() + self.timeout
        while not condition():
            assert time.monotonic() < until, "the page was not drawn in time"
            self.send("Runtime.evaluate", expression="1")
            time.sleep(0.02)

    def evaluate(self, expression):
        """Return the value of a JavaScript expression in the page; await a promise."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def move_to(self, x, y):
        """Move the pointer to a place in the window."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def complaints(self):
        """Everything that the page has written to the console and the log, and every exception."""
        said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in said]

    def requests(self):
        """The URLs that the page has requested, except its own and data URLs."""
        asked = [
            event["params"]
            for event in self.events
            if event["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")
        ]
        urls = [each.get("url") or each["request"]["url"] for each in asked]
        return [url for url in urls[1:] if not url.startswith("data:")]

    def screenshot(self, path):
        """Save the whole page as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


def contrast(one, other):
    """The contrast ratio of two colours, as WCAG 2.1 defines it."""
    levels = []
    for colour in (one, other):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        levels.append(sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    return (max(levels) + 0.05) / (min(levels) + 0.05)
