"""A Chromium page without a network that remembers what went wrong. Tests that need one are skipped where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("127.0.0.1", "localhost")
OWN = ("file", "data", "blob", "about")
"""Addresses that need no network."""


class Seen(NamedTuple):
    """A page, and what was observed on it."""

    page: Any
    errors: list[str]
    """Console errors and uncaught exceptions."""
    outside: list[str]
    """Addresses asked for that are neither on disk nor on this machine."""

    def open(self, path: Path) -> None:
        """Open a file from disk and wait until its figures are drawn."""
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("html[data-drawn]", timeout=30_000)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser.

    While it runs, this thread has an event loop: run no asyncio of your own beside it.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def offline_page(browser: Any, *, localhost: bool = False, width: int = 1100, height: int = 900) -> Iterator[Seen]:
    """A fresh page that reaches the disk and, if asked, servers on this machine; everything else is cut off and noted."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_offline(not localhost)
    errors: list[str] = []
    outside: list[str] = []

    def gate(route: Any) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in OWN or (localhost and address.hostname in LOCAL):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    context.route("**/*", gate)
    page = context.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield Seen(page, errors, outside)
    finally:
        context.close()
