"""Reading episodes and videos for the tools: frame by frame, without torch, faults as skips."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from data_tools.files import read_meta
from data_tools.work import Skip
from sfv.data.schema import EpisodeMeta, SchemaError
from sfv.files import regular_file, replacing

UNLABELLED = "unlabelled"
"""Text of an action that nobody described yet; `data_tools.annotate` replaces it."""

UNREADABLE = "corrupt: unreadable video"
OTHER_SIZE = "corrupt: frames differ from the metadata"
BAD_META = "corrupt: metadata breaks the schema"


def pictures_of(path: Path) -> Iterator[av.VideoFrame]:
    """Decode a video, one picture at a time.

    Raises:
        Skip: it cannot be read to its end.
    """
    _check_regular(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Skip(UNREADABLE, "no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for number, picture in enumerate(container.decode(stream)):
                if picture.is_corrupt:  # FFmpeg paints over what it cannot read, and goes on
                    raise Skip(UNREADABLE, f"frame {number} is damaged")
                yield picture
    except av.error.FFmpegError as error:
        raise Skip(UNREADABLE, f"{path.name}: {error.strerror}") from error


def rate_of(path: Path) -> float:
    """Read a video's mean frame rate, frames a second.

    Raises:
        Skip: it cannot be read or names no rate.
    """
    _check_regular(path)
    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate if container.streams.video else None
    except av.error.FFmpegError as error:
        raise Skip(UNREADABLE, f"{path.name}: {error.strerror}") from error
    if not rate:
        raise Skip(UNREADABLE, "no video stream, or one without a frame rate")
    return float(rate)


def _check_regular(path: Path) -> None:
    try:
        regular_file(path)
    except OSError as error:
        raise Skip(UNREADABLE, str(error)) from error


def rgb_of(picture: av.VideoFrame) -> NDArray[np.uint8]:
    """Give a picture as `height width 3`."""
    # Planar RGB, as our own videos are stored, is read without the slow general converter.
    layout = None if picture.format.name == "gbrp" else "rgb24"
    return np.asarray(picture.to_ndarray(format=layout))


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
    for picture in pictures_of(video):
        frame = rgb_of(picture)
        if frame.shape[:2] != (meta.height, meta.width):
            said = f"{meta.height}x{meta.width}"
            raise Skip(OTHER_SIZE, f"{frame.shape[0]}x{frame.shape[1]} pixels, said are {said}")
        count += 1
        yield frame
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
