"""Film a puck's way to a goal and back in whole chunks, homed before, between and after, its place known.

What a benchmark of memory needs: a way out and a way back of fixed lengths, with the arm in one and the
same pose before and after, so that the two pictures differ by what was to be remembered alone.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.metaworld_engine import Engine, Moment
from data_tools.collect.metaworld_film import (
    GAIN,
    PUCK,
    PUT_METRES,
    SAME_HAND_METRES,
    WAIT,
    Film,
    Recorder,
    draw_goal,
)
from data_tools.collect.robot_phases import Phase
from data_tools.collect.robot_script import OPEN, Leg, take_and_put
from data_tools.collect.runner import Skipped
from sfv.data.objects import Box, SceneObject

CHUNK_FRAMES = 8
BODY = "obj"
HOME_TEXT = "withdraw the hand"
HOME = (0.0, 0.5, 0.32)
"""Where the hand hides no place of the puck from the camera."""

PUCK_RGBA = (1.0, 0.85, 0.0, 1.0)
"""Nothing else in the scene is yellow; the puck's own red is the arm's."""

_HOMING_FRAMES = 40
_SEEN_PIXELS = 2.0
"""A puck of which less can be seen counts as hidden."""

Array = NDArray[np.float64]


def film_walk(
    engine: Engine, layout: int, every: int, rng: np.random.Generator, chunks: int
) -> tuple[Film, SceneObject]:
    """Film `chunks // 2 + 1` chunks out and the others back; who is early waits at home.

    Args:
        engine: of the task `pick-place`, opened for this kind of film alone: its puck is painted.
        layout: where the puck begins.
        every: control steps a frame.
        rng: draws the goal's place.
        chunks: odd.

    Raises:
        Skipped: the script needs more chunks, or the puck or the hand did not get where it should.
    """
    start = engine.lay_out(layout)
    first, goal = start.thing, draw_goal(start.thing, rng)
    engine.mark_goal(goal)
    engine.paint(BODY, PUCK_RGBA)
    home = Leg(HOME_TEXT, HOME, OPEN, _HOMING_FRAMES, 0.003)
    for _ in range(_HOMING_FRAMES * every):
        engine.step(np.array([*home.move(engine.seen[:3], GAIN), OPEN]))
    elbow = engine.elbow()
    stage = _Stage(Recorder(engine, every))
    stage.wait_until(CHUNK_FRAMES)
    words = ("puck", "carry the puck to the goal", "place the puck at the goal")
    stage.play([*take_and_put(PUCK, first, goal, *words), home])
    stage.wait_until((chunks // 2 + 1) * CHUNK_FRAMES)
    put = stage.recorder.moments[-1].thing
    words = ("puck", "carry the puck back", "place the puck back")
    stage.play(take_and_put(PUCK, put, first, *words))
    engine.pull_elbow(elbow)
    stage.play([home])
    settled = len(stage.recorder.frames)
    stage.wait_until((chunks - 1) * CHUNK_FRAMES)
    stage.wait_until(chunks * CHUNK_FRAMES)
    if np.linalg.norm(put - goal) > PUT_METRES:
        raise Skipped("the puck did not reach the goal")
    if np.linalg.norm(stage.recorder.moments[-1].thing - first) > PUT_METRES:
        raise Skipped("the puck did not come back")
    revisits = returned(stage.recorder.moments, settled)
    away = tuple((later, (chunks // 2 + 1) * CHUNK_FRAMES - 1) for _, later in revisits)
    return stage.recorder.film(stage.phases, revisits), stage.puck(away)


def returned(moments: Sequence[Moment], settled: int) -> list[tuple[int, int]]:
    """Pairs of the first frame and those from `settled` on: all at rest, the hand at home.

    Raises:
        Skipped: it is not.
    """
    pairs = [(0, later) for later in range(settled, len(moments))]
    for frame, later in pairs:
        if np.linalg.norm(moments[frame].hand - moments[later].hand) > SAME_HAND_METRES:
            raise Skipped("the hand did not come back")
    return pairs


class _Stage:
    """Plays legs so that every text takes whole chunks, and notes where the puck is seen."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.phases: list[Phase] = []
        self._seen: list[Array] = []

    def play(self, legs: Sequence[Leg]) -> None:
        """Play legs; the last of each text holds until its chunk is full.

        Raises:
            Skipped: the hand did not arrive.
        """
        for text, group in groupby(legs, lambda leg: leg.text):
            start = len(self.recorder.frames)
            for leg in group:
                for _ in range(leg.frames):
                    if leg.arrived(self._take(leg)):
                        break
                else:
                    if leg.tolerance > 0:
                        raise Skipped(f"the hand did not arrive ({text})")
            while len(self.recorder.frames) % CHUNK_FRAMES:
                self._take(leg)
            self._note(text, start)

    def wait_until(self, num_frames: int) -> None:
        """Stay at home until there are so many frames.

        Raises:
            Skipped: there are more already.
        """
        start = len(self.recorder.frames)
        if start > num_frames:
            raise Skipped("the script needs more chunks")
        while len(self.recorder.frames) < num_frames:
            self._take(Leg(WAIT, HOME, OPEN, 1, 0))
        self._note(WAIT, start)

    def puck(self, away: tuple[tuple[int, int], ...]) -> SceneObject:
        """What was seen of the puck; its colour is that of its full pixels while the hand rests.

        Args:
            away: pairs of a frame and one with the hand at the same place, the puck at another.
        """
        frames = np.array(self.recorder.frames[:CHUNK_FRAMES])
        full = np.array(self._seen[:CHUNK_FRAMES]) == 1
        if not full.any():
            raise Skipped("the puck is hidden at the start")
        red, green, blue = (int(c) for c in frames[full].mean(axis=0).round())
        places = [moment.thing.round(4).tolist() for moment in self.recorder.moments]
        return SceneObject(
            "puck",
            (red, green, blue),
            tuple(map(box_of, self._seen)),
            tuple((x, y, z) for x, y, z in places),
            away,
        )

    def _take(self, leg: Leg) -> Array:
        hand = self.recorder.take(leg).hand
        self._seen.append(self.recorder.engine.camera.share_of(BODY, self.recorder.engine.env))
        return hand

    def _note(self, text: str, start: int) -> None:
        """One action a chunk."""
        stops = range(start + CHUNK_FRAMES, len(self.recorder.frames) + 1, CHUNK_FRAMES)
        self.phases += [Phase(text, stop - CHUNK_FRAMES, stop) for stop in stops]


def box_of(share: Array) -> Box | None:
    """The box around the pixels that show a thing; None where too little of it is seen.

    Args:
        share: of each pixel that shows it, 0 to 1, `height width`.
    """
    if share.sum() < _SEEN_PIXELS:
        return None
    rows, columns = np.flatnonzero(share.any(axis=1)), np.flatnonzero(share.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
