"""Manipulation tasks in Meta-World: a puck to the goal area, then back to where it was."""

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.metaworld_film import PUT_METRES, RETURN_TASK, draw_goal
from data_tools.plan_worlds.metaworld import MetaWorld
from sfv.planning.environment import Seen
from sfv.planning.tasks import SubGoal, Task, TaskSet, Waypoint
from sfv.rng import seed_of

VERSION = 1
GIVEN = "wait"
_LIFT = ("grasp the puck", "lift the puck")
OUT = ("reach for the puck", *_LIFT, "carry the puck to the goal", "place the puck at the goal")
BACK = ("reach for the puck", *_LIFT, "carry the puck back", "place the puck back")
RELEASE = ("release the puck", "raise the hand")
HOME = "withdraw the hand"
_MOST_CHUNKS = 6
_DRAWS = 20
_AT_ONCE = ("grasp the puck", "release the puck")
"""One chunk, whether or not the hand is already where it should be."""


def metaworld_tasks(name: str, num: int, seed: int, size: int, chunks: int) -> TaskSet:
    """Draw layouts and goals; `chunks` is of no use here: the script takes as many as it needs.

    Raises:
        ValueError: no layout was found that the script solves.
    """
    del chunks
    world = MetaWorld(size)
    try:
        tasks = tuple(_task(world, f"{name}-{i:02d}", i, seed) for i in range(num))
    finally:
        world.close()
    frames = world.chunk_frames
    return TaskSet(name, VERSION, world.name, world.unit, PUT_METRES, frames, size, tasks)


def _task(world: MetaWorld, task_id: str, index: int, seed: int) -> Task:
    for attempt in range(_DRAWS):
        keys = ("plan-metaworld", index, attempt)
        layout = seed_of(seed, "plan-layout", *keys) % 2**32
        first = np.array(world.engine.lay_out(layout).thing)
        goal = draw_goal(first, np.random.default_rng(seed_of(seed, "plan-goal", *keys)))
        setup = {"layout": layout, "goal": [round(float(goal[0]), 4), round(float(goal[1]), 4)]}
        task = _performed(world, task_id, setup)
        if task is not None:
            return task
    raise ValueError(f"{task_id}: the script solved none of {_DRAWS} layouts")


def _performed(world: MetaWorld, task_id: str, setup: dict[str, object]) -> Task | None:
    """Play it; None where the puck does not come to the goal, or not back."""
    start = world.begin(setup)
    world.perform(GIVEN)
    goal: NDArray[np.float64] = np.array([*np.array(setup["goal"], dtype=np.float64), 0.0])
    goal[2] = start.position[2]
    script: list[SubGoal] = []
    there = _play(world, (*OUT, *RELEASE), "goal", False, script)
    here = _play(world, (*BACK, *RELEASE, HOME), "start", True, script)
    points = [
        Waypoint("goal", tuple(goal.round(5).tolist()), earlier=False, shown=True),
        Waypoint("start", start.position, earlier=True, shown=True),
    ]
    ends = (there, here)
    gaps = [world.distance(s.position, p.position) for s, p in zip(ends, points, strict=True)]
    if max(gaps) > PUT_METRES:
        return None
    text = (
        "Carry the puck to the goal (way point goal), then carry it back to where it was (way point "
        "start). Reaching, lifting, carrying and placing may take several chunks of one action each."
    )
    return Task(task_id, RETURN_TASK, text, setup, (GIVEN,), tuple(script), tuple(points))


def _play(
    world: MetaWorld, actions: tuple[str, ...], waypoint: str, back: bool, script: list[SubGoal]
) -> Seen:
    """Repeat every action until it changes nothing; the last sub-goal names the way point."""
    seen: list[Seen] = []
    for action in actions:
        for _ in range(_MOST_CHUNKS):
            seen = world.perform(action)
            script.append(SubGoal(action, None, "", back))
            if action in _AT_ONCE or world.arrived(action):
                break
    script[-1] = SubGoal(script[-1].action, None, waypoint, back)
    return seen[-1]
