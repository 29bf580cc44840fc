import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import report
from data_tools.clips import spread
from data_tools.write_shards import pack
from sfv.data.schema import Action
from sfv.data.shards import write_shards
from tests.data.make import HEIGHT, WIDTH, latents_sample, make_video
from tests.data_tools.test_files import put


def run(*args: object) -> int:
    return report.main([*map(str, args), "--workers", "1"])


def page(folder: Path) -> str:
    text = (folder / "report.html").read_text()
    Balanced().feed(text)
    return text


class Balanced(HTMLParser):
    """Fails on a page whose tags do not match, or that loads anything."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        assert tag not in ("script", "link", "iframe")
        assert (given.get("src") or "data:").startswith("data:") and "href" not in given
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/png;base64,([^\"]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_shards_and_their_folder_give_the_same_page(
    return_walks: Path, explore_walks: Path, tmp_path: Path
) -> None:
    pack([return_walks, explore_walks], tmp_path / "shards")
    assert run(tmp_path / "shards", "--out", tmp_path / "a", "--decoded", 4) == 0
    assert run(return_walks, explore_walks, "--out", tmp_path / "b", "--decoded", 4) == 0
    from_shards, from_folder = page(tmp_path / "a"), page(tmp_path / "b")
    start, end = "<h2>Contents</h2>", "<h2>What became"
    assert (
        from_shards[from_shards.index(start) : from_shards.index(end)]
        == from_folder[from_folder.index(start) : from_folder.index(end)]
    )
    assert "no summary was found" in from_shards.lower()
    assert "walk forward" in from_folder and "8 episodes measured" in from_folder
    # Doom's own summary tells what was skipped.
    assert "<td>kept</td><td>4</td>" in from_folder


def test_what_is_counted(tmp_path: Path) -> None:
    wave = (Action("wave", 0, 5), Action("wave", 5, 12))
    put(tmp_path / "in", "a", actions=wave, domain="human")
    put(tmp_path / "in", "b", num_chunks=5, split="val", scene="hall")
    put(tmp_path / "in", "c", scene="attic")
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 0
    text = page(tmp_path / "out")
    rows = [
        re.findall(r"<td[^>]*>([^<]*)", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)
    ]
    assert ["human", "train", "1", "1", "12", "0.00", "2", "0", "16x24 video"] in rows
    assert ["navigation", "train", "1", "1", "12", "0.00", "4", "0", "16x24 video"] in rows
    assert ["navigation", "val", "1", "1", "15", "0.00", "5", "0", "16x24 video"] in rows
    counts = {row[0]: row[-1] for row in rows if len(row) == 3}
    assert counts["wave"] == "2" and counts["walk forward"] == "3" and counts["turn right"] == "2"
    assert counts["3"] == "9" and counts["5"] == counts["7"] == "1"


def test_a_sample_shows_frames_in_time_order(tmp_path: Path) -> None:
    put(tmp_path / "in", "a")
    flags = ("--clip-frames", 3, "--clip-height", HEIGHT)
    assert run(tmp_path / "in", "--out", tmp_path / "out", *flags) == 0
    (strip,) = pictures(page(tmp_path / "out"))
    frames = make_video("a", 12)[spread(12, 3)]
    assert strip.shape == (HEIGHT, 3 * WIDTH, 3)
    assert np.array_equal(strip, np.concatenate(list(frames), axis=1))
    assert spread(12, 3).tolist() == [2, 6, 10]


def test_motion_is_the_difference_of_neighbours(tmp_path: Path) -> None:
    put(tmp_path / "in", "a")
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 0
    motion = np.abs(np.diff(make_video("a", 12).astype(float), axis=0)).mean()
    assert f">{motion:.4g}<" in page(tmp_path / "out")


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    actions = (Action(evil, 0, 12),)
    put(tmp_path / "in", "a", actions=actions, scene=evil, source=evil, licence=evil)
    summary = {"tool": evil, "inputs": {evil: 1}, "skipped": {evil: 2}}
    (tmp_path / "in" / "summary.json").write_text(json.dumps(summary))
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 0
    text = page(tmp_path / "out")
    assert "<script" not in text and text.count("&lt;script&gt;") >= 6


def test_summaries_are_shown(tmp_path: Path) -> None:
    put(tmp_path / "in", "a")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "summary.json").write_text(
        json.dumps(
            {"tool": "data_tools.cut", "inputs": {"given": 9, "kept": 7}, "skipped": {"dark": 2}}
        )
    )
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--summaries", tmp_path / "cut") == 0
    text = page(tmp_path / "out")
    assert "<td>given</td><td>9</td>" in text and "<td>skipped: dark</td><td>2</td>" in text


def test_faulty_episodes_are_named_and_the_others_shown(tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        put(tmp_path / "in", key)
    (tmp_path / "in" / "a.mp4").write_bytes(b"nothing")
    (tmp_path / "in" / "b.json").write_text("{}")
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 0
    text = page(tmp_path / "out")
    assert "<li>a: corrupt: unreadable video" in text
    assert "<li>corrupt: metadata breaks the schema" in text
    assert len(pictures(text)) == 1
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["faults"]) == 2


def test_latents_have_no_pictures(tmp_path: Path) -> None:
    samples = [latents_sample("a"), latents_sample("b")]
    write_shards(samples, tmp_path / "train", "train")
    assert run(tmp_path / "train", "--out", tmp_path / "out") == 0
    text = page(tmp_path / "out")
    assert pictures(text) == [] and "No video to show" in text and "16x24 latents" in text


def test_a_folder_without_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 2
    assert "no episode" in capsys.readouterr().err


def test_other_inputs_are_another_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "in", "a")
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 0
    put(tmp_path / "in", "b")
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--resume") == 2
    assert "journal of another run (hash: " in capsys.readouterr().err


def test_samples_are_spread_over_the_episodes() -> None:
    seen = [{"id": str(i), "strip": ""} for i in range(8)]
    assert [clip["id"] for clip in report._clips(seen, 2)] == ["2", "6"]


def test_a_histogram_counts_every_value() -> None:
    drawn = report.histogram([1, 1, 2, 9])
    assert [bar["count"] for bar in drawn] == [3, 0, 1]
    assert report.histogram([5, 5])[0]["count"] == 2 and report.histogram([]) == []
