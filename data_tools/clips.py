"""Reading episodes and videos for the tools: frame by frame, without torch, faults as skips."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.files import read_meta
from data_tools.work import Skip
from sfv.data.schema import EpisodeMeta, SchemaError
from sfv.files import regular_file, replacing
from sfv.media.frame import Frame
from sfv.media.limits import MediaError
from sfv.media.reader import about, frames

UNLABELLED = "unlabelled"
"""Text of an action that nobody described yet; `data_tools.annotate` replaces it."""

UNREADABLE = "corrupt: unreadable video"
OTHER_SIZE = "corrupt: frames differ from the metadata"
BAD_META = "corrupt: metadata breaks the schema"


def pictures_of(path: Path, size: tuple[int, int] | None = None) -> Iterator[Frame]:
    """Decode a video, one frame at a time.

    Args:
        path: the video.
        size: height and width that are expected; larger frames are refused before they are decoded.

    Raises:
        Skip: it cannot be read to its end.
    """
    _check_regular(path)
    try:
        yield from frames(path, size=size)
    except MediaError as error:
        raise Skip(UNREADABLE, error.fault) from error


def rate_of(path: Path) -> float | None:
    """Read a video's mean frame rate, frames a second; None where it states none.

    Raises:
        Skip: it cannot be read.
    """
    _check_regular(path)
    try:
        rate = about(path).rate
    except MediaError as error:
        raise Skip(UNREADABLE, error.fault) from error
    return None if rate is None else float(rate)


def _check_regular(path: Path) -> None:
    try:
        regular_file(path)
    except OSError as error:
        raise Skip(UNREADABLE, str(error)) from error


def read_episode(path: Path) -> EpisodeMeta:
    """Read an episode's JSON.

    Raises:
        Skip: it breaks the schema.
    """
    try:
        return read_meta(path)
    except SchemaError as error:
        raise Skip(BAD_META, str(error)) from error


def frames_of(meta: EpisodeMeta, video: Path) -> Iterator[NDArray[np.uint8]]:
    """Decode an episode's frames, `height width 3` each.

    Raises:
        Skip: unreadable, or not the size and number that the metadata says.
    """
    count = 0
    for frame in pictures_of(video):
        if frame.size != (meta.height, meta.width):
            said = f"{meta.height}x{meta.width}"
            raise Skip(OTHER_SIZE, f"{frame.size[0]}x{frame.size[1]} pixels, said are {said}")
        count += 1
        if count > meta.num_frames:
            raise Skip(OTHER_SIZE, f"more than the {meta.num_frames} frames that are said")
        yield frame.rgb()
    if count != meta.num_frames:
        raise Skip(OTHER_SIZE, f"{count} frames, said are {meta.num_frames}")


def spread(num_frames: int, count: int) -> NDArray[np.int64]:
    """Frame numbers spread evenly over an episode, each in the middle of its share."""
    return np.asarray((np.arange(count) + 0.5) * num_frames / count, dtype=np.int64)


def place_video(source: Path, target: Path) -> None:
    """Give a video a second name; across file systems it is copied.

    Videos are replaced and never written into, so a shared file is as good as a copy.
    """
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
