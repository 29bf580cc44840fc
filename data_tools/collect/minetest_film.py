"""Film a planned walk in Minetest: view by view, building as it goes, until two pictures of each agree."""

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.minetest_engine import Minetest, Pose
from data_tools.collect.minetest_walks import Ground, Place, View, Walk
from data_tools.collect.runner import Skipped

FPS = 8.0
AGREE_PSNR = 38.0
"""Two pictures of a view agree from here on, dB."""

MAX_PASSES = 6
HOVER = 0.6
"""Feet above the middle of the block they stand on: a tenth of a block in the air, so that the game
does not smooth steps."""

_FLAT = 12.0
_MAX_FLAT_SHARE = 0.25


def film(game: Minetest, ground: Ground, walk: Walk) -> tuple[NDArray[np.uint8], int]:
    """Take pictures at each view until two of them agree.

    Returns:
        one picture a view, `t height width 3`, and the number of passes it took.

    Raises:
        Skipped: at a view no two pictures agree.
    """
    poses = [pose_of(view, ground) for view in walk.views]
    game.settle(poses)
    taken: list[list[NDArray[np.uint8]]] = [[] for _ in poses]
    left = set(range(len(poses)))
    for number in range(1, MAX_PASSES + 1):
        for frame, picture in _film_once(game, walk, poses, left):
            if any(frame_psnr(picture, other) >= AGREE_PSNR for other in taken[frame]):
                left.discard(frame)
            taken[frame].append(picture)
        if not left:
            return np.stack([pictures[-1] for pictures in taken]), number
    raise Skipped("no two pictures agree")


def _film_once(
    game: Minetest, walk: Walk, poses: list[Pose], wanted: set[int]
) -> list[tuple[int, NDArray[np.uint8]]]:
    """One pass over the wanted frames; leaves the world as it was."""
    untouched: dict[Place, str] = {}
    pictures = []
    try:
        for frame in range(max(wanted) + 1):
            edits = [edit for edit in walk.edits if edit.frame == frame]
            for edit in edits:
                was = game.put(edit.place, edit.node or untouched[edit.place])
                untouched.setdefault(edit.place, was)
            if edits:
                game.stand(poses[frame])
                game.settle()
            if frame in wanted:
                pictures.append((frame, game.stand(poses[frame])))
    finally:
        for place, node in reversed(untouched.items()):
            game.put(place, node)
    return pictures


def pose_of(view: View, ground: Ground) -> Pose:
    """A view as the game counts it: y is up, yaw 0 looks along the second axis, pitch is down."""
    height = ground.height(view.x, view.y) + HOVER
    return view.x, height, view.y, view.yaw - 90.0, -view.pitch


def frame_psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """PSNR of two frames, dB; 99 at most."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return round(min(99.0, float(10 * np.log10(255**2 / max(error, 1e-9)))), 2)


def little_to_see(frames: NDArray[np.uint8]) -> bool:
    """Whether too many frames are one flat colour."""
    flat = frames.reshape(len(frames), -1, 3).astype(np.float64).std(axis=1).max(axis=1) < _FLAT
    return bool(flat.mean() > _MAX_FLAT_SHARE)


def _agree(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    return all(frame_psnr(one, other) >= AGREE_PSNR for one, other in zip(a, b, strict=True))
