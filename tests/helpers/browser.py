"""A headless Chromium, spoken to over pipes in its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT = 30.0


def find_browser() -> str | None:
    """A browser on the PATH, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser; give its profile a folder of its own."""

    def __init__(self, profile: Path) -> None:
        program = find_browser()
        assert program, "there is no browser"
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1400,1000"),
        ]
        # The browser wants its pipes at 3 and 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{ours}', "bash", program, *options],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=(profile.parent / "browser.log").open("wb"),
        )
        os.close(theirs)
        os.close(ours)
        self._unread, self._asked, self._session = b"", 0, ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def open(self, page: Path) -> None:
        """Show a file."""
        self._ask("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + WAIT
        while not self.run(script):
            assert time.monotonic() < end, f"not so after {WAIT:.0f} s: {script}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        """Keep what is to be seen as a PNG."""
        data = self._ask("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._asked:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = os.read(self._from, 1 << 16)
            assert part, "the browser ended; see browser.log beside its profile"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)
