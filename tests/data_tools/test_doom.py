import dataclasses
import filecmp
import json
import shutil
import sys
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest

from data_tools.collect import doom, doom_film
from data_tools.collect import pictures as pictures_module
from data_tools.collect.doom_engine import Engine, OffCourse
from data_tools.collect.doom_level import standing_places
from data_tools.collect.doom_tours import around_a_rectangle
from data_tools.collect.doom_walks import (
    ACTIONS,
    CHUNK_FRAMES,
    STEP_UNITS,
    TURN_DEGREES,
    Pose,
    explore,
)
from data_tools.collect.pictures import shrink
from data_tools.collect.runner import collect, recipe_hash
from data_tools.files import find_episodes
from data_tools.language import canonical
from sfv.data.schema import EpisodeMeta, SchemaError, reverse_action
from sfv.data.stages import decode_mp4
from tests.data_tools.conftest import EXPLORE, RETURN

Frames = np.ndarray


def load(folder: Path) -> list[tuple[EpisodeMeta, Frames]]:
    return [(meta, decode_mp4(path.read_bytes())) for meta, path in find_episodes([folder])]


def psnr(a: Frames, b: Frames) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


def same_files(a: Path, b: Path) -> bool:
    names = sorted(p.name for p in a.iterdir())
    assert names == sorted(p.name for p in b.iterdir())
    return not any(filecmp.cmpfiles(a, b, names, shallow=False)[1:])


def test_return_walks_show_the_same_place_again(return_walks: Path) -> None:
    episodes = load(return_walks)
    assert len(episodes) == 4
    for meta, frames in episodes:
        assert frames.shape == (56, 32, 32, 3) and meta.num_frames == 56
        last = 4 * CHUNK_FRAMES - 1
        for i in range(1, 3 * CHUNK_FRAMES + 1):
            assert psnr(frames[last - i], frames[last + i]) >= doom_film.MIN_RETURN_PSNR
        assert {later for _, later in meta.revisits} >= set(range(last + 1, 56))
        for first, later in meta.revisits:
            assert meta.poses is not None and meta.poses[first] == meta.poses[later]
        texts = [action.text for action in meta.actions]
        assert texts[4:] == [reverse_action(text) for text in reversed(texts[1:4])]


def test_neighbouring_frames_differ(explore_walks: Path) -> None:
    for _, frames in load(explore_walks):
        assert all(psnr(a, b) < 45 for a, b in pairwise(frames))


def test_told_poses_move_as_the_actions_say(explore_walks: Path, return_walks: Path) -> None:
    heading = {"walk forward": 0, "step left": 90, "walk backward": 180, "step right": 270}
    turn = {"turn left": TURN_DEGREES, "turn right": -TURN_DEGREES}
    seen = set()
    for meta, _ in load(explore_walks) + load(return_walks):
        poses = np.array(meta.poses)
        for action in meta.actions:
            start = max(action.start, 1)
            steps = poses[start : action.stop] - poses[start - 1 : action.stop - 1]
            yaw = np.radians(poses[start, 3] + heading.get(action.text, 0))
            length = STEP_UNITS if action.text in heading else 0
            expected = length * np.array([np.cos(yaw), np.sin(yaw)])
            assert np.abs(steps[:, :2] - expected).max() <= 1.01  # positions are whole units
            turned = (steps[:, 3] - turn.get(action.text, 0) + 180) % 360 - 180
            assert np.abs(turned).max() < 1e-3
            seen.add(action.text)
    assert {"walk forward", "walk backward", "turn left", "turn right"} <= seen


def test_turning_left_moves_the_picture_to_the_right(camera: Engine) -> None:
    camera.load("MAP05", seed=0)
    x, y, _, yaw = camera.position()
    before, left = camera.film([Pose(x, y, yaw), Pose(x, y, yaw + TURN_DEGREES)])[0]
    shift = 8  # 5.625 degrees in the middle of a 160 pixel picture that spans 90 degrees
    moved_right = psnr(left[:, 40 + shift : 120 + shift], before[:, 40:120])
    moved_left = psnr(left[:, 40 - shift : 120 - shift], before[:, 40:120])
    assert moved_right > moved_left + 3


def test_walking_forward_makes_the_picture_grow(camera: Engine) -> None:
    camera.load("MAP05", seed=0)
    x, y, _, yaw = camera.position()
    ahead = np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw))]) * 2 * STEP_UNITS
    pictures = camera.film([Pose(x, y, yaw), Pose(x + ahead[0], y + ahead[1], yaw)])[0]
    (before, after), (before_middle, after_middle) = (
        shrink(part, 32) for part in (pictures, pictures[:, 8:112, 16:144])
    )
    assert psnr(before_middle, after) > psnr(after_middle, before) + 1


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(explore_walks: Path, tmp_path: Path) -> None:
    collect(EXPLORE, tmp_path, 4, workers=2)
    assert same_files(explore_walks, tmp_path)


def test_another_seed_gives_other_walks(explore_walks: Path, tmp_path: Path) -> None:
    collect(dataclasses.replace(EXPLORE, seed=1), tmp_path, 1)
    ((meta, _),) = load(tmp_path)
    assert meta.poses != load(explore_walks)[0][0].poses


def test_resume_films_only_what_is_missing(explore_walks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(explore_walks, folder)
    gone, kept = sorted(folder.glob("*.json"))[1:3]
    gone.unlink()
    age = kept.stat().st_mtime_ns
    summary = collect(EXPLORE, folder, 4, resume=True)
    assert summary["episodes"]["of them from before"] == 3
    assert kept.stat().st_mtime_ns == age
    (folder / "summary.json").unlink()
    shutil.copy(explore_walks / "summary.json", folder)
    assert same_files(explore_walks, folder)


def test_more_episodes_keep_the_first_ones(explore_walks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(explore_walks, folder)
    summary = collect(EXPLORE, folder, 5, resume=True)
    assert summary["episodes"] == {
        "wanted": 5, "kept": 5, "of them from before": 4, "given up": [],
    }  # fmt: skip
    assert sum(walk["return_psnr"] is not None for walk in summary["walks"]) >= 1


def test_a_folder_with_episodes_is_not_overwritten(explore_walks: Path) -> None:
    with pytest.raises(SchemaError, match="holds 4 episodes already; give --resume"):
        collect(EXPLORE, explore_walks, 4)


def test_resume_refuses_other_settings(explore_walks: Path) -> None:
    other = dataclasses.replace(EXPLORE, size=48)
    with pytest.raises(
        SchemaError,
        match=f"settings {recipe_hash(EXPLORE)}, now asked for are {recipe_hash(other)}",
    ):
        collect(other, explore_walks, 4, resume=True)


def test_every_walk_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doom_film, "MIN_BRIGHTNESS", 300)
    monkeypatch.setattr(doom, "MAX_ATTEMPTS", 3)
    args = "--episodes 2 --chunks 3 --size 16 --workers 1 --maps MAP01 --out"
    assert doom.main([*args.split(), str(tmp_path)]) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["walks tried"] == 6 and summary["walks skipped"] == {"too dark": 6}
    assert summary["episodes"]["kept"] == 0 and len(summary["episodes"]["given up"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    assert '"too dark": 6' in capsys.readouterr().out


def test_return_walks_that_look_different_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doom_film, "MIN_RETURN_PSNR", 99.5)
    monkeypatch.setattr(doom, "MAX_ATTEMPTS", 1)
    summary = collect(dataclasses.replace(RETURN, chunks=3), tmp_path, 1)
    assert list(summary["walks skipped"]) == ["revisit looks different (flicker, animation)"]


def test_the_summary_tells_how_well_revisits_agree(return_walks: Path) -> None:
    summary = json.loads((return_walks / "summary.json").read_text())
    assert summary["episodes"]["kept"] == 4
    assert summary["revisit psnr dB"]["least"] >= doom_film.MIN_RETURN_PSNR
    frames = {meta.id: (frames, meta.revisits) for meta, frames in load(return_walks)}
    for walk in summary["walks"]:
        video, pairs = frames[walk["id"]]
        least = min(min(99.0, psnr(video[a], video[b])) for a, b in pairs)
        assert walk["return_psnr"][0] == pytest.approx(least, abs=0.01)


def test_no_level_stands_in_two_splits() -> None:
    levels = [name for split in doom.MAPS.values() for name in split]
    assert len(levels) == len(set(levels)) == 31


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": ("MAP05",)}, r"--maps MAP05: not a level of split 'train'; its levels: MAP01"),
        ({"walk": "return", "chunks": 26}, "--chunks 26: a return walk .*an odd number"),
        ({"size": 8}, "--chunks 6 --size 8: allowed are"),
        ({"chunks": 1}, "--chunks 1 --size 32"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(EXPLORE, **changes)


def test_missing_vizdoom_gives_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    assert doom.main(["--out", str(tmp_path / "new")]) == 2
    assert "pip install 'sfv[doom]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_engine_tells_when_a_pose_was_not_reached(camera: Engine) -> None:
    camera.load("MAP05", seed=0)
    with pytest.raises(OffCourse, match=r"asked for Pose\(x=90000"):
        camera.film([Pose(90000.0, 0.0, 0.0)])


def test_filming_twice_gives_the_same_pictures(surveyor: Engine, camera: Engine) -> None:
    surveyor.load("MAP20", seed=0)
    level = surveyor.level()
    walk = explore(level, standing_places(level), np.random.default_rng(3), 3, ACTIONS)
    camera.load("MAP20", seed=5)
    first, poses = camera.film(walk.poses)
    camera.load("MAP05", seed=1)
    camera.load("MAP20", seed=5)
    again, poses_again = camera.film(walk.poses)
    assert np.array_equal(first, again) and poses == poses_again


def test_shrink_averages_over_area(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures_module, "GAMMA", 1.0)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    square = pictures[:, :, 4:28].astype(float)
    expected = square.reshape(2, 12, 2, 12, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrink(pictures, 12) - expected).max() <= 0.57
    uneven = pictures_module.area_weights(24, 16)
    assert uneven[0, :3] == pytest.approx([2 / 3, 1 / 3, 0])
    assert uneven.sum(axis=1) == pytest.approx(np.ones(16))


def test_shrink_brightens_dark_pixels() -> None:
    grey = np.full((1, 24, 32, 3), 51, np.uint8)
    assert np.unique(shrink(grey, 12)).tolist() == [round(255 * 0.2 ** (1 / pictures_module.GAMMA))]


def test_varied_words_change_only_the_texts(explore_walks: Path, tmp_path: Path) -> None:
    varied = dataclasses.replace(EXPLORE, language="varied")
    assert "language" not in EXPLORE.settings() and varied.settings()["language"] == "varied"
    collect(varied, tmp_path, 2)
    plain = load(explore_walks)[:2]
    texts = set()
    for (meta, frames), (other, others) in zip(load(tmp_path), plain, strict=True):
        assert np.array_equal(frames, others) and meta.poses == other.poses
        assert [canonical(action) for action in meta.actions] == [a.text for a in other.actions]
        texts |= {action.text for action in meta.actions}
    assert len(texts) > 6


@pytest.mark.parametrize(
    ("walk", "chunks", "said"),
    [
        ("turn360", 8, "a turn360 walk needs 1 of walking and 8 for once around"),
        ("round-trip", 12, "a round-trip walk needs .* an odd number from 11 on"),
        ("loop", 15, "a loop walk needs 12 for the shortest way around"),
    ],
)
def test_tours_of_no_possible_length_are_refused(walk: str, chunks: int, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        dataclasses.replace(RETURN, walk=walk, chunks=chunks)


def test_a_loop_comes_to_every_pose_again_lap_by_lap(surveyor: Engine) -> None:
    surveyor.load("MAP05", seed=0)
    level = surveyor.level()
    rng = np.random.default_rng(3)
    walk = around_a_rectangle(level, standing_places(level), rng, 37)
    assert len(walk.actions) == 37 and len(walk.poses) == 37 * CHUNK_FRAMES
    texts = [a for a, _ in groupby(walk.actions)]
    lap = next(n for n in range(12, 25) if walk.poses[n * CHUNK_FRAMES] == walk.poses[0])
    assert walk.poses[lap * CHUNK_FRAMES :] == walk.poses[: (37 - lap) * CHUNK_FRAMES]
    end, start = walk.poses[lap * CHUNK_FRAMES - 1], walk.poses[0]
    assert np.hypot(end.x - start.x, end.y - start.y) == pytest.approx(STEP_UNITS)
    assert end.yaw == pytest.approx(start.yaw), (
        "facing ahead again, one step before the first frame"
    )
    assert len(set(texts)) == 2, "forward, and one way of turning"
    assert level.clear(np.array([(p.x, p.y) for p in walk.poses])).all()
