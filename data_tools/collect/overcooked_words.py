"""What a cook does in words, from one state of the kitchen to the next. Pure and torch-free.

A segment ends with an event (something is picked up, added, put down or served) and is named after
it, so it holds the way there; longer pauses are "wait".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

State = dict[str, Any]

WAIT_FRAMES = 8
"""A cook who does nothing for so long waits; shorter pauses belong to what comes next."""

MIN_FRAMES = 2
"""Shorter segments join the next one."""

_NAMES = {"dish": "plate"}
_SOURCES = {"O": "an onion", "D": "a plate", "T": "a tomato"}


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` (exclusive) in words."""

    text: str
    start: int
    stop: int


def event(before: State, after: State, terrain: Sequence[str], cook: int) -> str | None:
    """What a cook's hands did between two states; None when they did nothing.

    Args:
        before: a state as `overcooked_export` writes it.
        after: the next state.
        terrain: the floor plan; P pot, O onions, D plates, S serving place, X counter.
        cook: 0 or 1.
    """
    was, now = (state["players"][cook]["holds"] for state in (before, after))
    held, holds = (thing["name"] if thing else None for thing in (was, now))
    if held == holds:
        return None
    x, y = (
        a + f for a, f in zip(*(after["players"][cook][k] for k in ("at", "facing")), strict=True)
    )
    tile = terrain[y][x]
    if held is None:
        if tile in _SOURCES:
            return f"pick up {_SOURCES[tile]}"
        return f"pick up the {_name(holds)} from the counter"
    if holds is None:
        if tile == "P":
            return f"add the {_name(held)} to the pot"
        if tile == "S":
            return f"serve the {_name(held)}"
        return f"place the {_name(held)} on the counter"
    return f"pick up the {_name(holds)} from the pot"


def segments(states: Sequence[State], terrain: Sequence[str], cook: int) -> list[Segment]:
    """Name the frames of a game as one cook's doing; frame j shows state j+1.

    Frames after the last event are left out: what they lead to is not known.
    """
    steps = list(pairwise(states))
    done = [event(before, after, terrain, cook) for before, after in steps]
    ends = [frame + 1 for frame, text in enumerate(done) if text is not None]
    pauses = _pauses([_same(before, after, cook) for before, after in steps])
    cuts = sorted({0, *ends, *(edge for pause in pauses for edge in pause)})
    found = []
    for start, stop in pairwise(cut for cut in cuts if cut <= max(ends, default=0)):
        next_event = next(text for text in done[start:] if text is not None)
        found.append(Segment("wait" if (start, stop) in pauses else next_event, start, stop))
    return _merged(found)


def _pauses(still: Sequence[bool]) -> set[tuple[int, int]]:
    """Longest runs of frames in which nothing is done, as (start, stop)."""
    found, start = set(), 0
    for same, run in groupby(still):
        stop = start + len(list(run))
        if same and stop - start >= WAIT_FRAMES:
            found.add((start, stop))
        start = stop
    return found


def _merged(given: Sequence[Segment]) -> list[Segment]:
    """Join segments that are too short to the next one, or to the one before at the end."""
    found: list[Segment] = []
    start = given[0].start if given else 0
    for segment in given:
        if segment.stop - start >= MIN_FRAMES:
            found.append(Segment(segment.text, start, segment.stop))
            start = segment.stop
    if given and found and start < given[-1].stop:
        found[-1] = Segment(found[-1].text, found[-1].start, given[-1].stop)
    return found


def _same(before: State, after: State, cook: int) -> bool:
    return bool(before["players"][cook] == after["players"][cook])


def _name(thing: str | None) -> str:
    return _NAMES.get(str(thing), str(thing))
