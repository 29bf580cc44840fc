"""Walks that test memory: around oneself, out and back face forward, around a rectangle or a block.

Each begins with one chunk of "walk forward" as context; the poses that come again are exact.
"""

from collections import deque

import numpy as np

from data_tools.collect.doom_level import Array, Level
from data_tools.collect.doom_maze import CELL_UNITS, Cell, Maze, cells, centre
from data_tools.collect.doom_walks import (
    CHUNK_FRAMES,
    STEP_UNITS,
    TURN_DEGREES,
    NoWay,
    Pose,
    Walk,
    explore,
    find_start,
    move,
)
from sfv.data.schema import reverse_action

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
    out = explore(level, places, rng, count + 1, ("walk forward", *_TURNS), undo=False)
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
