"""Pure parts of `data_tools.cut`: which source frames make which piece, and what it is called."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from sfv.data.schema import Action, EpisodeMeta, SchemaError

Fit = Literal["crop", "pad"]
FITS: tuple[str, ...] = get_args(Fit)


@dataclass(frozen=True)
class CutSettings:
    """What decides the pieces.

    Args:
        fps: frames a second of the pieces; None keeps the source's rate.
        height: pixels; None keeps the source's.
        width: pixels; None keeps the source's.
        fit: `crop` the middle to the wanted shape, or `pad` with black.
        min_frames: shorter pieces are left out.
        max_frames: a piece is never longer.
        chunk_frames: every action gets this many frames, the text of the action that has most
            of them, and pieces end with a whole chunk; 0 leaves actions as they are.
        cut_threshold: PySceneDetect's adaptive threshold; higher finds fewer cuts, 0 none.
        min_scene_s: seconds within which only one cut counts.
    """

    fps: float | None = None
    height: int | None = None
    width: int | None = None
    fit: Fit = "crop"
    min_frames: int = 16
    max_frames: int = 512
    chunk_frames: int = 0
    cut_threshold: float = 3.0
    min_scene_s: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.min_frames <= self.max_frames:
            raise SchemaError(
                f"--min-frames {self.min_frames} --max-frames {self.max_frames}: allowed are "
                "1 <= min <= max"
            )
        if self.chunk_frames < 0 or self.max_frames < self.chunk_frames:
            raise SchemaError(
                f"--chunk-frames {self.chunk_frames}: allowed are 0 (leave actions as they are) to "
                f"--max-frames {self.max_frames}"
            )
        if (self.height is None) != (self.width is None) or self.fit not in FITS:
            raise SchemaError(f"size {self.height} {self.width} {self.fit}: give height and width")
        if self.height is not None and self.width is not None and min(self.height, self.width) < 16:
            raise SchemaError(f"--size {self.height} {self.width}: at least 16 pixels are needed")
        if self.fps is not None and self.fps < 1:
            raise SchemaError(f"--fps {self.fps}: at least 1 frame a second is needed")
        if self.cut_threshold < 0 or self.min_scene_s < 0:
            raise SchemaError(
                f"--cut-threshold {self.cut_threshold} --min-scene {self.min_scene_s}: allowed is >= 0"
            )


def shots(num_frames: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """Spans between cuts: each cut is the first frame of a new shot."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < num_frames}), num_frames]
    return list(pairwise(edges))


def resample(times: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """Pick for each time of a steady clock the frame that is nearest.

    Args:
        times: seconds, increasing.
        fps: of the clock, which begins at the first frame.
    """
    clock = times[0] + np.arange(int((times[-1] - times[0]) * fps + 1e-6) + 1) / fps
    middles = (times[1:] + times[:-1]) / 2
    return np.asarray(np.searchsorted(middles, clock - 1e-9), dtype=np.int64)


def pieces(
    times: NDArray[np.float64], cuts: Sequence[int], fps: float, settings: CutSettings
) -> tuple[list[NDArray[np.int64]], int]:
    """Plan the pieces of a video.

    Args:
        times: of the source frames, seconds.
        cuts: first frames of new shots.
        fps: of the pieces.
        settings: the limits.

    Returns:
        for each piece its source frames, and how many frames (at `fps`) are left out.
    """
    planned, left_out = [], 0
    for start, stop in shots(len(times), cuts):
        picked = start + resample(times[start:stop], fps)
        step = settings.max_frames
        whole = settings.chunk_frames or 1
        step -= step % whole
        for first in range(0, len(picked), step):
            piece = picked[first : first + step]
            piece = piece[: len(piece) - len(piece) % whole]
            if len(piece) >= settings.min_frames:
                planned.append(piece)
        left_out += len(picked)
    return planned, left_out - sum(map(len, planned))


def piece_meta(meta: EpisodeMeta, piece: NDArray[np.int64], number: int) -> EpisodeMeta:
    """Take what is known about the source frames over to a piece: actions, poses, revisits, objects."""
    covered = np.repeat(np.arange(len(meta.actions)), [a.stop - a.start for a in meta.actions])
    first: dict[int, int] = {}
    for new, old in enumerate(piece.tolist()):
        first.setdefault(old, new)
    return dataclasses.replace(
        meta,
        id=f"{meta.id}-{number:04d}",
        num_frames=len(piece),
        actions=_runs(meta.actions, covered[piece]),
        poses=None if meta.poses is None else tuple(meta.poses[old] for old in piece),
        revisits=_within(meta.revisits, first),
        objects=tuple(
            dataclasses.replace(
                thing,
                boxes=tuple(thing.boxes[old] for old in piece),
                places=tuple(thing.places[old] for old in piece),
                without=_within(thing.without, first),
            )
            for thing in meta.objects
        ),
    )


def _within(
    pairs: Sequence[tuple[int, int]], first: Mapping[int, int]
) -> tuple[tuple[int, int], ...]:
    """Pairs of frames that are both in the piece, by their numbers there."""
    return tuple((first[a], first[b]) for a, b in pairs if a in first and b in first)


def in_chunks(actions: Sequence[Action], frames: int) -> tuple[Action, ...]:
    """Give every `frames` frames one action: the one that covers most of them, the first of equals."""
    owner = np.repeat(np.arange(len(actions)), [a.stop - a.start for a in actions])
    chunks = []
    for start in range(0, len(owner), frames):
        chosen = actions[int(np.bincount(owner[start : start + frames]).argmax())]
        stop = min(start + frames, len(owner))
        chunks.append(dataclasses.replace(chosen, start=start, stop=stop))
    return tuple(chunks)


def fit_frame(frame: NDArray[np.uint8], height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
    """Bring a frame to `height width 3`: averaged over areas when it shrinks, linear when it grows."""
    old_height, old_width = frame.shape[:2]
    scales = (height / old_height, width / old_width)
    if fit == "crop":
        scale = max(scales)
        rows, columns = min(old_height, height / scale), min(old_width, width / scale)
        top, left = round((old_height - rows) / 2), round((old_width - columns) / 2)
        inner = frame[top : top + round(rows), left : left + round(columns)]
        return _resize(inner, height, width)
    scale = min(scales)
    rows, columns = round(old_height * scale), round(old_width * scale)
    padded = np.zeros((height, width, 3), dtype=np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    padded[top : top + rows, left : left + columns] = _resize(frame, rows, columns)
    return padded


def _resize(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = height <= frame.shape[0] and width <= frame.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=method), dtype=np.uint8)


def _runs(actions: Sequence[Action], owner: NDArray[np.int64]) -> tuple[Action, ...]:
    """Actions whose frames are those that `owner` gives to each."""
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
    return tuple(
        dataclasses.replace(actions[int(owner[start])], start=start, stop=stop)
        for start, stop in pairwise(edges)
    )
