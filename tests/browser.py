"""The browser that tests open pages in. `python -m tests.browser` brings Chromium where that needs nobody's consent.

ASABENCH_BROWSER says which: unset, Chromium if there is one; `required`, the same and the tests fail without;
`none`, no browser at all; or the path of one, which must start.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

try:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import Error, expect, sync_playwright
except ImportError:  # `launch` finds none
    Axe = expect = sync_playwright = None
    Error = RuntimeError

NAMES = ("chromium", "chromium-browser", "google-chrome")
LEFT_OUT = "needs a browser"
"""The reason of the tests that are left out, by which they are counted in the end."""
HOW = "`apt-get install chromium` brings one, on Ubuntu `playwright install --with-deps chromium`"


def wanted() -> str:
    return os.environ.get("ASABENCH_BROWSER", "")


def launch(playwright: Any) -> Any:
    """Headless Chromium, the first that starts: the system's, or the one that Playwright has downloaded. Else None."""
    if wanted() == "none":
        return None
    named = wanted() not in ("", "required")
    for path in [wanted()] if named else [*filter(None, map(shutil.which, NAMES)), None]:
        try:
            # Root, as in a container, has no sandbox
            return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error:  # Ubuntu's `chromium-browser` only points to a snap
            continue
    return None


def leave_out() -> None:
    """Skips a test that needs a browser, or fails it where one was asked for."""
    if wanted() in ("", "none"):
        pytest.skip(LEFT_OUT)
    pytest.fail(f"ASABENCH_BROWSER={wanted()}, and {_NONE}")


def left_out(number: int) -> str:
    """What is said of them in the end."""
    return f"{number} tests left out that need a browser: {'ASABENCH_BROWSER=none' if wanted() == 'none' else _NONE}"


_NONE = f"none was found that starts, with Playwright and axe; {HOW}"


class Visit:
    """A page of a site, opened from its file; what it asked for and complained of is kept."""

    def __init__(self, browser: Any, site: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.site = site
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type != "log" else None)

    def go(self, name: str) -> Any:
        self.page.goto(f"{self.site.as_uri()}/{name}")
        return self.page

    def check_quiet(self) -> None:
        """No error on the console, no dialog, and nothing asked for outside the folder."""
        assert not self.complaints
        assert self.requests
        outside = [url for url in self.requests if not url.startswith((self.site.as_uri(), "data:,"))]
        assert not outside


def bring() -> None:
    """Installs Chromium as root or with a sudo that asks nothing, by apt; where it may not, or cannot, it goes without:
    the tests say so."""
    if wanted() not in ("", "required") or sync_playwright is None or there():
        return
    root = as_root()
    if root is None or shutil.which("apt-get") is None:
        return
    print("installing Chromium for the tests that need a browser", file=sys.stderr)
    # Ubuntu's package of that name is a snap, which no container can run
    if platform.freedesktop_os_release().get("ID") == "ubuntu":
        commands = [[sys.executable, "-m", "playwright", "install", "--with-deps", "--only-shell", "chromium"]]
    else:
        apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
        commands = [[*apt, "update"], [*apt, "install", "--yes", "--no-install-recommends", "chromium"]]
    for command in commands:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            reason = (done.stderr.splitlines() or ["no reason given"])[-1]
            print(f"it could not be installed: {reason}", file=sys.stderr)
            return


def there() -> bool:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is not None:
            browser.close()
    return browser is not None


def as_root() -> list[str] | None:
    """What a command starts with to be run as root: nothing for root, None for those who may not."""
    if os.geteuid() == 0:
        return []
    may = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    return ["sudo", "-n"] if may else None


if __name__ == "__main__":
    bring()
