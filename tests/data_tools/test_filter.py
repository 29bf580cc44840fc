import json
from pathlib import Path

import numpy as np
import pytest

from data_tools import filter as filter_tool
from data_tools.files import encode_mp4, find_episodes, write_episode
from sfv.data.schema import Action
from tests.data.make import HEIGHT, WIDTH, make_meta
from tests.data_tools.test_files import put

COUNT = 40


def blinking(level: int, change: int, still: int = 0) -> np.ndarray:
    """Frames that jump between two levels after `still` equal ones."""
    levels = np.full(COUNT, level)
    levels[still::2] += change
    return (
        levels.astype(np.uint8)[:, None, None, None].repeat(HEIGHT, 1).repeat(WIDTH, 2).repeat(3, 3)
    )


def put_frames(folder: Path, key: str, frames: np.ndarray) -> None:
    actions = (Action("wait", 0, len(frames)),)
    meta = make_meta(key, num_frames=len(frames), actions=actions)
    write_episode(folder, meta, encode_mp4(frames, meta.fps))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "in"
    put_frames(place, "good", blinking(100, 9))
    put_frames(place, "dark", blinking(10, 9))
    put_frames(place, "static", blinking(100, 1))
    put_frames(place, "mostly-static", blinking(100, 90, still=38))
    put(place, "short")
    put_frames(place, "cut-off", blinking(100, 9))
    content = (place / "cut-off.mp4").read_bytes()
    (place / "cut-off.mp4").write_bytes(content[: len(content) // 2])
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    put_frames(place, "holed", noise)
    content = (place / "holed.mp4").read_bytes()
    middle = content.index(b"mdat") + 20000
    (place / "holed.mp4").write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    put_frames(place, "lacking", blinking(100, 9))
    (place / "lacking.mp4").write_bytes(encode_mp4(blinking(100, 9)[:30], 8))
    put_frames(place, "wide", blinking(100, 9))
    (place / "wide.mp4").write_bytes(encode_mp4(blinking(100, 9).repeat(2, axis=2), 8))
    put_frames(place, "schema", blinking(100, 9))
    (place / "schema.json").write_text('{"schema": "sfv.episode/1"}')
    return place


def run(*args: object) -> int:
    flags = ("--min-motion", 2, "--min-brightness", 20, "--max-still-share", 0.8, "--workers", 1)
    return filter_tool.main([*map(str, args), *map(str, flags)])


def test_every_dropped_episode_has_its_reason(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "--out", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    told = {key: (why["reason"], why["detail"]) for key, why in summary["skipped inputs"].items()}
    assert told.pop("cut-off")[0] == "corrupt: unreadable video"
    reason, detail = told.pop("holed")
    assert reason == "corrupt: unreadable video" and "frame 10 is damaged" in detail
    assert told.pop("schema")[0] == "corrupt: metadata breaks the schema"
    other = "corrupt: frames differ from the metadata"
    assert told == {
        "dark": ("dark", "brightness 14.50, at least 20 needed"),
        "static": ("static", "motion 1.000, at least 2 needed"),
        "mostly-static": (
            "static for most of its length", "share of still frames 0.949, at most 0.8 allowed",
        ),
        "short": ("too short", "12 frames, at least 16 needed"),
        "lacking": (other, "30 frames, said are 40"),
        "wide": (other, "16x48 pixels, said are 16x24"),
    }  # fmt: skip
    assert summary["inputs"] == {"given": 10, "kept": 1, "skipped": 9, "from before": 0}
    assert sum(summary["skipped"].values()) == 9
    assert summary["frames kept"] == COUNT


def test_kept_episodes_are_the_same_files(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "--out", tmp_path / "out") == 0
    ((meta, path),) = find_episodes([tmp_path / "out"])
    assert meta.id == "good"
    assert path.read_bytes() == (folder / "good.mp4").read_bytes()
    assert path.with_suffix(".json").read_bytes() == (folder / "good.json").read_bytes()


def test_a_report_places_nothing(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "--out", tmp_path / "out", "--report-only") == 0
    assert list((tmp_path / "out").glob("*.mp4")) == []
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["motion of the kept (levels)"]["middle"] == 9.0
    assert summary["brightness of the kept (levels)"]["middle"] == 104.5


def test_thresholds_out_of_range_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [str(folder), "--out", str(tmp_path / "out"), "--min-brightness", "300"]
    assert filter_tool.main(args) == 2
    assert "levels from 0 to 255" in capsys.readouterr().err
