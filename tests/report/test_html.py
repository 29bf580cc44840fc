import base64
import errno
import io
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sfv.report.html import VideoPanel, render, write_report
from tests.report.conftest import with_truth

VOID = {"meta", "input", "line", "polyline", "polygon", "br", "link", "img"}
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


class Page(HTMLParser):
    """A page as a list of tags with attributes, and the cells of its results table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_results = False
        self.feed(html)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.in_results = ("class", "results") in attrs
        if self.in_results and tag == "tr":
            self.rows.append([])
        if self.in_results and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes another element"
        self.in_results = self.in_results and tag != "table"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data + " "
        if self.in_results and self.rows and self.rows[-1]:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def panel_of(frames: np.ndarray, /, **changes: Any) -> VideoPanel:
    videos = {"true": frames, "with memory": frames[:14]}
    settings = {"title": "Walk 1", "frames": videos, "fps": 8, "marks": [(11, "return begins")]}
    return VideoPanel(**{**settings, **changes})


def test_results_table_is_exact(report: dict[str, Any]) -> None:
    assert Page(render(report)).rows == [
        ["Model", "PSNR ↑ dB", "LPIPS ↓", "FVD ↓"],
        ["none n = 5", "19.80 [18.50, 20.25]", "0.341 [0.320, 0.360]", "1320 floor 812"],
        ["fast n = 6", "21.16 [20.00, 22.00]", "0.302 [0.280, 0.330]", "992 floor 812"],
    ]


def test_paired_differences_are_shown_and_mark_the_best(report: dict[str, Any]) -> None:
    report["differences"] = [
        {
            "metric": "lpips",
            "row": "fast",
            "against": "none",
            "value": -0.04,
            "low": -0.06,
            "high": -0.01,
            "n": 12,
        }
    ]
    page = Page(render(report))
    assert page.rows[-1] == ["fast − none paired", "", "−0.040 [−0.060, −0.010]", ""]
    cells = [attrs.get("class", "") for attrs in page.all("td")[:9]]
    assert cells == ["", "", "", "", "best", "", "", "", ""]
    assert "best" not in [
        cell.get("class") for cell in Page(render({**report, "differences": []})).all("td")
    ]


def test_the_truth_has_rows_of_its_own_and_gaps_a_table(report: dict[str, Any]) -> None:
    page = Page(render(with_truth(report)))
    assert [row[0] for row in page.rows] == [
        "Model", "none n = 5", "fast n = 6", "decoded truth n = 6",
        "Model", "none n = 5", "fast n = 6", "decoded truth n = 6", "truth n = 6",
        "Model", "none n = 5", "fast n = 6",
    ]  # fmt: skip
    assert page.rows[3][1] == "35.00" and page.rows[8][1] == "99.00"
    assert [row.get("class") for row in page.all("tr")].count("reference") == 3
    words = " ".join(page.text.split())
    assert "fast: Return LPIPS 61 % [55, 67] −4 %" in words
    assert "fast closes 61 % [55, 67] of the gap from none to the decoded truth" in words
    assert "The guard undid 12 of 240 chunks (5 %) that fast learned." in words


def test_few_episodes_mark_nothing_and_what_a_still_wins_is_grey(report: dict[str, Any]) -> None:
    gap = {"row": "fast", "against": "none", "value": 1.0, "low": 0.5, "high": 1.5}
    report["differences"] = [{**gap, "metric": name, "n": 9} for name in ("psnr", "src")]
    for row, motion in (("none", 3.9), ("fast", 1.0)):
        for name, value in (("src", 90.0), ("motion", motion), ("motion_ceiling", 4.0)):
            cell = {"value": value, "low": None, "high": None, "passport": {}}
            report["rows"][row]["metrics"][name] = cell
    page = Page(render(report))
    grey = [attrs for attrs in page.all("td") if attrs.get("class") == "still"]
    assert len(grey) == 2, "the value, and the difference it is part of"
    why = "its motion of 1.00 is 75% below the true video's 4.00"
    assert grey[0]["title"] == f"does not count: {why}"
    assert not [attrs for attrs in page.all("td") if attrs.get("class") == "best"]
    said = " ".join(page.text.split())
    assert why in said and "Fewer than 10 episodes: no value is marked as better." in said


def test_header_settings_and_passports_tell_what_was_run(report: dict[str, Any]) -> None:
    report["rows"]["fast"]["metrics"]["fvd"]["passport"] = {"network": "i3d", "resize": ""}
    text = " ".join(Page(render(report, title="Walks", notes=["Two rows."])).text.split())
    for part in (
        "Walks Two rows.",
        "Command sfv demo --out runs/x Seed 7",
        "Videos measured none 5, fast 6",
        "fast.lr 0.001",
        "PSNR (none, fast) metric m count 5",
        "FVD (none) metric m count 5 FVD (fast) network i3d",
    ):
        assert part in text
    assert "resize" not in text


def test_page_needs_nothing_else(report: dict[str, Any], frames: np.ndarray) -> None:
    report["curves"] = {"fast/loss": {"fast": [0.3, 0.2]}}
    html = render(report, [panel_of(frames)])
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", html)
    assert page.all("link") == page.all("img") == page.all("iframe") == []
    sources = [value for _, attrs in page.tags for name, value in attrs.items() if name == "src"]
    assert len(sources) == 2
    assert all(source.startswith("data:video/mp4;base64,") for source in sources)
    assert not [attrs for _, attrs in page.tags if "href" in attrs or "srcset" in attrs]


def test_videos_are_embedded_whole(report: dict[str, Any], frames: np.ndarray) -> None:
    page = Page(render(report, [panel_of(frames)]))
    lengths = []
    for video in page.all("video"):
        data = base64.b64decode(video["src"].removeprefix("data:video/mp4;base64,"))
        with av.open(io.BytesIO(data)) as container:
            pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
        assert pictures[0].shape == (30 * 8, 44 * 8, 3)
        square = pictures[13][12 * 8, (2 * 13 + 3) * 8].astype(int)
        assert np.abs(square - (250, 240, 60)).max() < 16
        lengths.append((int(video["data-frames"]), len(pictures)))
    assert lengths == [(20, 20), (14, 14)]
    (slider,) = page.all("input")
    assert (slider["min"], slider["max"]) == ("0", "19")
    (mark,) = page.all("i")
    assert float(mark["style"].removeprefix("--share: ")) == pytest.approx(11 / 19)


def test_curves_are_drawn_and_an_empty_one_is_not(report: dict[str, Any]) -> None:
    report["curves"] = {
        "fast/loss": {"fast": [0.3, 0.2, None], "loop": [0.1, 0.4]},
        "fast/gain": {"fast": []},
    }
    report["curves"]["recall"] = {"x": [1, 2], "rows": {"fast": [1, 3]}} | {
        end: {"fast": [value, value]} for end, value in (("low", 0), ("high", 4))
    }
    page = Page(render(report))
    assert len(page.all("polygon")) == 1
    del report["curves"]["recall"]
    page = Page(render(report))
    assert len(page.all("svg")) == 1
    assert [len(line["points"].split()) for line in page.all("polyline")] == [2, 2]
    assert "fast, chunk 1: 0.2" in page.text


def test_curves_that_a_still_wins_are_grey_and_say_why(report: dict[str, Any]) -> None:
    curve = {"x": [1, 2], "rows": {"none": [9, 8], "fast": [30, 29]}}
    report["curves"] = {"recall_psnr": curve, "recall_true_psnr": curve}
    for row, motion in (("none", 3.9), ("fast", 1.0)):
        for name, value in (("motion", motion), ("motion_ceiling", 4.0)):
            cell = {"value": value, "low": None, "high": None, "passport": {}}
            report["rows"][row]["metrics"][name] = cell
    page = Page(render(report))
    lines = [attrs["class"] for attrs in page.all("g")]
    assert lines == ["s0", "s1 uncounted", "s0", "s1"], "what is compared with the truth counts"
    (key,) = [attrs for attrs in page.all("span") if "uncounted" in attrs.get("class", "")]
    why = "its motion of 1.00 is 75% below the true video's 4.00"
    assert key["title"] == f"does not count: {why}"
    assert f"fast: {why}" in " ".join(page.text.split())


def test_hostile_text_stays_text(report: dict[str, Any], frames: np.ndarray) -> None:
    clean = Page(render(report, [panel_of(frames)]))
    report["rows"][HOSTILE] = report["rows"].pop("fast")
    report["rows"][HOSTILE]["metrics"][HOSTILE] = {
        "value": 1.0,
        "low": None,
        "high": None,
        "passport": {HOSTILE: HOSTILE},
    }
    report["settings"] |= {"command": HOSTILE, HOSTILE: HOSTILE}
    report["curves"] = {HOSTILE: {HOSTILE: [1.0, 2.0]}}
    panel = panel_of(frames, title=HOSTILE, frames={HOSTILE: frames}, marks=[(3, HOSTILE)])
    page = Page(render(report, [panel], title=HOSTILE, notes=[HOSTILE]))
    assert len(page.all("script")) == len(clean.all("script")) == 1
    assert page.all("img") == []
    assert page.text.count(HOSTILE) >= 12


def test_a_note_may_be_one_text(report: dict[str, Any]) -> None:
    assert render(report, notes="one").count('<p class="soft">') == 1


def test_panels_are_checked(report: dict[str, Any], frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"'Walk 1': mark 'end' is at frame 20; allowed are 0..19"):
        render(report, [panel_of(frames, marks=[(20, "end")])])
    with pytest.raises(ValueError, match="'Walk 1' has no videos: give at least one"):
        render(report, [panel_of(frames, frames={})])


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Writing beyond `num_bytes` of a file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_report(report: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with file_size_limit(5000), pytest.raises(OSError, match=r"report\.html") as caught:
        write_report(path, report)
    assert caught.value.errno == errno.EFBIG
    assert "choose another folder" in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_report(path, report)
    assert path.read_text() == render(report)
