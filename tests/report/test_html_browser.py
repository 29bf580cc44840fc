"""The report in a real browser: what its script does, which no parser of HTML can tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from sfv.report.html import write_report
from tests.report.conftest import cell
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


def first_column(page: Page) -> list[str]:
    names = "cells => cells.map(cell => cell.firstChild.textContent.trim().split(' ')[0])"
    found: list[str] = page.locator(".results tbody th").evaluate_all(names)
    return found


def test_headings_sort_by_mouse_and_by_keys(
    page: Page, report: dict[str, Any], tmp_path: Path
) -> None:
    better = {"psnr": cell(30.0), "lpips": cell(9.5), "fvd": cell(None)}
    report["rows"]["other"] = {"n": 1, "metrics": better}
    gap = {
        "metric": "psnr",
        "row": "fast",
        "against": "none",
        "value": 1.0,
        "low": 0.5,
        "high": 2,
        "n": 12,
    }
    write_report(tmp_path / "r.html", {**report, "differences": [gap]})
    page.goto((tmp_path / "r.html").as_uri())
    written = ["none", "fast", "other", "fast"]
    assert first_column(page) == written
    head = page.get_by_role("button", name="LPIPS")
    head.click()
    assert first_column(page) == ["fast", "none", "other", "fast"], (
        "9.5 is more than 0.34, not less"
    )
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("LPIPS")
    head.press("Enter")
    assert first_column(page) == ["other", "none", "fast", "fast"]
    head.press("Space")
    assert first_column(page) == written
    expect(page.locator("th[aria-sort]")).to_have_count(0)
    page.get_by_role("button", name="PSNR").click()
    assert first_column(page) == ["other", "fast", "none", "fast"], "higher is better"
    page.get_by_role("button", name="FVD").click()
    assert first_column(page) == ["fast", "none", "other", "fast"], "unmeasured comes last"
    page.get_by_role("button", name="FVD").click()
    assert first_column(page) == ["none", "fast", "other", "fast"]


def test_curves_are_drawn_within_their_frames(
    page: Page, report: dict[str, Any], tmp_path: Path
) -> None:
    ends = {end: {"fast": [value, value]} for end, value in (("low", 10), ("high", 40))}
    recall = {"x": [1, 32], "rows": {"fast": [30, 20], "none": [9, 8]}, "axis": "gap", **ends}
    report["curves"] = {"recall": recall, "fast/loss": {"fast": [0.3, 0.2, 0.25]}}
    write_report(tmp_path / "r.html", report)
    page.goto((tmp_path / "r.html").as_uri())
    expect(page.get_by_role("img", name="recall by gap")).to_be_visible()
    frames = [svg.bounding_box() for svg in page.locator("svg").all()]
    for svg, shape in (
        ("svg >> nth=0", "polyline"),
        ("svg >> nth=0", "polygon"),
        ("svg >> nth=1", "polyline"),
    ):
        box = page.locator(f"{svg} >> {shape}").first.bounding_box()
        frame = frames[int(svg[-1])]
        assert box and frame and box["width"] > 0.8 * frame["width"]
        assert frame["y"] < box["y"] < box["y"] + box["height"] < frame["y"] + frame["height"]
