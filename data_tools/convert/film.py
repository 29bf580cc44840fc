"""Pictures from video files and picture folders: one at a time, at wanted moments, in a wanted size."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from data_tools.collect.pictures import area_weights
from data_tools.convert.recording import BadInput, Recording
from data_tools.convert.timeline import EPSILON
from sfv.files import is_hidden

Picture = NDArray[np.uint8]
Moment = tuple[float, Callable[[], Picture]]
"""Seconds since the film's start, and a way to get the picture (most are never wanted)."""
Fit = Literal["crop", "pad"]

PICTURE_NAMES = (".png", ".jpg", ".jpeg")
LATE = 0.1
"""Seconds that the first frame may come after the wanted moment, or the last stay on."""
MAX_SECONDS = 7 * 24 * 3600
"""A header that states more is broken."""
MAX_SIDE = 16384
"""Pixels; a header that claims more is broken or made to fill the memory."""


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
    """Seconds that the recording lasts, by the video's own account.

    Raises:
        BadInput: unreadable, without a length, or it ends before the recording starts.
    """
    if recording.picture_fps is not None:
        length = len(pictures(recording.video)) / recording.picture_fps
    else:
        with _opened(recording.video) as (container, stream):
            length = _length(container, stream)
        if length > MAX_SECONDS:
            raise BadInput(f"video states a length of more than a week: {recording.video.name}")
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
    if recording.picture_fps is not None:
        moments = _of_pictures(recording.video, recording.picture_fps)
    else:
        moments = _of_video(recording.video, recording.start)
    shown = next(moments, None)
    upcoming = next(moments, None)
    interval = 0.0
    if shown is not None and shown[0] > recording.start + LATE:
        raise BadInput(
            f"video has no frame at a wanted moment: {recording.video.name} at {recording.start:.3f} s"
        )
    for time in times:
        wanted = recording.start + time + EPSILON
        while upcoming is not None and upcoming[0] <= wanted:
            assert shown is not None
            interval = upcoming[0] - shown[0]
            shown, upcoming = upcoming, next(moments, None)
        if shown is None or (
            upcoming is None and wanted > shown[0] + max(interval, LATE) + EPSILON
        ):
            last = "no frame at all" if shown is None else f"the last at {shown[0]:.3f} s"
            raise BadInput(
                f"video ends before its stated length (truncated?): {recording.video.name} has "
                f"{last}, needed is one at {wanted:.3f} s"
            )
        yield fitted(shown[1](), shape)


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
        if path.suffix.lower() not in PICTURE_NAMES or is_hidden(path, folder):
            continue
        digits = "".join(itertools.takewhile(str.isdecimal, reversed(path.stem)))[::-1]
        if not digits or int(digits) in numbered:
            raise BadInput(f"pictures are not numbered one by one: {folder.name} has {path.name}")
        numbered[int(digits)] = path
    if not numbered:
        raise BadInput(f"folder without pictures ({', '.join(PICTURE_NAMES)}): {folder.name}")
    return [numbered[number] for number in sorted(numbered)]


def _averaged(picture: Picture, height: int, width: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return np.ascontiguousarray(picture)
    planes = np.moveaxis(picture, 2, 0).astype(np.float32)
    small = area_weights(picture.shape[0], height) @ planes
    small = small @ area_weights(picture.shape[1], width).T
    return np.ascontiguousarray(np.rint(np.moveaxis(small, 0, 2)).clip(0, 255).astype(np.uint8))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a video file; FFmpeg's errors become `BadInput` while it is open."""
    if not path.is_file():
        raise BadInput(f"video file is missing: {path.name}")
    try:
        # Opened here, not by FFmpeg: a name that looks like an address is never followed.
        with path.open("rb") as file, av.open(file, metadata_errors="replace") as container:
            if not container.streams.video:
                raise BadInput(f"file without a video stream: {path.name}")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise BadInput(f"video with a codec that is not known: {path.name}")
            stream.codec_context.thread_count = 1
            if max(stream.height, stream.width) > MAX_SIDE:
                raise BadInput(f"video larger than {MAX_SIDE} pixels a side: {path.name}")
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise BadInput(f"video cannot be read or is damaged: {path.name} ({error})") from error


def _length(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration / av.time_base)
    if stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)
    raise BadInput("video does not state its length; wrap it anew (ffmpeg -i IN -c copy OUT.mp4)")


def _of_video(path: Path, start: float) -> Iterator[Moment]:
    """Frames from the last key frame before `start` on."""
    with _opened(path) as (container, stream):
        origin = stream.start_time or 0
        if start > 0:
            container.seek(origin + int(start / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise BadInput(f"video is damaged or cut off: {path.name} (a packet is corrupt)")
            for frame in packet.decode():
                if frame.is_corrupt or frame.pts is None:
                    raise BadInput(f"video is damaged: {path.name} (a frame is corrupt)")
                time = float((frame.pts - origin) * stream.time_base)
                yield time, partial(_upright, frame)


def _upright(frame: av.VideoFrame) -> Picture:
    """Turn a picture as the camera was held (telephones note it, rather than turn)."""
    picture = np.asarray(frame.to_ndarray(format="rgb24"))
    return np.rot90(picture, round((frame.rotation or 0) / 90))


def _of_pictures(folder: Path, fps: float) -> Iterator[Moment]:
    for index, path in enumerate(pictures(folder)):
        yield index / fps, partial(read_picture, path)


def read_picture(path: Path) -> Picture:
    """Decode one picture file.

    Raises:
        BadInput: unreadable.
    """
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            return np.asarray(frame.to_ndarray(format="rgb24"))
    raise BadInput(f"picture cannot be read: {path.name}")
