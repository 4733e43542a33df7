# SPDX-License-Identifier: Apache-2.0
"""Debian's Chromium without a screen, driven by Playwright, which downloads none of its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium", path="/usr/bin:/usr/local/bin")
DESKTOP = (1440, 900)
PHONE = (390, 844)
PATIENCE_MS = 30_000


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that asks for nothing of its own."""
    assert CHROMIUM is not None, "install Debian's package chromium"
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield started
        started.close()


class Visit:
    """A page of a browser's own session, with what it asked for and what it complained of."""

    def __init__(self, browser: Browser, admin: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        self.url = f"http://{admin}"
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self._context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            device_scale_factor=1,
        )
        self._context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self._context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def login(self, token: str) -> Page:
        """From the front page over the form to the dashboard, or to the form again."""
        self.page.goto(self.url)
        self.page.get_by_label("Admin token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        return self.page

    def hosts(self) -> set[str]:
        """Whom the page has asked for anything."""
        return {urlsplit(url).netloc for url in self.asked if not url.startswith("data:")}

    def wait_for_points(self) -> None:
        """Until the plots have a line of gets."""
        expect(self.page.locator(".plots path.line.s0").first).to_have_attribute("d", re.compile(r"^M.*L"))

    def close(self) -> None:
        self._context.close()
