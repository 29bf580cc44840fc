"""The report in a real browser: what its script does, which no parser of HTML can tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from sfv.report.html import write_report
from tests.report.test_html import panel_of

pytestmark = pytest.mark.slow

PIXEL = """(video, [x, y]) => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const drawing = canvas.getContext("2d");
  drawing.drawImage(video, 0, 0);
  return [...drawing.getImageData(x, y, 1, 1).data].slice(0, 3);
}"""
STILL = "() => [...document.querySelectorAll('video')].every(v => v.readyState > 1 && !v.seeking)"
ARE_BLOBS = "() => [...document.querySelectorAll('video')].every(v => v.src.startsWith('blob:'))"
TOGETHER = """() => {
  const [a, b] = document.querySelectorAll("video");
  return a.currentTime > 0.4 && Math.abs(a.currentTime - b.currentTime) * 8 < 2 && !a.paused && !b.paused;
}"""


@pytest.fixture
def opened(page: Page, report: dict[str, Any], frames: np.ndarray, tmp_path: Path) -> Page:
    """The page of a report with two videos, of 20 and 14 frames."""
    path = tmp_path / "report.html"
    panel = panel_of(frames, marks=[(0, "start"), (11, "return begins")])
    write_report(path, report, [panel], "Walks")
    page.goto(path.as_uri())
    page.wait_for_function(ARE_BLOBS)
    page.wait_for_function(STILL)
    return page


def square_at(page: Page, video: int, frame: int) -> bool:
    """Whether a video shows the bright square where it is in a frame; pixels are enlarged 8 times."""
    place = [(2 * frame + 3) * 8, 12 * 8]
    pixel = np.array(page.locator("video").nth(video).evaluate(PIXEL, place))
    return bool(np.abs(pixel - (250, 240, 60)).max() < 24)


def test_a_mark_shows_its_moment_in_every_video(opened: Page) -> None:
    opened.get_by_role("button", name="return begins").click()
    opened.wait_for_function(STILL)
    expect(opened.locator(".clock")).to_have_text("11 / 19")
    assert [square_at(opened, video, 11) for video in (0, 1)] == [True, True]
    assert not square_at(opened, 0, 14)
    expect(opened.locator(".marks button[aria-current=true]")).to_have_text("return begins")


def test_the_slider_is_moved_by_keys_and_a_short_video_holds_its_last_frame(opened: Page) -> None:
    opened.get_by_role("slider").focus()
    opened.keyboard.press("End")
    expect(opened.locator(".clock")).to_have_text("19 / 19")
    opened.wait_for_function(STILL)
    assert square_at(opened, 0, 19) and square_at(opened, 1, 13)
    expect(opened.locator("video.ended")).to_have_count(1)
    opened.keyboard.press("ArrowLeft")
    expect(opened.locator(".clock")).to_have_text("18 / 19")


def test_videos_play_together_to_the_end(opened: Page) -> None:
    opened.get_by_role("button", name="Play").click()
    opened.wait_for_function(TOGETHER)
    opened.get_by_label("Speed").select_option("4")
    expect(opened.locator(".clock")).to_have_text("19 / 19")
    expect(opened.locator(".play")).to_have_text("Play")
    opened.wait_for_function(STILL)
    assert square_at(opened, 0, 19)
