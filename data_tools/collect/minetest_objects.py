"""Where a block that was placed (or the hole that was dug) stands in each picture of a Minetest walk."""

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.minetest_engine import FOV_DEGREES, MARGIN
from data_tools.collect.minetest_film import HOVER
from data_tools.collect.minetest_walks import NOBODY, Edit, Ground, Place, View, Walk, states
from sfv.data.objects import Box, SceneObject

EYE = 1.625
"""Of the player, blocks above the feet."""

_HALF_VIEW = np.radians(FOV_DEGREES * np.sqrt(1.6)) / 2
"""Of a square picture: the game widens the angle where a picture is narrower than 16:10."""

_NEAR = 0.1
_LEAST_PIXELS = 2
_LOOK_STEP = 0.25

Array = NDArray[np.float64]


def built_object(walk: Walk, ground: Ground, size: int) -> SceneObject:
    """The first thing that was built: its boxes where it stands in plain view, its place while it is there.

    Args:
        walk: places or digs at least one block.
        ground: before anything was built.
        size: height and width of the pictures, pixels.
    """
    edit = _first(walk)
    x, height, y = edit.place
    there = [(edit.place, edit.node) in state for state in states(walk)]
    seen = [
        box_of(view, ground, edit.place, size)
        if now and in_sight(view, ground, edit.place)
        else None
        for view, now in zip(walk.views, there, strict=True)
    ]
    before = edit.frame - 1
    return SceneObject(
        "hole" if edit.node == "air" else "block",
        None,
        tuple(seen),
        tuple((float(x), float(y), float(height)) if now else None for now in there),
        tuple(
            (frame, before)
            for frame, (view, now) in enumerate(zip(walk.views, there, strict=True))
            if now and same_view(view, walk.views[before]) and seen[frame] is not None
        ),
    )


def box_of(view: View, ground: Ground, place: Place, size: int) -> Box | None:
    """Pixels around a block, cut at the picture's edges; None where none of it is in the picture."""
    x, height, y = place
    corners = np.array(
        [(x + a, y + b, height + c) for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)]
    )
    ahead, right, up = _axes(view)
    way = corners - eye_of(view, ground)
    depth = way @ ahead
    if depth.min() < _NEAR:
        return None
    whole = 2 * size + 2 * MARGIN
    focal = whole / 2 / np.tan(_HALF_VIEW) / 2
    columns = size / 2 + focal * (way @ right) / depth
    rows = size / 2 - focal * (way @ up) / depth
    left, top = (int(np.clip(np.floor(v.min()), 0, size)) for v in (columns, rows))
    end, bottom = (int(np.clip(np.ceil(v.max()), 0, size)) for v in (columns, rows))
    large = end - left >= _LEAST_PIXELS and bottom - top >= _LEAST_PIXELS
    return (left, top, end, bottom) if large else None


def in_sight(view: View, ground: Ground, place: Place) -> bool:
    """Whether nothing that is known of the ground stands before a block's upper face.

    Trees stand in columns where nobody can; what is behind such a column counts as hidden.
    """
    x, height, y = place
    eye, target = eye_of(view, ground), np.array([x, y, height + 0.5])
    length = float(np.linalg.norm(target[:2] - eye[:2]))
    for part in np.arange(_LOOK_STEP, max(length - 0.75, 0), _LOOK_STEP) / max(length, _LOOK_STEP):
        point = eye + (target - eye) * part
        cell = ground.cell(float(point[0]), float(point[1]))
        if cell is None or ground.heights[cell] == NOBODY:
            return False
        if ground.heights[cell] + 0.5 > point[2]:
            return False
    return True


def eye_of(view: View, ground: Ground) -> Array:
    """Where the eye is: x, y, height."""
    return np.array([view.x, view.y, ground.height(view.x, view.y) + HOVER + EYE])


def same_view(a: View, b: View) -> bool:
    """Whether two views show the same, up to rounding on the way back."""
    turn = abs((a.yaw - b.yaw + 180) % 360 - 180)
    return bool(np.hypot(a.x - b.x, a.y - b.y) < 1e-3 and turn + abs(a.pitch - b.pitch) < 0.1)


def _axes(view: View) -> tuple[Array, Array, Array]:
    """Directions ahead, to the right and up, in x, y, height."""
    yaw, pitch = np.radians(view.yaw), np.radians(view.pitch)
    flat = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    ahead = np.cos(pitch) * flat + np.sin(pitch) * np.array([0.0, 0.0, 1.0])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    return ahead, right, np.cross(right, ahead)


def _first(walk: Walk) -> Edit:
    """The first edit; of a hole, the block that was dug and not the room above it."""
    frame = min(edit.frame for edit in walk.edits)
    return [edit for edit in walk.edits if edit.frame == frame][-1]
