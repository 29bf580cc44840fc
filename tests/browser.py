"""A real browser for tests: Debian's Chromium, headless, which reaches nothing but this computer."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("data:", "blob:", "file:", "about:", "http://127.0.0.1:", "http://localhost:")
FLAGS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--disable-gpu",
    "--disable-dev-shm-usage",
)

PATIENCE_MS = 90_000  # a page on a busy machine; what is there is not waited for


def program() -> str | None:
    """The browser's path, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Seen:
    """What a page did besides being shown."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self.note)

    def note(self, request: Request) -> None:
        if not request.url.startswith(LOCAL):
            self.requests.append(request.url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser a module: its event loop must not outlive it, other tests have their own."""
    path = program()
    if path is None and (os.environ.get("CI") or (os.geteuid() == 0 and shutil.which("apt-get"))):
        pytest.fail("no Chromium (make test installs it as root)")
    if path is None:
        pytest.skip("no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; the test fails if it logged an error or asked another computer for anything."""
    seen = Seen()
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        seen.watch(page)
        yield page
    assert (seen.errors, seen.requests) == ([], [])
