"""Things in the pictures of an episode whose places are known: a puck on a table, a block in a world.

Torch-free. `sfv.data.schema` holds them in `EpisodeMeta.objects` and refuses what `fault_in` finds.
"""

import sys
from dataclasses import dataclass
from typing import Any

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first ones outside."""

Place = tuple[float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """A thing, frame by frame.

    Args:
        name: what it is, e.g. `puck`.
        colour: red, green, blue (0 to 255) as it looks in the pictures, where nothing else has its
            colour: it can be found by it. None: it cannot.
        boxes: where it is in each frame, cut at the picture's edges; None where it is out of view or
            hidden.
        places: where its middle is in each frame, in the world's units; None where that is not
            known, or it does not exist.
        without: pairs (frame, other frame) of one view; the thing is there in the first, not in the
            other.
    """

    name: str
    colour: tuple[int, int, int] | None
    boxes: tuple[Box | None, ...]
    places: tuple[Place | None, ...]
    without: tuple[tuple[int, int], ...] = ()


Camera = tuple[tuple[float, float, float, float], ...]
"""Three rows of a projection matrix P: P (x, y, z, 1) is proportional to (column, row, 1), in pixels from
the picture's top left corner."""


def fault_in(
    thing: Any, num_frames: int, height: int, width: int
) -> tuple[str, object, str] | None:
    """What is wrong with a thing: the field, what was given, what is allowed; None where all is well."""
    if not isinstance(thing.name, str) or not thing.name.strip():
        return "name", thing.name, "a text"
    colour = thing.colour
    if colour is not None and not (len(colour) == 3 and all(_whole(c, 255) for c in colour)):
        return "colour", colour, "three whole numbers from 0 to 255, or null"
    for name in ("boxes", "places"):
        count = len(getattr(thing, name))
        if count != num_frames:
            return name, f"{count} entries", f"one a frame ({num_frames})"
    for frame, box in enumerate(thing.boxes):
        if box is not None and not _is_box(box, height, width):
            rule = f"[left, top, right, bottom] inside {width}x{height} pixels, not empty, or null"
            return f"boxes[{frame}]", box, rule
    for frame, place in enumerate(thing.places):
        if place is not None and not (len(place) == 3 and all(map(is_number, place))):
            return f"places[{frame}]", place, "three finite numbers x, y, z, or null"
    for i, pair in enumerate(thing.without):
        if len(pair) != 2 or not all(_whole(frame, num_frames - 1) for frame in pair):
            return f"without[{i}]", pair, f"two frames, each from 0 to {num_frames - 1}"
    return None


def is_camera(camera: Any) -> bool:
    """Whether it is three rows of four finite numbers."""
    return len(camera) == 3 and all(len(row) == 4 and all(map(is_number, row)) for row in camera)


def _is_box(box: Any, height: int, width: int) -> bool:
    if len(box) != 4 or not all(_whole(edge, max(height, width)) for edge in box):
        return False
    left, top, right, bottom = box
    return bool(left < right <= width and top < bottom <= height)


def _whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def is_number(value: object) -> bool:
    """Whether it is a finite number; JSON also knows whole numbers beyond every float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max
