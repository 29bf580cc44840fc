"""The one reader of video and pictures that users hand over.

Frames come upright (rotation of telephones, orientation in EXIF), with square pixels, in the order of their
time stamps and one at a time. Sizes are checked at the header, before a frame is decoded. Every fault is a
`MediaError` that names the file and, where there is one, the frame.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import UInt8

from sfv.media.clock import Clock
from sfv.media.frame import Frame, Rgb, aspect_of, shown_size
from sfv.media.limits import UNREADABLE, Limit, MediaError, check_held, other_size
from sfv.media.pictures import is_picture, pictures_in
from sfv.media.rate import exact_rate

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".ts")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif")
INDEXED = ("mp4", "matroska")
"""Formats that are entered in the middle; others lead to a wrong place, and are read from the beginning."""
HEIC = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")


@dataclass(frozen=True)
class About:
    """What a video says of itself.

    Args:
        seconds: from its first frame until its last one ends.
        rate: mean number of frames a second; None where it is not stated.
    """

    seconds: float
    rate: Fraction | None


def frames(
    source: Path | bytes,
    where: str = "",
    start: float = 0.0,
    size: tuple[int, int] | None = None,
) -> Iterator[Frame]:
    """Decode a video, an animation or a picture, one frame at a time.

    Args:
        source: the file, or its content.
        where: names it in errors; "" takes the file's name.
        start: seconds; frames before the last key frame at or before `start` may be left out.
        size: height and width that are expected; larger frames are refused before they are decoded.

    Raises:
        MediaError: unreadable, damaged, cut off, too large, or its time stamps do not rise.
    """
    where = where or _name(source)
    with _file(source, where) as file:
        limit = Limit(where, size)
        timed = _timed_pictures(file, limit) if is_picture(file) else _timed(file, limit, start)
        previous: Frame | None = None
        for frame in timed:
            if previous is not None:
                if frame.time <= previous.time:
                    raise MediaError(
                        where,
                        "time stamps do not rise",
                        f"frame {frame.number} at {frame.time:.3f} s comes after frame "
                        f"{previous.number} at {previous.time:.3f} s",
                    )
                yield replace(previous, stop=frame.time)
            previous = frame
        if previous is None:
            raise MediaError(where, "video without frames")
        yield previous


def read_frames(
    source: Path | bytes,
    where: str = "",
    most: int | None = None,
    size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "t height width 3"]:
    """Decode frames into one array.

    Args:
        source: the file, or its content.
        where: names it in errors; "" takes the file's name.
        most: frames to read; None reads all.
        size: height and width that are expected; larger frames are refused before they are decoded.

    Raises:
        MediaError: see `frames`; frames of several sizes, or more pixels than can be held.
    """
    where = where or _name(source)
    found: list[Rgb] = []
    for frame in islice(frames(source, where, size=size), most):
        if found and frame.size != found[0].shape[:2]:
            raise other_size(where, frame.size, found[0].shape[:2], frame.number)
        check_held(where, len(found) + 1, frame.size)
        found.append(frame.rgb())
    return np.stack(found)


def read_picture(path: Path) -> Rgb:
    """Decode one picture file (of an animation or a video the first frame).

    Raises:
        MediaError: see `frames`.
    """
    return next(frames(path)).rgb()


def about(path: Path) -> About:
    """Read a video's length and rate from its packets; nothing is decoded.

    Raises:
        MediaError: unreadable, or it ends before its stated length.
    """
    where = path.name
    with _file(path, where) as file:
        if is_picture(file):
            *_, last = frames(path)
            rate = exact_rate((last.number + 1) / last.stop) if last.stop else None
            return About(last.stop, rate)
        with _opened(file, Limit(where)) as (container, stream):
            clock = Clock(container, stream, where)
            for packet in container.demux(stream):
                clock.see(packet)
            clock.check_end()
            return About(clock.end(0.0), stream.average_rate)


def _name(source: Path | bytes) -> str:
    return "video" if isinstance(source, bytes) else source.name


@contextmanager
def _file(source: Path | bytes, where: str) -> Iterator[io.BufferedIOBase]:
    """Opened here, not by FFmpeg: a name that looks like an address is never followed."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    if not source.is_file():
        raise MediaError(where, "video file is missing")
    try:
        with source.open("rb") as file:
            yield file
    except OSError as error:
        raise MediaError(where, UNREADABLE, error.strerror or str(error)) from error


@contextmanager
def _opened(
    file: io.BufferedIOBase, limit: Limit
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a video; FFmpeg's errors become `MediaError` while it is open."""
    head = file.read(12)
    file.seek(0)
    if not head:
        raise MediaError(limit.where, UNREADABLE, "it is empty")
    if head[4:8] == b"ftyp" and head[8:] in HEIC:
        raise MediaError(limit.where, "HEIC pictures cannot be read", "save it as JPEG or PNG")
    options = {"max_pixels": str(limit.pixels)}
    try:
        with av.open(
            file,
            metadata_errors="replace",
            options=options,
            container_options={"protocol_whitelist": "none"},  # a playlist opens no other file
        ) as container:
            stream = _picture_stream(container, limit.where)
            limit.check(*shown_size(stream.width, stream.height, aspect_of(stream)))
            stream.codec_context.thread_count = 1
            stream.codec_context.options = options
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(limit.where, UNREADABLE, error.strerror or str(error)) from error


def _picture_stream(container: av.container.InputContainer, where: str) -> av.VideoStream:
    """The first video stream that is no cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(where, "file without a video stream")
    if streams[0].codec_context is None:
        raise MediaError(where, "video with a codec that is not known")
    return streams[0]


def _timed_pictures(file: io.BufferedIOBase, limit: Limit) -> Iterator[Frame]:
    """A picture, or the frames of an animation."""
    time = 0.0
    for number, (stays, picture) in enumerate(pictures_in(file, limit)):
        raw = av.VideoFrame.from_ndarray(picture, format="rgb24")
        yield Frame(number, time, time + stays, raw)
        time += stays


def _timed(file: io.BufferedIOBase, limit: Limit, start: float) -> Iterator[Frame]:
    """Frames of a video; each stays until the data that was read so far ends."""
    where, number, is_open = limit.where, 0, False
    try:
        with _opened(file, limit) as (container, stream):
            is_open = True
            clock, aspect = Clock(container, stream, where), aspect_of(stream)
            if start > 0 and any(form in container.format.name for form in INDEXED):
                container.seek(clock.origin + int(start / stream.time_base), stream=stream)
            for packet in container.demux(stream):
                clock.see(packet)
                for raw in packet.decode():
                    if raw.is_corrupt:  # FFmpeg paints over what it cannot read, and goes on
                        raise MediaError(where, "video is damaged", f"frame {number} is damaged")
                    limit.check(*shown_size(raw.width, raw.height, aspect))
                    time = clock.time_of(raw, number)
                    yield Frame(number, time, clock.end(time), raw, aspect)
                    number += 1
            clock.check_end(number)
    except MediaError as error:
        if error.reason == UNREADABLE and is_open:
            detail = f"decoding stops at frame {number}: {error.detail}"
            raise MediaError(where, UNREADABLE, detail) from error
        raise
