"""Fixtures for the tests that open pages of contact sheets and reviews in Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import OpenPage, Watched, chromium, new_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser, folder: Path) -> Iterator[OpenPage]:
    """Give open_page(name, **context) → a page that has loaded, watched.

    `name` is a URL, or a file of the `folder` that a test file writes. Pages with equal contexts
    share one, as the tabs of a browser do.
    """
    contexts: dict[str, Any] = {}

    def open_page(name: str, **options: Any) -> Page:
        key = json.dumps(options, sort_keys=True)
        page = contexts[key].new_page() if key in contexts else new_page(browser, **options)
        contexts.setdefault(key, page.context)
        page.watched = Watched(page)  # type: ignore[attr-defined]
        page.goto(name if "://" in name else f"{folder.as_uri()}/{name}")
        return page

    yield open_page
    for context in contexts.values():
        context.close()
