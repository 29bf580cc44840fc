"""Pictures from video files and picture folders: one at a time, at wanted moments, in a wanted size."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.pictures import area_weights
from data_tools.convert.recording import BadInput, Recording
from data_tools.convert.timeline import EPSILON
from sfv.media import reader as media
from sfv.media.limits import MediaError
from sfv.media.reader import PICTURE_SUFFIXES, about, frames
from sfv.names import is_hidden

Picture = NDArray[np.uint8]
Fit = Literal["crop", "pad"]

LATE = 0.1
"""Seconds that the first frame may come after the wanted moment, or the last stay on."""


@dataclass(frozen=True)
class Moment:
    """A picture in time.

    Args:
        time: seconds since the film's start.
        stop: seconds until which it is shown.
        picture: makes it (most are never wanted).
    """

    time: float
    stop: float
    picture: Callable[[], Picture]


@dataclass(frozen=True)
class Shape:
    """Size of the frames to make.

    Args:
        height: pixels.
        width: pixels.
        fit: `crop` cuts the middle out, `pad` keeps all and adds black bars.
    """

    height: int
    width: int
    fit: Fit = "crop"


def duration(recording: Recording) -> float:
    """Seconds that the recording lasts, by the picture's own account: sound may last longer.

    Raises:
        BadInput: unreadable, cut off, or it ends before the recording starts.
    """
    if recording.picture_fps is not None:
        length = len(pictures(recording.video)) / recording.picture_fps
    else:
        length = _length(recording.video)
    stop = length if recording.stop is None else min(recording.stop, length)
    if not stop > recording.start:
        raise BadInput(
            f"video has no frame in the wanted stretch: {recording.video.name} lasts {length:.3f} s, "
            f"wanted from {recording.start:.3f} s"
        )
    return stop - recording.start


def frames_at(recording: Recording, times: Iterable[float], shape: Shape) -> Iterator[Picture]:
    """Give the picture that is shown at each of the rising times.

    Args:
        recording: what to decode; `times` count from its start.
        times: seconds, rising.
        shape: of the pictures.

    Raises:
        BadInput: the video is damaged, smaller than the wanted shape or ends too early.
    """
    moments = _moments(recording)
    shown = next(moments, None)
    if shown is not None and shown.time > recording.start + LATE:
        raise BadInput(
            f"video has no frame at a wanted moment: {recording.video.name} at {recording.start:.3f} s"
        )
    for time in times:
        wanted = recording.start + time + EPSILON
        while shown is not None and shown.stop <= wanted:
            after = next(moments, None)
            if after is None:
                break
            shown = after
        if shown is None or wanted > shown.stop + LATE:
            last = "no frame at all" if shown is None else f"the last at {shown.time:.3f} s"
            raise BadInput(
                f"video ends before its stated length (truncated?): {recording.video.name} has "
                f"{last}, needed is one at {wanted:.3f} s"
            )
        yield fitted(shown.picture(), shape)


def fitted(picture: Picture, shape: Shape) -> Picture:
    """Bring a picture to a size by averaging areas.

    Raises:
        BadInput: the picture would have to be enlarged.
    """
    height, width = picture.shape[:2]
    pick = min if shape.fit == "crop" else max
    scale = pick(height / shape.height, width / shape.width)
    if scale < 1:
        raise BadInput(
            f"video is smaller than --size: {height}x{width}, wanted {shape.height}x{shape.width} "
            f"({shape.fit}); give a smaller --size"
        )
    inner_height = min(height, round(scale * shape.height))
    inner_width = min(width, round(scale * shape.width))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    cut = picture[top : top + inner_height, left : left + inner_width]
    rows = min(shape.height, max(1, round(inner_height / scale)))
    columns = min(shape.width, max(1, round(inner_width / scale)))
    small = _averaged(cut, rows, columns)
    if (rows, columns) == (shape.height, shape.width):
        return small
    padded = np.zeros((shape.height, shape.width, 3), dtype=np.uint8)
    top, left = (shape.height - rows) // 2, (shape.width - columns) // 2
    padded[top : top + rows, left : left + columns] = small
    return padded


def pictures(folder: Path) -> list[Path]:
    """Pictures of a folder in the order of the numbers that their names end with.

    Raises:
        BadInput: none, or a name without a number, or a number twice.
    """
    numbered: dict[int, Path] = {}
    for path in folder.iterdir():
        if path.suffix.lower() not in PICTURE_SUFFIXES or is_hidden(path, folder):
            continue
        digits = "".join(itertools.takewhile(str.isdecimal, reversed(path.stem)))[::-1]
        if not digits or int(digits) in numbered:
            raise BadInput(f"pictures are not numbered one by one: {folder.name} has {path.name}")
        numbered[int(digits)] = path
    if not numbered:
        raise BadInput(f"folder without pictures ({', '.join(PICTURE_SUFFIXES)}): {folder.name}")
    return [numbered[number] for number in sorted(numbered)]


def _averaged(picture: Picture, height: int, width: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return np.ascontiguousarray(picture)
    planes = np.moveaxis(picture, 2, 0).astype(np.float32)
    small = area_weights(picture.shape[0], height) @ planes
    small = small @ area_weights(picture.shape[1], width).T
    return np.ascontiguousarray(np.rint(np.moveaxis(small, 0, 2)).clip(0, 255).astype(np.uint8))


def _length(path: Path) -> float:
    with _as_bad_input():
        state = path.stat() if path.is_file() else None
        return _measured(path, state and (state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=256)
def _measured(path: Path, state: object) -> float:
    """Many recordings may share a long film: it is measured once as long as it does not change."""
    return about(path).seconds


def _moments(recording: Recording) -> Iterator[Moment]:
    """Pictures from the recording's start on, or from the last key frame before it."""
    if recording.picture_fps is not None:
        for index, path in enumerate(pictures(recording.video)):
            times = index / recording.picture_fps, (index + 1) / recording.picture_fps
            yield Moment(*times, partial(read_picture, path))
        return
    with _as_bad_input():
        for frame in frames(recording.video, start=recording.start):
            yield Moment(frame.time, frame.stop, frame.rgb)


def read_picture(path: Path) -> Picture:
    """Decode one picture file.

    Raises:
        BadInput: unreadable.
    """
    with _as_bad_input():
        return media.read_picture(path)


@contextmanager
def _as_bad_input() -> Iterator[None]:
    try:
        yield
    except MediaError as error:
        detail = f" ({error.detail})" if error.detail else ""
        raise BadInput(f"{error.reason}: {error.where}{detail}") from error
