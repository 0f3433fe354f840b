"""Debian's Chromium, driven by Playwright: a page, and everything that it complained about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

BINARY = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
ACTION_MS = 20_000


def require() -> None:
    """Skip the test where there is no Chromium, or nothing to drive it."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    if BINARY is None:
        pytest.skip("chromium is not installed: apt-get install chromium")


@dataclass
class Tab:
    """A browser's tab."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console, exceptions, and requests that failed or went elsewhere."""

    def visit(self, address: str) -> None:
        """Open an address, and wait until it and what it needs at once is there."""
        self.page.goto(address, wait_until="load")

    def charted(self, times: int = 1) -> None:
        """Wait until the charts were drawn so many times."""
        self.page.wait_for_function(
            "times => Number(document.querySelector('#charts')?.dataset.loaded ?? 0) >= times", arg=times
        )


class Browser:
    """One Chromium, many tabs with settings of their own."""

    def __init__(self, playwright: Any) -> None:
        self.browser = playwright.chromium.launch(executable_path=BINARY, args=FLAGS)

    @contextmanager
    def tab(self, origin: str, **settings: Any) -> Iterator[Tab]:
        """A tab that may ask nobody but `origin`."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        context.set_default_timeout(ACTION_MS)
        tab = Tab(context.new_page())

        def console(message: Any) -> None:
            if message.type in ("error", "warning"):
                tab.complaints.append(f"{message.type}: {message.text}")

        def request(sent: Any) -> None:
            if not sent.url.startswith((origin, "blob:", "about:")):
                tab.complaints.append(f"asked elsewhere: {sent.url}")

        def answer(got: Any) -> None:
            if got.status >= 400:
                tab.complaints.append(f"{got.status}: {got.url}")

        tab.page.on("console", console)
        tab.page.on("pageerror", lambda error: tab.complaints.append(f"exception: {error}"))
        tab.page.on("request", request)
        tab.page.on("response", answer)
        try:
            yield tab
        finally:
            context.close()

    def close(self) -> None:
        """End it."""
        self.browser.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser while the block runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = Browser(playwright)
        try:
            yield browser
        finally:
            browser.close()
