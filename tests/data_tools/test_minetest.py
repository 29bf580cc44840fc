import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_tools.collect import minetest
from data_tools.collect.minetest_engine import (
    INSTALL,
    NEEDED,
    Minetest,
    World,
    open_minetest,
    require_minetest,
)
from data_tools.collect.minetest_film import frame_psnr, little_to_see, pose_of
from data_tools.collect.minetest_objects import box_of
from data_tools.collect.minetest_walks import (
    NOBODY,
    Edit,
    Ground,
    NoWay,
    View,
    Walk,
    landmark,
    move,
)
from data_tools.collect.minetest_words import _facts, tell
from data_tools.collect.runner import MissingEngine, Outcome, collect
from data_tools.collect.xvfb import open_screen
from data_tools.files import find_episodes
from data_tools.language import canonical, phrases
from sfv.data.schema import Provenance, SchemaError
from sfv.data.stages import decode_mp4
from tests.data_tools.test_minetest_walks import ground

LANDMARK = minetest.Settings("test", "landmark", 12, 32, 0, 2)

needs_minetest = pytest.mark.skipif(
    any(shutil.which(program) is None for program in NEEDED), reason=INSTALL
)
needs_xvfb = pytest.mark.skipif(
    any(shutil.which(program) is None for program in NEEDED[1:]), reason=INSTALL
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunks": 13}, "--chunks 13: a landmark walk needs .*an even number from 12 on"),
        ({"walk": "return", "chunks": 12}, "--chunks 12: a return walk needs .*odd number from 3"),
        ({"size": 33}, "--worlds 2 --size 33: allowed are worlds >= 1 and even sizes"),
        ({"worlds": 0}, "--worlds 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(LANDMARK, **changes)


def test_the_last_digit_of_a_world_tells_its_split() -> None:
    scenes = {}
    for split in ("train", "val", "test"):
        settings = dataclasses.replace(LANDMARK, split=split, worlds=16)
        scenes[split] = {settings.scene_of(index) for index in range(40)}
        assert len(scenes[split]) == 16
    assert not scenes["train"] & scenes["val"] and not scenes["train"] & scenes["test"]
    assert scenes["test"] >= {"minetest/00009", "minetest/00019"}


def test_worlds_differ_and_come_out_the_same_again() -> None:
    worlds = [minetest.make_world(number) for number in range(20)]
    assert worlds == [minetest.make_world(number) for number in range(20)]
    assert len({world.seed for world in worlds}) == 20
    assert {world.mapgen for world in worlds} == {"v7", "valleys", "carpathian"}


def test_missing_programs_give_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingEngine, match=r"was not found\. Minetest is not installed; .*apt-get"
    ):
        require_minetest()
    assert minetest.main(["--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--no-install-recommends minetest minetest-data" in error
    assert not (tmp_path / "new").exists()


def test_a_view_in_the_games_own_axes() -> None:
    flat = Ground(0, 0, np.full((9, 9), 5), np.full((9, 9), "default:stone"))
    assert pose_of(View(3.5, 4, 90, 22.5), flat) == pytest.approx((3.5, 5.6, 4, 0, -22.5))
    assert pose_of(View(3, 4, 0), flat)[3] == -90


def test_flat_pictures_are_little_to_see() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    assert not little_to_see(frames)
    frames[:3] = [90, 120, 200]
    assert little_to_see(frames)
    frames[2] = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert not little_to_see(frames)


def test_the_metadata_of_a_walk() -> None:
    land = ground()
    settings = dataclasses.replace(LANDMARK, language="varied", chunks=16)
    for seed in range(99):
        try:
            walk = landmark(land, np.random.default_rng(seed), 16)
            break
        except NoWay:
            continue
    meta = minetest._meta(settings, 1, walk, land, [(3, 9)], np.random.default_rng(0))
    assert meta.id == "minetest-test-landmark-00001-00019" and meta.domain == "game"
    assert meta.licence == "CC-BY-SA-3.0" and isinstance(meta.provenance, Provenance)
    assert [canonical(action) for action in meta.actions] == list(walk.actions)
    built = [action.raw["built"] for action in meta.actions if "built" in action.raw]
    assert built == [[dataclasses.asdict(edit) for edit in walk.edits]]
    assert json.loads(json.dumps(meta.actions[1].raw))["pitch"] == 0
    view = walk.views[37]
    assert meta.poses is not None
    assert meta.poses[37] == pytest.approx(
        (view.x, view.y, land.height(view.x, view.y), view.yaw), abs=1e-3
    )


def test_a_placed_block_is_a_landmark_while_it_is_ahead_and_in_the_open() -> None:
    heights = np.full((61, 61), 5)
    flat = Ground(70, -80, heights, np.full((61, 61), "default:stone"))
    views = [*move(View(100, -50, 0), "walk forward"), *move(View(104, -50, 0), "turn left")]
    views += move(views[-1], "turn right")
    actions = ("walk forward", "turn left", "turn right")
    walk = Walk(actions, tuple(views), (Edit(4, (110, 6, -50), "wool:dark_green"),))
    steps, left, right = _facts(walk, flat)
    assert steps == {"steps": 4, "landmark": "dark green wool block"}
    assert left == {"degrees": 45} and right == {"degrees": 45, "landmark": "dark green wool block"}
    heights[30, 37] = 9
    assert _facts(walk, flat)[0] == {"steps": 4}
    dug = dataclasses.replace(walk, edits=(Edit(4, (110, 6, -50), "air"),))
    assert _facts(dug, flat)[0] == {"steps": 4}
    told = tell(walk, flat, "varied", np.random.default_rng(1))
    assert told[0].raw["built"] == [{"frame": 4, "place": (110, 6, -50), "node": "wool:dark_green"}]
    assert told[1].text in phrases("turn left", degrees=45)


def test_the_report_tells_how_much_blocks_show() -> None:
    measures = [
        {"return_psnr": (40.0, 60.0), "landmark_psnr": 12.0, "passes": 2},
        {"return_psnr": None, "landmark_psnr": 15.0, "passes": 3},
    ]
    report = LANDMARK.report([Outcome("a", True, (), m) for m in measures])
    assert report == {"revisit psnr dB": {"least": 40.0, "mean": 60.0}, "landmark psnr dB": 13.5}


@needs_xvfb
def test_the_screen_shows_what_is_drawn_there_and_goes_away() -> None:
    before = children(os.getpid())
    with open_screen(96, 64) as screen, open_screen(32, 32) as other:
        assert screen.display != other.display
        assert screen.picture().shape == (64, 96, 3) and other.picture().shape == (32, 32, 3)
        assert screen.picture().max() == 0
        pids = [pid for pid in children(os.getpid()) if pid not in before]
        assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


@needs_xvfb
def test_a_screen_that_does_not_start_is_told() -> None:
    told = pytest.raises(OSError, match=r"Xvfb ended with code -?\d+ before its screen was up")
    with told, open_screen(0, 10):
        pass


@needs_xvfb
def test_a_killed_process_leaves_no_screen_behind(tmp_path: Path) -> None:
    assert_nothing_is_left(
        tmp_path, "from data_tools.collect.xvfb import open_screen as start", "64, 64", 1
    )


@needs_minetest
@pytest.mark.slow
def test_a_killed_process_leaves_no_game_behind(tmp_path: Path) -> None:
    engine = "data_tools.collect.minetest_engine"
    start = f"from {engine} import World, open_minetest as start"
    assert_nothing_is_left(tmp_path, start, "World(1, 'v7', 0.5), 32", 2)


def assert_nothing_is_left(folder: Path, start: str, arguments: str, count: int) -> None:
    """Kill a process that has started programs; they have to end by themselves."""
    env = os.environ | {"TMPDIR": str(folder)}
    code = f"{start}\nwith start({arguments}):\n    print('up', flush=True)\n    input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "up\n"
    pids = children(process.pid)
    assert len(pids) == count and all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stdin.close()
    for _ in range(500):
        if not any(alive(pid) for pid in pids):
            break
        time.sleep(0.02)  # the kernel's signals are on their way
    assert not any(alive(pid) for pid in pids)


def children(pid: int) -> list[int]:
    """Direct child processes that still run."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split() if alive(int(child))]


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def game() -> Iterator[Minetest]:
    with open_minetest(World(7, "flat", 0.5), 96) as running:
        span = {"x": 8, "z": 8, "bottom": -16, "top": 31}
        running.ask("emerge", r=80, **span)
        yield running


@pytest.fixture(scope="module")
def meadow(game: Minetest) -> Ground:
    told = game.ask("ground", x=8, z=8, r=20, bottom=-16, top=31, room=3)
    heights = np.array(told["heights"], dtype=np.int64).reshape(41, 41)
    tops = np.array(told["names"])[np.array(told["tops"], dtype=np.int64)].reshape(41, 41)
    return Ground(-12, -12, heights, tops)


@needs_minetest
@pytest.mark.slow
def test_the_ground_is_where_the_game_says(game: Minetest, meadow: Ground) -> None:
    height = int(np.median(meadow.heights[meadow.heights > NOBODY]))
    rows, columns = np.nonzero(meadow.heights == height)
    x, y = int(columns[0]) + meadow.x, int(rows[0]) + meadow.y
    assert game.put((x, height, y), "wool:red") == str(meadow.tops[rows[0], columns[0]])
    assert game.put((x, height, y), str(meadow.tops[rows[0], columns[0]])) == "wool:red"


@needs_minetest
@pytest.mark.slow
def test_axes_of_the_game(game: Minetest, meadow: Ground) -> None:
    """A red block to the east and a blue one to the north, seen from between."""
    x, y = next(
        (x, y)
        for x in range(0, 16)
        for y in range(0, 16)
        if all(meadow.clear(x + dx, y + dy) for dx in range(4) for dy in range(4))
    )
    top = int(meadow.height(x, y)) + 1
    placed = [((x + 3, top, y), "wool:red"), ((x, top, y + 3), "wool:blue")]
    before = [(place, game.put(place, node)) for place, node in placed]
    game.settle([pose_of(View(x, y, yaw), meadow) for yaw in (0, 90)])
    east, north, up = (
        game.stand(pose_of(View(x, y, yaw, pitch), meadow)).astype(int)
        for yaw, pitch in ((0, 0), (90, 0), (0, 60))
    )
    left = game.stand(pose_of(View(x, y, 15), meadow)).astype(int)
    for place, node in before:
        game.put(place, node)
    red = lambda picture: (picture[..., 0] - picture[..., 1] > 60) & (picture[..., 2] < 90)  # noqa: E731
    rows, columns = np.nonzero(red(east))
    seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    box = box_of(View(x, y, 0), meadow, placed[0][0], 48)
    assert box == pytest.approx(np.array(seen) / 2, abs=1.5), (
        "what is drawn is where it was computed"
    )
    assert red(east)[48:, 32:64].mean() > 0.2 and red(north).mean() < 0.01
    assert (north[48:, 32:64, 2] - north[48:, 32:64, 0]).max() > 40
    assert red(up).mean() < 0.01 and up[..., 2].mean() > up[..., 0].mean() + 30
    assert np.nonzero(red(left))[1].mean() > np.nonzero(red(east))[1].mean() + 8


@needs_minetest
@pytest.mark.slow
def test_a_world_that_is_made_again_has_the_same_plants() -> None:
    grounds = []
    for _ in range(2):
        with open_minetest(minetest.make_world(9), 16) as again:
            grounds.append(minetest.find_ground(again, 9))
    one, other = grounds
    assert (one.x, one.y) == (other.x, other.y) and len(np.unique(one.tops)) > 1
    assert np.array_equal(one.heights, other.heights) and np.array_equal(one.tops, other.tops)
    assert 0.4 < (one.heights > NOBODY).mean() < 1


@needs_minetest
@pytest.mark.slow
def test_a_block_that_was_placed_is_there_on_the_way_back(tmp_path: Path) -> None:
    summary = collect(LANDMARK, tmp_path, 1)
    assert summary["episodes"]["kept"] == 1
    assert summary["revisit psnr dB"]["least"] >= minetest.MIN_RETURN_PSNR
    ((meta, path),) = find_episodes([tmp_path])
    frames = decode_mp4(path.read_bytes())
    assert frames.shape == (96, 32, 32, 3) and frames.std() > 10
    untouched, built, last = frames[7], frames[15], frames[-1]
    assert frame_psnr(built, last) >= minetest.MIN_RETURN_PSNR
    assert frame_psnr(untouched, last) < minetest.MAX_LANDMARK_PSNR
    assert frame_psnr(frames[-12], last) < 30
    (thing,) = meta.objects
    assert (95, 11) in thing.without and thing.boxes[12] == thing.boxes[95]
    left, top, right, bottom = thing.boxes[95] or (0, 0, 0, 0)
    change = np.abs(frames[12].astype(int) - frames[11]).sum(axis=2)
    assert change[top:bottom, left:right].sum() > 0.7 * change.sum()
    for first, later in meta.revisits:
        assert frame_psnr(frames[first], frames[later]) >= minetest.MIN_RETURN_PSNR
        assert meta.poses is not None and meta.poses[first] == meta.poses[later]
