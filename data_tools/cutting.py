"""Pure parts of `data_tools.cut`: which source frames make which piece, and what it is called."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sfv.data.schema import Action, EpisodeMeta, SchemaError
from sfv.media.fit import FITS, Fit
from sfv.media.rate import exact_rate

HELD = 2.0
"""A frame that stays this many times as long as usual is held, not late."""


@dataclass(frozen=True)
class CutSettings:
    """What decides the pieces.

    Args:
        fps: frames a second of the pieces; None keeps the source's rate.
        height: pixels; None keeps the source's.
        width: pixels; None keeps the source's.
        fit: `crop` the middle to the wanted shape, `stretch` to it, or `pad` with black.
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


def resample(
    times: NDArray[np.float64], fps: float, stop: float | None = None
) -> NDArray[np.int64]:
    """Pick for each time of a steady clock the frame that is nearest.

    Args:
        times: seconds, increasing.
        fps: of the clock, which begins at the first frame.
        stop: seconds until which the last frame is shown; where it stays clearly longer than the others
            do, as in recordings of a screen, the clock goes on until then. None: as long as the others.
    """
    num = int((times[-1] - times[0]) * fps + 1e-6) + 1
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps
    if stop is not None and stop - times[-1] > HELD * usual:
        num = max(num, int((stop - times[0]) * fps + 1e-6))
    clock = times[0] + np.arange(num) / fps
    middles = (times[1:] + times[:-1]) / 2
    return np.asarray(np.searchsorted(middles, clock - 1e-9), dtype=np.int64)


def pieces(
    times: NDArray[np.float64],
    cuts: Sequence[int],
    fps: float,
    settings: CutSettings,
    stop: float | None = None,
) -> tuple[list[NDArray[np.int64]], int]:
    """Plan the pieces of a video.

    Args:
        times: of the source frames, seconds.
        cuts: first frames of new shots.
        fps: of the pieces.
        settings: the limits.
        stop: seconds until which the last frame is shown, see `resample`.

    Returns:
        for each piece its source frames, and how many frames (at `fps`) are left out.
    """
    planned, left_out = [], 0
    for start, end in shots(len(times), cuts):
        until = float(times[end]) if end < len(times) else stop
        picked = start + resample(times[start:end], fps, until)
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


def source_rate(times: NDArray[np.float64], stated: float | None) -> float | None:
    """Frames a second of a video: what it states, unless its time stamps say otherwise.

    A last frame that is held for long makes the stated mean too low.

    Args:
        times: of the frames, seconds, increasing.
        stated: by the file; None where it does not.
    """
    if len(times) < 2:
        return stated
    mean = float((len(times) - 1) / (times[-1] - times[0]))
    if stated is not None and abs(stated / mean - 1) <= max(0.02, 2 / len(times)):
        return stated
    return float(exact_rate(mean))


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


def _runs(actions: Sequence[Action], owner: NDArray[np.int64]) -> tuple[Action, ...]:
    """Actions whose frames are those that `owner` gives to each."""
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
    return tuple(
        dataclasses.replace(actions[int(owner[start])], start=start, stop=stop)
        for start, stop in pairwise(edges)
    )
