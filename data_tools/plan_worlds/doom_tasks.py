"""Navigation tasks in held-out Doom levels: to landmark A, to landmark B, and back on the same way."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from data_tools.collect.doom import TEST_MAPS
from data_tools.collect.doom_film import MIN_BRIGHTNESS, landmark
from data_tools.collect.doom_level import Level, standing_places
from data_tools.collect.doom_walks import (
    CHUNK_FRAMES,
    STEP_UNITS,
    TURN_DEGREES,
    NoWay,
    Pose,
    Walk,
    explore,
)
from data_tools.plan_worlds.doom import DoomWorld
from sfv.data.schema import reverse_action
from sfv.metrics.suite_common import videos_hash
from sfv.planning.environment import Seen, video_of
from sfv.planning.tasks import SubGoal, Task, TaskSet, Waypoint
from sfv.rng import seed_of

VERSION = 1
TOLERANCE = STEP_UNITS * CHUNK_FRAMES / 2
"""Half a chunk of walking, map units."""

GIVEN = "walk forward"
_OUT = ("walk forward", "turn left", "turn right")
_APART = 150.0
"""Least distance between origin, A and B, map units; less on ways that are too short for it."""
_DRAWS = 600
_WITH_LANDMARKS = 60
"""So many draws ask for a landmark before A and before B; some levels have few things with a name."""

_EXACT = 0.01


@dataclass(frozen=True)
class Route:
    """A way out: the given first chunk, then half the others to A and half to B."""

    start: Pose
    walk: Walk
    landmarks: tuple[str | None, str | None]

    def place(self, k: int) -> Pose:
        """Where it stands after the given chunk and k more."""
        return self.walk.poses[(k + 1) * CHUNK_FRAMES - 1]


def doom_tasks(name: str, num: int, seed: int, size: int, chunks: int) -> TaskSet:
    """Draw tasks, level after level.

    Raises:
        ValueError: a level has no such route.
    """
    world = DoomWorld(size)
    try:
        tasks = tuple(_task(world, name, i, seed, chunks) for i in range(num))
    finally:
        world.close()
    return TaskSet(name, VERSION, world.name, world.unit, TOLERANCE, CHUNK_FRAMES, size, tasks)


def _task(world: DoomWorld, name: str, index: int, seed: int, chunks: int) -> Task:
    level_name = TEST_MAPS[index % len(TEST_MAPS)]
    level = world.level(level_name)
    places = standing_places(level)
    for attempt in range(_DRAWS):
        rng = np.random.default_rng(seed_of(seed, "plan-doom", chunks, index, attempt))
        try:
            walk = explore(level, places, rng, chunks + 1, _OUT, undo=0)
        except NoWay:
            continue
        route = _route(walk, level, chunks, named=attempt < _WITH_LANDMARKS)
        task = route and _performed(world, route, f"{name}-{index:02d}", level_name, seed, chunks)
        if task:
            return task
    raise ValueError(f"{level_name}: no route of {chunks} chunks in {_DRAWS} draws")


def _route(walk: Walk, level: Level, chunks: int, named: bool) -> Route | None:
    """A walk as a route; None where it does not serve as one."""
    if walk.actions[0] != GIVEN:
        return None
    first = walk.poses[0]
    angle = np.radians(first.yaw)
    start = Pose(
        round(first.x - STEP_UNITS * float(np.cos(angle)), 3),
        round(first.y - STEP_UNITS * float(np.sin(angle)), 3),
        first.yaw,
    )
    ends = [walk.poses[(k + 1) * CHUNK_FRAMES - 1] for k in (0, chunks // 2, chunks)]
    gaps = [np.hypot(one.x - two.x, one.y - two.y) for one, two in combinations(ends, 2)]
    words = landmark(ends[1], level), landmark(ends[2], level)
    if min(gaps) < min(_APART, 0.75 * STEP_UNITS * CHUNK_FRAMES * chunks / 2) or (
        named and None in words
    ):
        return None
    return Route(start, walk, words)


def _performed(
    world: DoomWorld, route: Route, task_id: str, level: str, seed: int, chunks: int
) -> Task | None:
    """Walk it, out and back; None where a lift or the dark is in the way."""
    setup = {
        "map": level,
        "seed": seed,
        "x": route.start.x,
        "y": route.start.y,
        "yaw": route.start.yaw,
    }
    out = list(route.walk.actions[1:])
    back = [reverse_action(action) for action in reversed(out)]
    world.begin(setup)
    seen = [one for action in (GIVEN, *out, *back) for one in world.perform(action)]
    reached = [seen[(k + 1) * CHUNK_FRAMES - 1].position for k in range(2 * chunks + 1)]
    wanted = [route.place(k) for k in (*range(chunks + 1), *range(chunks - 1, -1, -1))]
    off = [np.hypot(p[0] - w.x, p[1] - w.y) for p, w in zip(reached, wanted, strict=True)]
    video = video_of(seen)
    if max(off) > _EXACT or float(video.mean()) * 255 < MIN_BRIGHTNESS:
        return None
    return Task(
        id=task_id,
        group=task_id,
        text=_text(route, chunks),
        setup=setup,
        given=(GIVEN,),
        script=_script(out, back),
        waypoints=_waypoints(seen, chunks),
        frames_sha256=videos_hash([video]),
    )


def _names(chunks: int) -> dict[int, str]:
    """Way points by the number of chunks after which they are reached."""
    names = {chunks // 2: "a", chunks: "b"}
    for k in range(chunks - 1, -1, -1):
        names[2 * chunks - k] = {0: "origin", chunks // 2: "a_again"}.get(k, f"place_{k}")
    return names


def _script(out: list[str], back: list[str]) -> tuple[SubGoal, ...]:
    chunks, names = len(out), _names(len(out))
    there = [SubGoal(action, None, names.get(k + 1, ""), False) for k, action in enumerate(out)]
    here = [
        SubGoal(action, chunks - 1 - k, names[chunks + k + 1], True)
        for k, action in enumerate(back)
    ]
    return (*there, *here)


def _waypoints(seen: list[Seen], chunks: int) -> tuple[Waypoint, ...]:
    return tuple(
        Waypoint(
            name,
            seen[(k + 1) * CHUNK_FRAMES - 1].position,
            earlier=k > chunks,
            shown=not name.startswith("place_"),
        )
        for k, name in sorted(_names(chunks).items())
    )


def _text(route: Route, chunks: int) -> str:
    """The task in words, with what a planner without eyes has to know."""
    origin = route.place(0)

    def where(pose: Pose) -> str:
        yaw = np.radians(origin.yaw)
        dx, dy = pose.x - origin.x, pose.y - origin.y
        ahead = round(float(dx * np.cos(yaw) + dy * np.sin(yaw)))
        left = round(float(dy * np.cos(yaw) - dx * np.sin(yaw)))
        return f"{ahead} units ahead of the start and {left} units to its left"

    step, turn = STEP_UNITS * CHUNK_FRAMES, TURN_DEGREES * CHUNK_FRAMES
    a, b = route.place(chunks // 2), route.place(chunks)
    return (
        f"Go to A{_before(route.landmarks[0])} ({where(a)}), then to B{_before(route.landmarks[1])} "
        f"({where(b)}), then back past A (way point a_again) to the origin, on the "
        f"same way and looking the same way. One action walks {step:g} units or turns {turn:g} degrees."
    )


def _before(thing: str | None) -> str:
    return "" if thing is None else f", before the {thing}"
