"""Film a Meta-World task: played by its scripted policy, or there and back by a scripted hand."""

import dataclasses
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.metaworld_engine import Engine, Moment
from data_tools.collect.metaworld_tasks import Task
from data_tools.collect.robot_phases import Phase, Track, cut, phases
from data_tools.collect.robot_script import OPEN, Grip, Leg, take_and_put
from data_tools.collect.runner import Skipped

Array = NDArray[np.float64]

STILL_FRAMES = 8
"""Frames at rest before and after: a model sees the scene before anything happens, things that were
laid out in the air come to rest, and the last frames of a return can be compared with the first."""

LIMIT_FRAMES = 150
WAIT = "wait"
RETURN_TASK = "pick-place"
SPARE_FRAMES = 30
"""Frames of homing the arm before a return episode, unfilmed: its elbow then comes back as well."""

GAIN = 10.0
PUCK = Grip(above=0.2, offset=(-0.005, 0.0, 0.03), close_frames=8, open_frames=5, leg_frames=40)
_GOAL_LOW, _GOAL_HIGH = (-0.2, 0.58), (0.2, 0.8)
_MIN_WAY = 0.15
PUT_METRES = 0.02
SAME_HAND_METRES = 0.005


@dataclass(frozen=True)
class Film:
    """A filmed episode.

    Args:
        frames: `t height width 3`.
        phases: what is done, covering every frame.
        moments: the state at each frame.
        controls: commands of the steps before each frame, `t steps 4`.
        revisits: pairs of frames with everything at the same place.
    """

    frames: NDArray[np.uint8]
    phases: list[Phase]
    moments: list[Moment]
    controls: Array
    revisits: list[tuple[int, int]]


class Recorder:
    """Steps the engine and keeps what there is to keep.

    Args:
        engine: laid out.
        every: control steps a frame.
    """

    def __init__(self, engine: Engine, every: int) -> None:
        self.engine, self.every = engine, every
        self.frames: list[NDArray[np.uint8]] = []
        self.moments: list[Moment] = []
        self.controls: list[Array] = []

    def take(self, leg: Leg | None) -> Moment:
        """Film one frame; None lets the task's own policy decide."""
        used = []
        for _ in range(self.every):
            control = self.engine.decide() if leg is None else self._control(leg)
            used.append(control)
            moment = self.engine.step(control)
        self.frames.append(self.engine.picture())
        self.moments.append(moment)
        self.controls.append(np.array(used))
        return moment

    def film(self, found: list[Phase], revisits: list[tuple[int, int]]) -> Film:
        return Film(np.array(self.frames), found, self.moments, np.array(self.controls), revisits)

    def _control(self, leg: Leg) -> Array:
        hand = self.engine.seen[:3]
        return np.array([*leg.move(hand, GAIN), leg.gripper])


def film_task(engine: Engine, task: Task, layout: int, every: int) -> Film:
    """Film the scripted policy from rest until a little after its success.

    Raises:
        Skipped: no success within LIMIT_FRAMES.
    """
    start = engine.lay_out(layout)
    recorder = Recorder(engine, every)
    rest = _still(start.hand)
    for _ in range(STILL_FRAMES):
        recorder.take(rest)
    while not recorder.take(None).success:
        if len(recorder.frames) == LIMIT_FRAMES:
            raise Skipped("the scripted policy did not succeed")
    for _ in range(STILL_FRAMES):
        recorder.take(None)
    return recorder.film(_named(recorder, task), [])


def film_return(
    engine: Engine, layout: int, every: int, rng: np.random.Generator, chunk_frames: int = 1
) -> Film:
    """Film the puck's way to the goal and back to where it was, and the hand's way home.

    Args:
        engine: of RETURN_TASK.
        layout: where the puck begins.
        every: control steps a frame.
        rng: draws the goal's place.
        chunk_frames: every phase lasts a multiple of so many frames: the hand waits where it arrived.

    Raises:
        Skipped: the puck did not reach the goal, or did not come back.
    """
    start = engine.lay_out(layout)
    first, goal = start.thing, draw_goal(start.thing, rng)
    engine.mark_goal(goal)
    rest = _still(start.hand)
    for _ in range(SPARE_FRAMES * every):
        engine.step(np.array([*rest.move(engine.seen[:3], GAIN), OPEN]))
    elbow = engine.elbow()
    recorder = Recorder(engine, every)
    words = ("puck", "carry the puck to the goal", "place the puck at the goal")
    legs = [rest, *take_and_put(PUCK, first, goal, *words)]
    marks = _play(recorder, legs, chunk_frames)
    put = recorder.moments[-1].thing
    words = ("puck", "carry the puck back", "place the puck back")
    marks += _play(recorder, take_and_put(PUCK, put, first, *words), chunk_frames)
    engine.pull_elbow(elbow)
    home = dataclasses.replace(rest, text="withdraw the hand", frames=40, tolerance=0.003)
    marks += _play(recorder, [home, rest], chunk_frames)
    if np.linalg.norm(put - goal) > PUT_METRES:
        raise Skipped("the puck did not reach the goal")
    if np.linalg.norm(recorder.moments[-1].thing - first) > PUT_METRES:
        raise Skipped("the puck did not come back")
    return recorder.film(cut(marks, len(recorder.frames)), _returned(recorder.moments))


def _returned(moments: list[Moment]) -> list[tuple[int, int]]:
    """Pairs of the first frames at rest and the last ones, where the hand is back.

    Raises:
        Skipped: it is not.
    """
    last = len(moments) - STILL_FRAMES
    pairs = [(frame, last + frame) for frame in range(STILL_FRAMES)]
    for frame, later in pairs:
        if np.linalg.norm(moments[frame].hand - moments[later].hand) > SAME_HAND_METRES:
            raise Skipped("the hand did not come back")
    return pairs


def _play(recorder: Recorder, legs: list[Leg], chunk_frames: int) -> list[tuple[int, str]]:
    """Play legs one after the other; gives the frame and text at which each begins.

    The last leg of each text holds until its chunk is full. Without chunks every leg is marked, so that a
    way of less than `MIN_FRAMES` above the puck counts to the phase before.
    """
    marks = []
    for text, group in groupby(legs, lambda leg: leg.text):
        for i, leg in enumerate(group):
            if i == 0 or chunk_frames == 1:
                marks.append((len(recorder.frames), text))
            for _ in range(leg.frames):
                if leg.arrived(recorder.take(leg).hand):
                    break
            else:
                if leg.tolerance > 0:
                    raise Skipped(f"the hand did not arrive ({text})")
        while len(recorder.frames) % chunk_frames:
            recorder.take(leg)
    return marks


def _still(home: Array) -> Leg:
    x, y, z = home.tolist()
    return Leg(WAIT, (x, y, z), OPEN, STILL_FRAMES, 0)


def draw_goal(first: Array, rng: np.random.Generator) -> Array:
    """A place on the table, not too near to where the puck is."""
    while True:
        x, y = rng.uniform(_GOAL_LOW, _GOAL_HIGH)
        if np.hypot(x - first[0], y - first[1]) >= _MIN_WAY:
            return np.array([x, y, first[2]])


def _named(recorder: Recorder, task: Task) -> list[Phase]:
    """Name the frames of a policy's episode."""
    acting = recorder.moments[STILL_FRAMES:]
    track = Track(
        thing=np.array([moment.thing for moment in acting]),
        second=np.array([moment.second for moment in acting]),
        closing=np.array([used[-1, 3] for used in recorder.controls[STILL_FRAMES:]]),
        near=np.array([np.linalg.norm(moment.hand - moment.thing) for moment in acting]),
    )
    named = [
        Phase(phase.text, phase.start + STILL_FRAMES, phase.stop + STILL_FRAMES)
        for phase in phases(track, task)
    ]
    return [Phase(WAIT, 0, STILL_FRAMES), *named]
