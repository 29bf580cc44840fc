"""From what a robot's hand and the things around it did, to phases in words. Pure and torch-free.

A phase begins where something can be seen to change: the gripper begins to close near the thing, the
thing leaves its place, rises, moves sideways, goes down again, or is let go.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.metaworld_tasks import Task

Array = NDArray[np.float64]

MOVED_METRES = 0.005
RISEN_METRES = 0.01
SIDEWAYS_METRES = 0.03
LOWERED_METRES = 0.03
AT_HAND_METRES = 0.2
"""A thing that moves with the hand farther away was not moved by it: it settles or swings."""

NEAR_METRES = 0.1
"""A gripper that closes nearer than this closes on the thing."""

MIN_FRAMES = 4
"""Shorter phases join the one before: four frames show nothing that a text could name."""


@dataclass(frozen=True)
class Track:
    """What happened, frame by frame.

    Args:
        thing: position of what is handled, metres, `t 3`.
        second: position of a second thing, `t 3`; zeros when there is none.
        closing: command to the gripper, -1 opens and 1 closes, `t`.
        near: distance of the hand from the thing, metres, `t`.
    """

    thing: Array
    second: Array
    closing: Array
    near: Array


@dataclass(frozen=True)
class Phase:
    """Frames `start` to `stop` (exclusive) in words."""

    text: str
    start: int
    stop: int


def phases(track: Track, task: Task) -> list[Phase]:
    """Name every frame of an episode.

    Args:
        track: at least one frame.
        task: gives the words.
    """
    num_frames = len(track.closing)
    marks = [(0, f"reach for the {task.thing}")]
    if task.kind == "reach":
        marks = [(0, task.act)]
    else:
        moved = first((_way(track.thing) > MOVED_METRES) & (track.near < AT_HAND_METRES), 0)
        if task.kind in ("carry", "tool"):
            marks += _grasp(track, task, moved)
        if task.kind == "carry":
            marks += _carry(track, task, moved)
        elif task.kind == "tool":
            marks += [(moved, task.place)]
            marks += [(first(_way(track.second) > MOVED_METRES, moved), task.act)]
        else:
            marks += [(moved, task.act)]
    return cut(marks, num_frames)


def first(holds: NDArray[np.bool_], start: int) -> int:
    """The first index from `start` on where `holds`; its length when there is none."""
    found = np.nonzero(holds[start:])[0]
    return start + int(found[0]) if len(found) else len(holds)


def cut(marks: Sequence[tuple[int, str]], num_frames: int) -> list[Phase]:
    """Turn phase beginnings into phases that cover every frame once.

    A phase that would be shorter than `MIN_FRAMES` joins the one before; the first one joins the
    next.

    Args:
        marks: (first frame, words) in the order of the phases; frames never go down.
        num_frames: of the episode; phases that begin there or later are left out.
    """
    begun = [(start, text) for start, text in marks if start < num_frames]
    stops = [start for start, _ in begun[1:]] + [num_frames]
    found: list[Phase] = []
    for (start, text), stop in zip(begun, stops, strict=True):
        if stop - start < MIN_FRAMES and found:
            found[-1] = Phase(found[-1].text, found[-1].start, stop)
        elif stop > start and found and found[-1].text == text:
            found[-1] = Phase(text, found[-1].start, stop)
        elif stop > start:
            found.append(Phase(text, start, stop))
    if len(found) > 1 and found[0].stop < MIN_FRAMES:
        found = [Phase(found[1].text, 0, found[1].stop), *found[2:]]
    return found


def _grasp(track: Track, task: Task, moved: int) -> list[tuple[int, str]]:
    """The gripper begins to close beside the thing, before the thing leaves its place."""
    closes = first((track.closing > 0) & (track.near < NEAR_METRES), 0)
    return [(closes, f"grasp the {task.thing}")] if closes < moved else []


def _carry(track: Track, task: Task, moved: int) -> list[tuple[int, str]]:
    """Lift, carry, place and release."""
    height = track.thing[:, 2] - track.thing[0, 2]
    risen = first(height > RISEN_METRES, moved)
    if risen == len(height):
        return [(moved, task.act)]
    aside = np.linalg.norm(track.thing[:, :2] - track.thing[risen, :2], axis=1)
    carried = first(aside > SIDEWAYS_METRES, risen)
    marks = [(risen, f"lift the {task.thing}" if task.place else task.act), (carried, task.act)]
    lowered = _lowered(height)
    if task.place and lowered >= carried:
        marks.append((lowered, task.place))
    released = first(track.closing <= 0, max(marks[-1][0], risen))
    return [*marks, (released, f"release the {task.thing}")]


def _lowered(height: Array) -> int:
    """The frame from which a thing goes down for good; -1 when it stays up."""
    if height[-1] > height.max() - LOWERED_METRES:
        return -1
    high = height > height.max() - RISEN_METRES
    return len(height) - 1 - int(np.argmax(high[::-1]))


def _way(positions: Array) -> Array:
    """Distance of each position from the first."""
    return np.asarray(np.linalg.norm(positions - positions[0], axis=1))
