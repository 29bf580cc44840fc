"""Pose-exact random walks over a level: what to do in each chunk and where that leads.

A walk begins at a start pose; frame j is what is seen after frame j-1's pose was moved by the
action of frame j's own chunk. So undoing chunks in reverse order passes every earlier pose exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.doom_level import Array, Level
from sfv.data.schema import reverse_action

CHUNK_FRAMES = 8
TURN_DEGREES = 5.625
"""Turn a frame; a multiple of 360/65536, so that turning back is exact."""

_YAWS = 65536
"""Headings that the engine tells apart."""

STEP_UNITS = 12.0
"""Way a frame, map units (about 0.35 m)."""

MIN_VIEW = 72.0
"""Nearer walls straight ahead fill the picture; walks avoid to end a chunk like that."""

ACTIONS = ("walk forward", "walk backward", "turn left", "turn right", "step left", "step right")
_TURNS = {"turn left": 1, "turn right": -1}
_MOVES = {"walk forward": 0.0, "step left": 90.0, "walk backward": 180.0, "step right": 270.0}
_WEIGHTS = {"walk forward": 6.0, "walk backward": 1.0, "step left": 1.0, "step right": 1.0}
_TURN_WEIGHT = 1.0
UNDO_CHANCE = 0.15
_ROUND_CHANCE = 0.04
_MAX_UNDO = 6


@dataclass(frozen=True)
class Pose:
    """Where the eye stands on the floor plan: map units and degrees, counter-clockwise."""

    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Walk:
    """One action a chunk and one pose a frame (before the engine adds the floor's height).

    Args:
        actions: one a chunk.
        poses: one a frame.
        notes: what else is known of each action, for its `raw`; empty where there is nothing.
    """

    actions: tuple[str, ...]
    poses: tuple[Pose, ...]
    notes: tuple[Mapping[str, float] | None, ...] = ()


class NoWay(Exception):
    """No walk was found from this start; try another start."""


class NoRoomBeside(NoWay):
    """A wall or a thing stands beside this way; try another one."""


def move(pose: Pose, action: str) -> list[Pose]:
    """The poses of the chunk's frames when `action` starts from `pose`."""
    frames = range(1, CHUNK_FRAMES + 1)
    if action in _TURNS:
        turn = _TURNS[action] * TURN_DEGREES
        return [Pose(pose.x, pose.y, (pose.yaw + turn * i) % 360) for i in frames]
    heading = np.radians(pose.yaw + _MOVES[action])
    dx, dy = STEP_UNITS * np.cos(heading), STEP_UNITS * np.sin(heading)
    return [Pose(pose.x + float(dx) * i, pose.y + float(dy) * i, pose.yaw) for i in frames]


def explore(
    level: Level,
    places: Array,
    rng: np.random.Generator,
    num_chunks: int,
    actions: Sequence[str],
    undo: float = UNDO_CHANCE,
) -> Walk:
    """A random walk that prefers open views.

    Args:
        level: the level's geometry.
        places: where it may start.
        rng: every draw comes from here.
        num_chunks: length.
        actions: allowed actions, a subset of `ACTIONS`.
        undo: chance before each chunk to take back the last ones one by one; now and then it turns
            once around, too, so that places come back that have left the context. 0: neither.

    Raises:
        NoWay: the start has no room.
    """
    start = find_start(level, places, rng)
    done: list[str] = []
    poses: list[Pose] = []
    plan: list[str] = []
    while len(done) < num_chunks:
        here = poses[-1] if poses else start
        if undo and not plan:
            plan = _memory_plan(done, rng, undo)
        action = plan.pop(0) if plan else _choose(level, here, done, rng, actions)
        done.append(action)
        poses += move(here, action)
    return Walk(tuple(done), tuple(poses))


def there_and_back(
    level: Level, places: Array, rng: np.random.Generator, num_chunks: int, actions: Sequence[str]
) -> Walk:
    """Explore for n+1 chunks, then come back by the n reverse actions; `num_chunks` = 2n+1."""
    if num_chunks < 3 or num_chunks % 2 == 0:
        raise ValueError(
            f"a return walk has n+1 chunks out and n back: chunks {num_chunks} has to be odd, >= 3"
        )
    out = explore(level, places, rng, num_chunks // 2 + 1, actions, undo=0)
    back = tuple(reverse_action(action) for action in reversed(out.actions[1:]))
    returning = out.poses[-2 : CHUNK_FRAMES - 2 : -1]
    return Walk(out.actions + back, out.poses + returning)


def revisits(poses: Sequence[Pose]) -> list[tuple[int, int]]:
    """Pairs (first frame, later frame) at the same pose; the frame in between has left it."""
    first: dict[tuple[int, int, int], int] = {}
    pairs = []
    for frame, pose in enumerate(poses):
        key = (round(pose.x), round(pose.y), round(pose.yaw * _YAWS / 360) % _YAWS)
        earlier = first.setdefault(key, frame)
        if earlier < frame:
            pairs.append((earlier, frame))
    return pairs


def find_start(level: Level, places: Array, rng: np.random.Generator) -> Pose:
    """Draw a pose with an open view.

    Raises:
        NoWay: there is none nearby.
    """
    for _ in range(20):
        x, y = places[rng.integers(len(places))]
        yaw = float(rng.integers(64)) * TURN_DEGREES
        if level.view(np.array([x, y]), yaw) >= 3 * MIN_VIEW:
            return Pose(float(x), float(y), yaw)
    raise NoWay("no start with an open view")


def _memory_plan(done: list[str], rng: np.random.Generator, undo: float) -> list[str]:
    """Sometimes: reverse actions of the last chunks, or the eight turns of a full circle."""
    draw = rng.random()
    if len(done) >= 2 and draw < undo:
        count = int(rng.integers(1, min(_MAX_UNDO, len(done)) + 1))
        return [reverse_action(action) for action in reversed(done[-count:])]
    if draw > 1 - _ROUND_CHANCE:
        return [("turn left", "turn right")[int(rng.integers(2))]] * 8
    return []


def _choose(
    level: Level, here: Pose, done: list[str], rng: np.random.Generator, actions: Sequence[str]
) -> str:
    weights = [_weight(level, here, action, done) for action in actions]
    total = sum(weights)
    if total == 0:
        raise NoWay(f"no action leads on from {here}")
    return actions[int(rng.choice(len(actions), p=np.array(weights) / total))]


def _weight(level: Level, here: Pose, action: str, done: list[str]) -> float:
    """How welcome an action is here; 0 when it hits a wall or takes the last action back."""
    if done and reverse_action(action) == done[-1]:
        return 0.0
    poses = move(here, action)
    end = poses[-1]
    view = level.view(np.array([end.x, end.y]), end.yaw)
    openness = min(view, 512.0) / 512.0 if view >= MIN_VIEW else 0.05
    if action in _TURNS:
        again = 1.5 if done and done[-1] == action else 1.0
        return _TURN_WEIGHT * again * openness
    points: NDArray[np.float64] = np.array([(pose.x, pose.y) for pose in poses])
    return _WEIGHTS[action] * openness if level.clear(points).all() else 0.0
