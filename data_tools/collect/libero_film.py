"""Film a LIBERO task: a scripted hand takes the thing that the task names to where it names."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.libero_engine import Engine, Goal
from data_tools.collect.robot_phases import Phase, cut
from data_tools.collect.robot_script import OPEN, Grip, Leg, take_and_put
from data_tools.collect.runner import Skipped

Array = NDArray[np.float64]

STILL_FRAMES = 8
"""Frames at rest before and after the task."""

_GAIN = 12.0
_TURNS = (0.0, 0.0, 0.0)
_TRAVEL_METRES = 0.25
_BOWL_RIM_METRES = 0.048
"""A bowl is too wide for the gripper: it is held at its rim."""


@dataclass(frozen=True)
class Film:
    """A filmed episode.

    Args:
        frames: `t height width 3`.
        phases: what is done, covering every frame.
        hands: position of the hand at each frame, metres, `t 3`.
        things: position of what is moved, `t 3`.
        controls: commands of the steps before each frame, `t steps 7`.
        success: whether the task was done by each frame, `t`.
    """

    frames: NDArray[np.uint8]
    phases: list[Phase]
    hands: Array
    things: Array
    controls: Array
    success: list[bool]


class Recorder:
    """Steps the engine and keeps what there is to keep.

    Args:
        engine: laid out.
        goal: names what is followed.
        every: control steps a frame.
    """

    def __init__(self, engine: Engine, goal: Goal, every: int) -> None:
        self.engine, self.goal, self.every = engine, goal, every
        self.frames: list[NDArray[np.uint8]] = []
        self.hands: list[Array] = []
        self.things: list[Array] = []
        self.controls: list[Array] = []
        self.success: list[bool] = []

    def play(self, legs: list[Leg]) -> list[tuple[int, str]]:
        """Play legs one after the other; gives the frame and text at which each begins."""
        marks = []
        for leg in legs:
            marks.append((len(self.frames), leg.text))
            for _ in range(leg.frames):
                self.take(leg)
                if leg.arrived(self.hands[-1]):
                    break
        return marks

    def take(self, leg: Leg) -> None:
        """Film one frame."""
        used, done = [], False
        for _ in range(self.every):
            control = np.array([*leg.move(self.engine.hand, _GAIN), *_TURNS, leg.gripper])
            used.append(control)
            done = self.engine.step(control) or done
        self.frames.append(self.engine.picture())
        self.hands.append(self.engine.hand)
        self.things.append(self.engine.place_of(self.goal.thing))
        self.controls.append(np.array(used))
        self.success.append(done)


def film_task(engine: Engine, start: int, every: int) -> Film:
    """Film the script from one of the task's recorded starts.

    Raises:
        Skipped: the task asks for something else than moving one thing, or was not done.
    """
    goal = engine.goal
    if goal is None:
        raise Skipped("the task is more than to move one thing")
    engine.lay_out(start)
    x, y, z = engine.hand.tolist()
    rest = Leg("wait", (x, y, z), OPEN, STILL_FRAMES, 0)
    recorder = Recorder(engine, goal, every)
    marks = recorder.play([rest])
    thing, target = name_of(goal.thing), name_of(goal.target)
    source, place = engine.place_of(goal.thing), engine.place_of(goal.target)
    grip = grip_of(goal, float(max(source[2], place[2])) + _TRAVEL_METRES, every)
    put = np.array([place[0], place[1], place[2] + _drop(goal)])
    placing = f"place the {thing} {goal.relation} the {target}"
    words = (thing, f"carry the {thing} to the {target}", placing)
    marks += recorder.play(take_and_put(grip, source, put, *words))
    home = Leg("withdraw the hand", (x, y, z), OPEN, 40, 0.02)
    marks += recorder.play([home, rest])
    if not recorder.success[-1]:
        raise Skipped("the script did not do the task")
    return Film(
        np.array(recorder.frames),
        cut(marks, len(recorder.frames)),
        np.array(recorder.hands),
        np.array(recorder.things),
        np.array(recorder.controls),
        recorder.success,
    )


def grip_of(goal: Goal, above: float, every: int) -> Grip:
    """How the thing is taken.

    Args:
        goal: names the thing.
        above: height at which the hand travels, metres.
        every: control steps a frame.
    """
    aside = _BOWL_RIM_METRES if "bowl" in goal.thing else 0.0
    return Grip(
        above=above,
        offset=(0.0, aside, 0.0),
        close_frames=-(-12 // every),
        open_frames=-(-10 // every),
        leg_frames=-(-80 // every),
        exact=0.012,
    )


def name_of(body: str) -> str:
    """`alphabet_soup_1` is the alphabet soup."""
    words = re.sub(r"_\d+$", "", body).replace("_", " ")
    return words.removeprefix("akita ").removeprefix("wooden ")


def _drop(goal: Goal) -> float:
    """How high over the target the thing is let go, metres."""
    return 0.14 if goal.relation == "in" else 0.06
