"""Debian's Chromium, driven by Playwright: what a person sees, clicked through.

Without it, tests that need a browser are skipped, saying how to get it; in CI they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.patience import limit_s

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREENSHOTS = Path(__file__).resolve().parents[2] / "out" / "screenshots"
OpenPage = Callable[..., "Page"]
"""A function from a file's name or a URL, and options of a context, to a page that has loaded."""
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium(*switches: str) -> Iterator[Browser]:
    """Start a browser without a window. While it is open, its thread can run no other event loop.

    `switches` are added to Chromium's command line.
    """
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        message = f"no {', '.join(_NAMES)} on PATH; on Debian: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * limit_s())
    with sync_playwright() as playwright:
        # Chromium's own sandbox wants rights that root in a container has not.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", *switches], timeout=1000 * limit_s()
        )
        yield browser
        browser.close()


def new_page(browser: Browser, **context: Any) -> Page:
    """Open a page in a context of its own; whatever is waited for there has time."""
    made = browser.new_context(**context)
    made.set_default_timeout(1000 * limit_s())
    return made.new_page()


def screenshot(
    page: Page, name: str, clip: tuple[float, float, float, float] | None = None
) -> Path:
    """Save it for people, as out/screenshots/<name>.png, with whatever fades in at its end.

    `clip` is a part of it: left, top, width, height in px.
    """
    path = SCREENSHOTS / f"{name}.png"
    part: Any = dict(zip(("x", "y", "width", "height"), clip, strict=True)) if clip else None
    page.evaluate("document.fonts.ready")
    page.screenshot(path=path, animations="disabled", caret="hide", clip=part)
    return path


def violations(page: Page) -> list[str]:
    """Return what axe-core finds that somebody cannot read, reach or hear: rule, and place."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['html'][:120]}"
        for rule in Axe().run(page).response["violations"]
        for node in rule["nodes"]
    ]


class Watched:
    """Things a page did that nobody sees: requests, words on the console, dialogs, refusals."""

    def __init__(self, page: Page):
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._refuse)
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => console.error("
            "`refused: ${event.effectiveDirective} ${event.blockedURI}`))"
        )

    def _refuse(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()
