import dataclasses
import json
import struct
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import vizdoom

from data_tools.collect import doom_mazes
from data_tools.collect.doom_engine import Engine, open_engine
from data_tools.collect.doom_film import Stage, landmark
from data_tools.collect.doom_level import Array, Level, standing_places
from data_tools.collect.doom_looks import TEXTURED
from data_tools.collect.doom_maze import (
    CELL_UNITS,
    CELLS,
    WORDS,
    cells,
    centre,
    make_maze,
    udmf,
    wad,
)
from data_tools.collect.doom_tours import Offset, around_a_block, round_trip, turn_around
from data_tools.collect.doom_walks import CHUNK_FRAMES, Pose, Walk, move, revisits
from data_tools.collect.runner import collect
from data_tools.collect.scenes import LAST_DIGITS
from data_tools.files import find_episodes
from data_tools.language import canonical, phrases
from sfv.data.schema import SchemaError
from sfv.data.stages import decode_mp4
from tests.data_tools.test_doom_level import two_rooms

MAZE = make_maze(9)
LOOP = doom_mazes.Settings("test", "loop", 25, 32, 0, 3, "varied")


@pytest.fixture(scope="module")
def surveyor_of_mazes() -> Iterator[Engine]:
    with open_engine(survey=True, wad=wad([make_maze(4), MAZE])) as engine:
        yield engine


@pytest.fixture(scope="module")
def ground() -> tuple[Level, Array]:
    level = MAZE.level()
    return level, standing_places(level)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def lines(walls: Array) -> set[tuple[tuple[float, float], ...]]:
    return {tuple(sorted(((x1, y1), (x2, y2)))) for x1, y1, x2, y2 in walls.tolist()}


def follows(walk: Walk) -> bool:
    """Whether each chunk moves as its action says."""
    for i in range(1, len(walk.actions)):
        before, *frames = walk.poses[i * CHUNK_FRAMES - 1 : (i + 1) * CHUNK_FRAMES]
        for frame, told in zip(frames, move(before, walk.actions[i]), strict=True):
            turned = (frame.yaw - told.yaw + 180) % 360 - 180
            if max(abs(frame.x - told.x), abs(frame.y - told.y), abs(turned)) > 1e-6:
                return False
    return True


@pytest.mark.parametrize("number", [4, 9])
def test_the_engine_sees_the_walls_and_things_that_were_planned(
    surveyor_of_mazes: Engine, number: int
) -> None:
    maze = make_maze(number)
    surveyor_of_mazes.load(maze.map_name, seed=0)
    seen, planned = surveyor_of_mazes.level(), maze.level()
    assert lines(seen.walls) == lines(planned.walls)
    assert lines(seen.hull) == lines(planned.hull) and len(lines(seen.hull)) == 4 * CELLS
    assert sorted(zip(seen.kinds, seen.things.tolist(), strict=True)) == sorted(
        zip(planned.kinds, planned.things.tolist(), strict=True)
    )
    assert set(seen.kinds) <= set(WORDS)


def test_every_cell_can_be_reached_and_there_are_ways_around() -> None:
    for number in range(5):
        maze = make_maze(number)
        seen, queue = {(0, 0)}, [(0, 0)]
        while queue:
            queue += [cell for cell in maze.neighbours(queue.pop()) if cell not in seen]
            seen |= set(queue)
        assert seen == set(cells())
        assert len(maze.doors) > CELLS**2 - 1
        assert make_maze(number) == maze
    assert len({make_maze(number).doors for number in range(5)}) == 5


def test_things_stand_beside_the_way() -> None:
    for number in range(5):
        level = make_maze(number).level()
        assert 10 < len(level.things) < CELLS**2
        assert level.clear(np.array([centre(cell) for cell in cells()], dtype=float)).all()


def test_the_textures_are_in_freedoom() -> None:
    data = (Path(vizdoom.__path__[0]) / "freedoom2.wad").read_bytes()
    _, count, start = struct.unpack("<4sii", data[:12])
    lumps = list(struct.iter_unpack("<ii8s", data[start : start + 16 * count]))
    names = [name.rstrip(b"\0").decode() for _, _, name in lumps]
    flats = set(names[names.index("F_START") : names.index("F_END")])
    offset, size, _ = lumps[names.index("TEXTURE1")]
    table = data[offset : offset + size]
    (number,) = struct.unpack("<i", table[:4])
    places = struct.unpack(f"<{number}i", table[4 : 4 + 4 * number])
    walls = {table[place : place + 8].rstrip(b"\0").decode() for place in places}
    for look in TEXTURED:
        assert set(look.walls) <= walls and {look.floor, look.ceiling} <= flats
        assert len(set(look.walls)) == 3


def test_the_wad_holds_three_lumps_a_maze() -> None:
    mazes = [make_maze(3), MAZE]
    data = wad(mazes)
    kind, count, start = struct.unpack("<4sii", data[:12])
    lumps = list(struct.iter_unpack("<ii8s", data[start:]))
    assert kind == b"PWAD" and count == len(lumps) == 7
    names = [name.rstrip(b"\0").decode() for _, _, name in lumps]
    assert names[1:] == ["MZ000003", "TEXTMAP", "ENDMAP", "MZ000009", "TEXTMAP", "ENDMAP"]
    offset, size, _ = lumps[5]
    assert data[offset : offset + size].decode() == udmf(MAZE)
    text = Counter(line.split(" ")[0] for line in udmf(MAZE).splitlines())
    assert text["sector"] == CELLS**2 and text["vertex"] == (CELLS + 1) ** 2
    assert text["linedef"] == 2 * CELLS * (CELLS + 1)
    assert text["sidedef"] == 2 * text["linedef"] - 4 * CELLS


def test_turning_around_comes_back_after_eight_chunks(ground: tuple[Level, Array]) -> None:
    level, places = ground
    for seed in range(4):
        walk = turn_around(level, places, generator(seed), 18)
        assert walk.actions[0] == "walk forward" and len(set(walk.actions[1:])) == 1
        assert follows(walk)
        assert level.clear(np.array([(pose.x, pose.y) for pose in walk.poses])).all()
        pairs = revisits(walk.poses)
        assert (7, 71) in pairs and (7, 135) in pairs and len(pairs) == 18 * 8 - 8 - 63


def test_a_round_trip_ends_where_it_began(ground: tuple[Level, Array]) -> None:
    level, places = ground
    for seed in range(4):
        walk = round_trip(level, places, generator(seed), 27)
        assert len(walk.actions) == 27 and len(walk.poses) == 216 and follows(walk)
        assert (7, 215) in revisits(walk.poses)
        out, back = walk.poses[7:80], walk.poses[111:184]
        for there, here in zip(out, reversed(back), strict=True):
            assert (there.x, there.y) == (here.x, here.y)
            assert (there.yaw - here.yaw) % 360 == pytest.approx(180)
        assert "walk backward" not in walk.actions
    with pytest.raises(ValueError, match="2n\\+9 chunks: 12 has to be odd"):
        round_trip(level, places, generator(0), 12)


def test_a_loop_goes_around_a_block_without_turning_back(ground: tuple[Level, Array]) -> None:
    level, _ = ground
    for seed in range(6):
        walk = around_a_block(MAZE, generator(seed), 41)
        assert len(walk.actions) == 41 and follows(walk)
        points = np.array([(pose.x, pose.y) for pose in walk.poses])
        assert level.clear(points).all()
        corners = {
            tuple(point)
            for point in points.round().tolist()
            if all(value % CELL_UNITS == CELL_UNITS / 2 for value in point)
        }
        lap = min(later - first for first, later in revisits(walk.poses))
        assert lap % 8 == 0 and len(corners) >= 4
        assert lap >= 16 * (len(corners) - 1)
        for i in range(lap, len(walk.poses)):
            earlier, later = walk.poses[i - lap], walk.poses[i]
            assert (round(earlier.x), round(earlier.y)) == (round(later.x), round(later.y))
            assert (earlier.yaw - later.yaw) % 360 == pytest.approx(0)
        for here, ahead in pairwise(walk.actions):
            assert {here, ahead} != {"turn left", "turn right"}


def test_the_walls_hide_what_is_behind_them() -> None:
    level = dataclasses.replace(two_rooms(solid=True), kinds=("GreenTorch",))
    assert level.things.tolist() == [[100.0, 100.0]]
    assert landmark(Pose(300, 100, 180), level) == "green torch"
    assert landmark(Pose(300, 100, 170), level) == "green torch"
    assert landmark(Pose(300, 100, 160), level) is None
    assert landmark(Pose(300, 100, 0), level) is None
    assert landmark(Pose(650, 100, 180), level) is None
    assert landmark(Pose(650, 100, 180), dataclasses.replace(two_rooms(), kinds=("GreenTorch",)))
    assert landmark(Pose(300, 100, 180), dataclasses.replace(level, kinds=("Clip",))) is None


def test_the_nearest_thing_is_named() -> None:
    level = two_rooms(things=((100.0, 100.0), (200.0, 110.0)))
    level = dataclasses.replace(level, kinds=("GreenTorch", "BigTree"))
    assert landmark(Pose(400, 100, 180), level) == "big tree"


def test_a_loop_is_the_same_to_the_last_bit_on_every_lap(tmp_path: Path) -> None:
    summary = collect(LOOP, tmp_path, 3)
    assert summary["revisit psnr dB"] == {"least": 99.0, "mean": 99.0}
    episodes = list(find_episodes([tmp_path]))
    assert [meta.scene for meta, _ in episodes] == ["maze/000009", "maze/000019", "maze/000029"]
    for meta, path in episodes:
        frames = decode_mp4(path.read_bytes())
        first, later = meta.revisits[0]
        assert meta.num_frames == 200 and np.array_equal(frames[first], frames[later])
        assert len(np.unique(frames[:128].reshape(128, -1), axis=0)) == 128
        for action in meta.actions:
            said = canonical(action)
            known = {"degrees": 45} if said.startswith("turn") else {"steps": 8}
            texts = {t for w in (None, *WORDS.values()) for t in phrases(said, **known, landmark=w)}
            assert action.text in texts
        assert len({action.text for action in meta.actions}) > 5


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_last_digit_of_a_maze_tells_its_split(split: str) -> None:
    settings = dataclasses.replace(LOOP, split=split, mazes=20)
    numbers = [settings.number_of(index) for index in range(40)]
    assert {number % 10 for number in numbers} == set(LAST_DIGITS[split])
    assert len(set(numbers)) == 20 and numbers[:20] == numbers[20:]
    assert len(json.dumps(settings.settings())) > 10


def test_the_splits_share_no_digit() -> None:
    digits = [digit for split in LAST_DIGITS.values() for digit in split]
    assert sorted(digits) == list(range(10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"walk": "return", "chunks": 26}, "--chunks 26: a return walk needs .*odd number from 3"),
        ({"walk": "turn360", "chunks": 8}, "--chunks 8: a turn360 walk needs .*from 9 on"),
        ({"walk": "round-trip", "chunks": 9}, "--chunks 9: a round-trip walk needs .*from 11 on"),
        ({"chunks": 16}, "--chunks 16: a loop walk needs .*, 16: a number from 18 on"),
        ({"mazes": 0}, "--mazes 0 --size 32: allowed are mazes >= 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(LOOP, **changes)


@pytest.mark.parametrize("kind", ["explore", "wander", "return", "turn360", "round-trip", "loop"])
def test_every_kind_of_walk_has_exact_revisits(kind, ground: tuple[Level, Array]) -> None:
    level, places = ground
    stage = Stage(None, level, places)
    walk = doom_mazes.plan(kind, 27, stage, MAZE, generator(5), Offset(0, 0.0))
    assert len(walk.actions) == 27 and follows(walk)
    assert revisits(walk.poses)
