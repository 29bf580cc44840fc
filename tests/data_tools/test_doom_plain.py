"""Plain mazes and walks that come back beside the way out; what is textured stays as it was."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_tools.collect import doom_mazes
from data_tools.collect.doom_engine import Engine, OffCourse, open_engine
from data_tools.collect.doom_film import Stage, film_walk
from data_tools.collect.doom_level import CLEARANCE, Array, Level, standing_places
from data_tools.collect.doom_looks import LOOKS, plain_lumps
from data_tools.collect.doom_maze import Maze, make_maze, wad
from data_tools.collect.doom_tours import TURN_QUANTUM, Offset, beside, draw_offset
from data_tools.collect.doom_walks import (
    ACTIONS,
    CHUNK_FRAMES,
    NoRoomBeside,
    NoWay,
    Pose,
    Walk,
    revisits,
    there_and_back,
)
from data_tools.collect.runner import collect, recipe_hash
from data_tools.files import find_episodes
from sfv.data.schema import SchemaError
from tests.data_tools.test_doom_level import two_rooms

PLAIN = make_maze(9, "plain")
BESIDE = doom_mazes.Settings("test", "beside", 9, 32, 0, 3, look="plain")
OUT = 5 * CHUNK_FRAMES


@pytest.fixture(scope="module")
def ground() -> tuple[Level, Array]:
    level = PLAIN.level()
    return level, standing_places(level)


@pytest.fixture(scope="module")
def camera() -> Iterator[Engine]:
    bare = dataclasses.replace(PLAIN, number=19, things=())
    textured = dataclasses.replace(make_maze(9), number=29, things=())
    with open_engine(wad=wad([PLAIN, bare, textured])) as engine:
        yield engine


@pytest.fixture(scope="module")
def beside_walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    assert collect(BESIDE, folder, 3)["episodes"]["kept"] == 3
    return folder


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def walk_beside(level: Level, places: Array, offset: Offset) -> Walk:
    """The first of many seeds with room beside the way."""
    for seed in range(100):
        try:
            return beside(level, places, generator(seed), 9, offset)
        except NoWay:
            continue
    raise AssertionError("no room in 100 walks")


def asides(meta_poses: Array) -> tuple[Array, Array]:
    """What every frame back is to the left of the frame it passes, units, and its turn, degrees."""
    out, back = meta_poses[OUT - 2 : CHUNK_FRAMES - 2 : -1], meta_poses[OUT:]
    heading = np.radians(out[:, -1])
    left = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    moved = back[:, :2] - out[:, :2]
    assert np.abs(moved - (moved * left).sum(1, keepdims=True) * left).max() < 1  # sideways alone
    return (moved * left).sum(1), (back[:, -1] - out[:, -1] + 180) % 360 - 180


def test_textured_mazes_are_what_they_were() -> None:
    told = hashlib.sha256(wad([make_maze(3), make_maze(9)])).hexdigest()
    assert told.startswith("34609e71f1260675")
    settings = doom_mazes.Settings("train", "return", 17, 64, 0, 12)
    assert recipe_hash(settings) == "373e7987a6a5"
    assert settings.episode_id(3) == "mazes-train-return-00003-000003"
    assert settings.scene_of(3) == "maze/000003"


def test_a_plain_maze_has_the_walls_of_the_textured_one() -> None:
    textured = make_maze(9)
    assert dataclasses.replace(textured, things=textured.things[::2], style="plain") == PLAIN
    assert len({make_maze(number, "plain").looks for number in range(9)}) == 9


def test_the_plain_pictures_are_all_there_and_differ() -> None:
    (first, _), *pictures, (last, _) = plain_lumps()
    assert (first, last) == ("TX_START", "TX_END")
    held = dict(pictures)
    used = {name for look in LOOKS["plain"] for name in (*look.walls, look.floor, look.ceiling)}
    assert used == set(held) and max(map(len, held)) <= 8
    assert len(set(held.values())) == len(pictures) == 12 * 5 + 8 + 4


def test_a_plain_maze_shows_few_colours(camera: Engine, ground: tuple[Level, Array]) -> None:
    walk = there_and_back(*ground, generator(1), 9, ACTIONS[:4])
    colours = {}
    for number in (19, 29):
        camera.load(f"MZ{number:06d}", seed=0, still=True)
        pictures, _ = camera.film(walk.poses[::8])
        colours[number] = np.mean([len(np.unique(f.reshape(-1, 3), axis=0)) for f in pictures])
    assert 5 < colours[19] < 30 and colours[29] > 3 * colours[19]


def test_the_places_of_a_plain_maze_look_different(camera: Engine) -> None:
    camera.load(PLAIN.map_name, seed=0, still=True)
    cells = [(x, y) for x in range(6) for y in range(6)]
    views = [Pose(192.0 * x + 96, 192.0 * y + 96, 90.0) for x, y in cells]
    pictures, _ = camera.film(views)
    assert len(np.unique(pictures.reshape(len(views), -1), axis=0)) == len(views)


@pytest.mark.parametrize(
    ("shift", "turn"), [(6, 0.0), (-24, 0.0), (48, 0.0), (0, 5.625), (0, -29.53125), (-12, 11.25)]
)
def test_the_way_back_lies_exactly_beside(
    ground: tuple[Level, Array], camera: Engine, shift: int, turn: float
) -> None:
    level, places = ground
    walk = walk_beside(level, places, Offset(shift, turn))
    camera.load(PLAIN.map_name, seed=0, still=True)
    told = np.array(camera.film(walk.poses)[1])
    planned = np.array([(round(p.x), round(p.y), p.yaw) for p in walk.poses])
    assert np.array_equal(told[:, :2], planned[:, :2])
    assert np.abs((told[:, 3] - planned[:, 2] + 180) % 360 - 180).max() < 1e-3
    aside, turned = asides(told)
    share = np.minimum(1, np.arange(1, OUT - CHUNK_FRAMES + 1) / CHUNK_FRAMES)
    assert np.abs(aside - shift * share).max() <= 0.75  # whole units along both axes
    assert np.abs(turned - turn * share).max() < 2e-3
    assert walk.notes == (None,) * 5 + ({"shift": shift, "turn": turn},) * 4


def test_no_wall_and_no_thing_is_near_the_way_back(ground: tuple[Level, Array]) -> None:
    level, places = ground
    for offset in (Offset(30, 0.0), Offset(-30, 0.0)):
        walk = walk_beside(level, places, offset)
        points = np.array([(p.x, p.y) for p in walk.poses])
        walls = np.concatenate([level.walls[:, :2], level.walls[:, 2:]])
        corners = np.linalg.norm(points[:, None] - walls[None], axis=2)
        assert corners.min() >= CLEARANCE and level.clear(points).all()


def test_a_way_without_room_beside_it_is_refused() -> None:
    level = two_rooms(solid=True, things=())
    places = np.array([[300.0, 40.0]])  # 12 units more than the clearance from the wall at y = 0
    refused = 0
    for seed in range(20):
        try:
            beside(level, places, generator(seed), 5, Offset(60, 0.0))
        except NoRoomBeside:
            refused += 1
    assert 0 < refused < 20


def test_without_shift_and_turn_the_walk_is_a_return(ground: tuple[Level, Array]) -> None:
    level, places = ground
    walk = beside(level, places, generator(3), 9, Offset(0, 0.0))
    back = there_and_back(level, places, generator(3), 9, ACTIONS[:4])
    assert walk.actions == back.actions
    for a, b in zip(walk.poses, back.poses, strict=True):
        assert (round(a.x), round(a.y), a.yaw) == (round(b.x), round(b.y), b.yaw)
    assert revisits(walk.poses) == revisits(back.poses)


def test_the_command_without_shift_and_turn_films_the_return(tmp_path: Path) -> None:
    still = dataclasses.replace(BESIDE, shift=(0, 0), turn=(0.0, 0.0))
    collect(still, tmp_path / "a", 1)
    collect(dataclasses.replace(BESIDE, walk="return"), tmp_path / "b", 1)
    (one, one_path), (two, two_path) = find_episodes([tmp_path / "a", tmp_path / "b"])
    assert one_path.read_bytes() == two_path.read_bytes()
    assert (one.poses, one.revisits) == (two.poses, two.revisits)


def test_an_episode_tells_its_offset(beside_walks: Path) -> None:
    drawn = set()
    for index, (meta, _) in enumerate(find_episodes([beside_walks])):
        offset = BESIDE.offset_of(index)
        drawn.add(offset)
        raws = [action.raw for action in meta.actions]
        assert raws == [None] * 5 + [{"shift": offset.shift, "turn": offset.turn}] * 4
        aside, turned = asides(np.array(meta.poses))
        assert np.abs(aside[CHUNK_FRAMES:] - offset.shift).max() <= 0.75
        assert np.abs(turned[CHUNK_FRAMES:] - offset.turn).max() < 2e-3
        assert all(later < OUT for _, later in meta.revisits)
        assert meta.scene == f"plain-maze/{BESIDE.number_of(index):06d}"
    assert len(drawn) == 3


def test_varied_words_keep_the_offset(tmp_path: Path) -> None:
    collect(dataclasses.replace(BESIDE, language="varied"), tmp_path, 1)
    ((meta, _),) = find_episodes([tmp_path])
    assert set(meta.actions[-1].raw) == {"action", "shift", "turn"}


def test_the_same_seed_gives_the_same_bytes(beside_walks: Path, tmp_path: Path) -> None:
    collect(BESIDE, tmp_path, 3)
    names = sorted(path.name for path in beside_walks.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (beside_walks / name).read_bytes()


def test_offsets_fill_their_ranges_to_both_sides() -> None:
    drawn = [draw_offset(generator(seed), (6, 48), (5.0, 30.0)) for seed in range(400)]
    shifts = {abs(offset.shift) for offset in drawn if offset.shift}
    turns = {abs(offset.turn) for offset in drawn if offset.turn}
    assert (min(shifts), max(shifts)) == (6, 48) and 5 <= min(turns) <= max(turns) <= 30
    assert all((turn / TURN_QUANTUM).is_integer() for turn in turns)
    kinds = [(offset.shift != 0, offset.turn != 0) for offset in drawn]
    for kind in ((True, False), (False, True), (True, True)):
        assert 100 < kinds.count(kind) < 170
    assert min(o.shift for o in drawn) == -48 and min(o.turn for o in drawn) < -29
    fixed = {draw_offset(generator(seed), (24, 24), (0.0, 0.0)) for seed in range(20)}
    assert fixed == {Offset(24, 0.0), Offset(-24, 0.0)}
    fixed = {draw_offset(generator(seed), (0, 0), (11.25, 11.25)) for seed in range(20)}
    assert fixed == {Offset(0, 11.25), Offset(0, -11.25)}


def test_half_of_the_targets_of_a_mixed_set_come_back() -> None:
    settings = doom_mazes.Settings("train", "mixed", 17, 64, 0, 20, look="plain")
    again, kinds = [], []
    for index in range(20):
        maze = make_maze(settings.number_of(index), "plain")
        again.append(share_that_comes_back(settings, index, maze))
        kinds.append(settings.kind_of(index))
    assert [kinds.count(kind) for kind in ("return", "beside", "wander")] == [8, 8, 4]
    assert np.mean(again) == pytest.approx(0.5, abs=0.05)


def share_that_comes_back(settings: doom_mazes.Settings, index: int, maze: Maze) -> float:
    level = maze.level()
    stage = Stage(None, level, standing_places(level))
    kind, offset = settings.kind_of(index), Offset(0, 0.0)
    walk = doom_mazes.plan(kind, settings.chunks, stage, maze, generator(index + 1000), offset)
    late = {later for _, later in revisits(walk.poses)}
    targets = range(1, len(walk.actions))
    half = CHUNK_FRAMES // 2
    return float(
        np.mean([sum(f in late for f in range(8 * i, 8 * i + 8)) >= half for i in targets])
    )


def test_a_small_turn_is_no_revisit() -> None:
    a, b = Pose(0, 0, 45.0), Pose(0, 0, 45.0 + TURN_QUANTUM)
    assert revisits([a, b, a]) == [(0, 2)]


def test_a_walk_that_stands_elsewhere_by_a_unit_is_dropped(ground, tmp_path: Path) -> None:
    class Drifting:
        def film(self, poses):
            told = [
                (round(p.x) + (i == 20), float(round(p.y)), 0.0, p.yaw) for i, p in enumerate(poses)
            ]
            return np.zeros((len(poses), 120, 160, 3), np.uint8), told

    class Exact:
        exact = True

    walk = there_and_back(*ground, generator(1), 9, ACTIONS[:4])
    with pytest.raises(OffCourse, match="asked for"):
        film_walk(Exact(), walk, Stage(Drifting(), *ground), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": (48, 6)}, "--shift 48 6: needs 0 <= LEAST <= GREATEST <= 64"),
        ({"shift": (6, 65)}, "--shift 6 65"),
        ({"turn": (30.0, 5.0)}, "--turn 30 5: needs 0 <= LEAST"),
        ({"turn": (5.0, 5.1)}, "--turn 5 5.1: .* multiple of 0.703125 in between"),
        ({"turn": (-5.0, 5.0)}, "--turn -5 5"),
        ({"turn": (5.0, float("nan"))}, "--turn 5 nan"),
        ({"chunks": 8}, "--chunks 8: a beside walk needs .*odd number"),
        ({"walk": "mixed", "chunks": 8}, "--chunks 8: a mixed walk needs .*odd number"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(BESIDE, **changes)


def test_the_command_takes_look_and_ranges() -> None:
    words = [
        "--out",
        "x",
        "--look",
        "plain",
        "--walk",
        "beside",
        "--chunks",
        "9",
        "--shift",
        "24",
        "24",
        "--turn",
        "0",
        "0",
    ]
    settings = doom_mazes.settings_of(doom_mazes.parser().parse_args(words))
    assert (settings.look, settings.shift, settings.turn) == ("plain", (24, 24), (0.0, 0.0))
    assert json.loads(json.dumps(settings.settings()))["shift"] == [24, 24]
