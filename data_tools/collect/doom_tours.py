"""Walks that test memory: around oneself, out and back face forward, around a rectangle or a block.

Each begins with one chunk of "walk forward" as context; the poses that come again are exact.
"""

from collections import deque
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from data_tools.collect.doom_level import Array, Level
from data_tools.collect.doom_maze import CELL_UNITS, Cell, Maze, cells, centre
from data_tools.collect.doom_walks import (
    ACTIONS,
    CHUNK_FRAMES,
    STEP_UNITS,
    TURN_DEGREES,
    NoRoomBeside,
    NoWay,
    Pose,
    Walk,
    explore,
    find_start,
    move,
    there_and_back,
)
from sfv.data.schema import reverse_action

TURN_QUANTUM = 360 / 512
"""Degrees; its eighth is a multiple of 360/65536, so that the engine turns by it exactly."""

_TURNS = ("turn left", "turn right")
_HALF_TURN = round(180 / TURN_DEGREES) // CHUNK_FRAMES
_QUARTER_TURN = round(90 / TURN_DEGREES) // CHUNK_FRAMES
_CELL_CHUNKS = round(CELL_UNITS / STEP_UNITS) // CHUNK_FRAMES
_HEADINGS = {(1, 0): 0, (0, 1): 1, (-1, 0): 2, (0, -1): 3}
_TRIES = 20
_RECTANGLES = 60
_MAX_SIDE = 4


def turn_around(level: Level, places: Array, rng: np.random.Generator, num_chunks: int) -> Walk:
    """Walk one chunk, then turn on the spot, 45 degrees a chunk; 8 chunks are once around."""
    turn = _TURNS[int(rng.integers(2))]
    for _ in range(_TRIES):
        walk = walk_along(
            find_start(level, places, rng), ["walk forward", *[turn] * (num_chunks - 1)]
        )
        if _clear(level, walk):
            return walk
    raise NoWay("no start with room ahead")


def round_trip(level: Level, places: Array, rng: np.random.Generator, num_chunks: int) -> Walk:
    """Walk out, turn half around, walk back face forward, turn half around.

    Args:
        level: the level's geometry.
        places: where it may start.
        rng: every draw comes from here.
        num_chunks: 2n + 9: n + 1 out, 4 of turning, n back, 4 of turning.

    Raises:
        ValueError: no such n.
        NoWay: the start has no room.
    """
    if num_chunks < 11 or num_chunks % 2 == 0:
        raise ValueError(f"a round trip has 2n+9 chunks: {num_chunks} has to be odd, >= 11")
    count = (num_chunks - 1) // 2 - _HALF_TURN
    out = explore(level, places, rng, count + 1, ("walk forward", *_TURNS), undo=0)
    turn = _TURNS[int(rng.integers(2))]
    there = walk_along(out.poses[-1], [turn] * _HALF_TURN)
    actions = [a if a == "walk forward" else reverse_action(a) for a in out.actions[:0:-1]]
    poses = tuple(
        Pose(pose.x, pose.y, (pose.yaw + 180) % 360)
        for pose in out.poses[-2 : CHUNK_FRAMES - 2 : -1]
    )
    here = walk_along(poses[-1], [turn] * _HALF_TURN)
    return Walk(
        out.actions + there.actions + tuple(actions) + here.actions,
        out.poses + there.poses + poses + here.poses,
    )


@dataclass(frozen=True)
class Offset:
    """How far beside the way out the way back is.

    Args:
        shift: to the left of the way out's heading, map units; negative: to the right.
        turn: counter-clockwise from that heading, degrees, a multiple of `TURN_QUANTUM`.
    """

    shift: int
    turn: float


def draw_offset(
    rng: np.random.Generator, shift: tuple[int, int], turn: tuple[float, float]
) -> Offset:
    """Draw a shift, a turn or both (a third of the walks each), to either side.

    Args:
        rng: every draw comes from here.
        shift: least and greatest, map units; (0, 0): only turns are drawn.
        turn: least and greatest, degrees; (0, 0): only shifts are drawn.
    """
    wanted = int(rng.integers(3))
    sides = [1 - 2 * int(side) for side in rng.integers(2, size=2)]
    units = int(rng.integers(shift[0], shift[1] + 1))
    quanta = int(rng.integers(*turn_range(turn)))
    if shift[1] and turn[1]:
        units, quanta = units * (wanted != 1), quanta * (wanted != 0)
    return Offset(sides[0] * units, sides[1] * quanta * TURN_QUANTUM)


def turn_range(turn: tuple[float, float]) -> tuple[int, int]:
    """Multiples of `TURN_QUANTUM` between two angles: the first, and one past the last."""
    return ceil(turn[0] / TURN_QUANTUM), floor(turn[1] / TURN_QUANTUM) + 1


def beside(
    level: Level, places: Array, rng: np.random.Generator, num_chunks: int, offset: Offset
) -> Walk:
    """Walk out as `there_and_back` does, and back on a lane beside the way out.

    Frame k of the way back stands `offset` from the frame of the way out that it passes, seen from
    that frame; the first chunk back moves over, an eighth a frame. Shifts are whole map units along
    each axis, as the engine places; the actions are those of `there_and_back`.

    Raises:
        ValueError: no such length.
        NoWay: the start has no room, or (`NoRoomBeside`) the way back has none.
    """
    walk = there_and_back(level, places, rng, num_chunks, ACTIONS[:4])
    out = CHUNK_FRAMES * (num_chunks // 2 + 1)
    back = tuple(
        _aside(pose, offset, min(1.0, i / CHUNK_FRAMES))
        for i, pose in enumerate(walk.poses[out:], 1)
    )
    if not level.clear(np.array([(pose.x, pose.y) for pose in back])).all():
        raise NoRoomBeside("a wall or a thing is less than the clearance away from the way back")
    note = {"shift": offset.shift, "turn": offset.turn}
    notes = (None,) * (num_chunks // 2 + 1) + (note,) * (num_chunks // 2)
    return Walk(walk.actions, walk.poses[:out] + back, notes)


def _aside(pose: Pose, offset: Offset, share: float) -> Pose:
    heading, way = np.radians(pose.yaw), offset.shift * share
    x = round(pose.x) - round(way * float(np.sin(heading)))
    y = round(pose.y) + round(way * float(np.cos(heading)))
    return Pose(float(x), float(y), (pose.yaw + offset.turn * share) % 360)


def around_a_block(maze: Maze, rng: np.random.Generator, num_chunks: int) -> Walk:
    """Walk a way around in a maze, again and again until the chunks are used up.

    Raises:
        NoWay: no way around was found that is shorter than `num_chunks`.
    """
    for _ in range(_TRIES):
        ring = _ring(maze, rng)
        actions = _lap(ring) if ring else []
        if 0 < len(actions) < num_chunks:
            laps = (actions * (num_chunks // len(actions) + 1))[:num_chunks]
            x, y = centre(ring[0])
            return walk_along(Pose(float(x), float(y), 90.0 * _heading(ring[0], ring[1])), laps)
    raise NoWay("no short way around")


def around_a_rectangle(
    level: Level, places: Array, rng: np.random.Generator, num_chunks: int
) -> Walk:
    """Walk around a rectangle of free floor, again and again until the chunks are used up.

    Args:
        level: the level's geometry.
        places: where it may start.
        rng: every draw comes from here.
        num_chunks: at least 16; once around takes 12 to 24, and at most three quarters of them.

    Raises:
        NoWay: no rectangle was found that is free and short enough.
    """
    for _ in range(_RECTANGLES):
        start = find_start(level, places, rng)
        sides = [int(side) for side in rng.integers(1, _MAX_SIDE + 1, 2)]
        turn = _TURNS[int(rng.integers(2))]
        lap = [a for n in sides for a in ["walk forward"] * n + [turn] * _QUARTER_TURN] * 2
        if 4 * len(lap) <= 3 * num_chunks and _clear(level, once := walk_along(start, lap)):
            laps = (
                num_chunks // len(lap) + 1
            )  # the first lap's own poses again: exact to the last bit
            frames = num_chunks * CHUNK_FRAMES
            return Walk((once.actions * laps)[:num_chunks], (once.poses * laps)[:frames])
    raise NoWay("no free rectangle")


def walk_along(start: Pose, actions: list[str]) -> Walk:
    """Follow the actions from a start pose."""
    poses: list[Pose] = []
    for action in actions:
        poses += move(poses[-1] if poses else start, action)
    return Walk(tuple(actions), tuple(poses))


def _clear(level: Level, walk: Walk) -> bool:
    return bool(level.clear(np.array([(pose.x, pose.y) for pose in walk.poses])).all())


def _ring(maze: Maze, rng: np.random.Generator) -> list[Cell]:
    """A shortest way around through a random door, as its cells in order; empty without one."""
    every = cells()
    first = every[int(rng.integers(len(every)))]
    ahead = maze.neighbours(first)
    second = ahead[int(rng.integers(len(ahead)))]
    came_from: dict[Cell, Cell] = {second: second}
    queue = deque([second])
    while queue and first not in came_from:
        cell = queue.popleft()
        for other in maze.neighbours(cell):
            if other not in came_from and (cell, other) != (second, first):
                came_from[other] = cell
                queue.append(other)
    if first not in came_from:
        return []
    back = [first]
    while back[-1] != second:
        back.append(came_from[back[-1]])
    return [first, *reversed(back[1:])]


def _lap(ring: list[Cell]) -> list[str]:
    """Actions once around, from the middle of the first cell and back to its pose."""
    actions: list[str] = []
    for i, cell in enumerate(ring):
        ahead, beyond = ring[(i + 1) % len(ring)], ring[(i + 2) % len(ring)]
        turn = (_heading(ahead, beyond) - _heading(cell, ahead)) % 4
        actions += ["walk forward"] * _CELL_CHUNKS
        actions += [_TURNS[turn // 2]] * (_QUARTER_TURN if turn else 0)
    return actions


def _heading(cell: Cell, other: Cell) -> int:
    """Quarter turns from the east."""
    return _HEADINGS[other[0] - cell[0], other[1] - cell[1]]
