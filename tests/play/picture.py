"""Drive a served playground and take its picture: `python -m tests.play.picture ADDRESS OUT.png`.

Walks on, goes back, forks, and holds one future beside the other. Serve a model first (`sfv play`).
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser import FLAGS, program

PATIENCE_MS = 280_000
LEGIBLE = (1120, 900)


def drive(page: Page, *actions: str) -> None:
    """Press a button for each action and wait for its chunk."""
    for action in actions:
        page.get_by_role("button", name=action, exact=False).and_(
            page.locator("[data-action]")
        ).click()
        expect(page.locator("#stop")).to_be_enabled()
        expect(page.locator("#stop")).to_be_disabled()


def walk(page: Page, address: str) -> None:
    page.goto(address)
    page.locator("#starts button").nth(2).click()
    drive(page, "walk forward", "turn left")
    page.locator("#hold").click()
    page.get_by_role("button", name="chunk 1, walk forward").click()
    drive(page, "turn right", "walk forward")


def take(page: Page, out: Path, colours: int = 128) -> None:
    """Write the page as a small PNG."""
    page.wait_for_timeout(1500)  # the chunk plays once
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(colours).save(out, optimize=True)


def main(address: str, out: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        size = {"width": LEGIBLE[0], "height": LEGIBLE[1]}
        page = browser.new_context(viewport=size, color_scheme="light").new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        walk(page, address)
        take(page, Path(out))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
