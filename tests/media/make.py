"""Small media files as cameras, telephones and attackers make them."""

import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

STEP = 6
MILLISECOND = Fraction(1, 1000)


def grey(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A picture whose brightness tells its number, up to 40."""
    return np.full((height, width, 3), 10 + STEP * number, dtype=np.uint8)


def number_of(picture: np.ndarray) -> int:
    return round((float(picture.mean()) - 10) / STEP)


def write(
    path: Path, pictures: list[np.ndarray], fps: Any = 10, codec: str = "libx264",
    pix_fmt: str = "yuv420p", times: list[float] | None = None, last: float | None = None,
    aspect: Fraction | None = None, sound: float = 0.0, **options: str,
) -> Path:  # fmt: skip
    """Encode pictures.

    Args:
        path: its suffix names the format.
        pictures: of one size.
        fps: frames a second.
        codec: FFmpeg's name.
        pix_fmt: pixel format.
        times: seconds of each picture; None is a steady rate.
        last: seconds that the last packet lasts.
        aspect: width of a pixel over its height.
        sound: seconds of silence beside it.
        options: of the encoder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "8", "g": "12", **options})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if times is not None:
            stream.codec_context.time_base = MILLISECOND
        voice = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        packets = []
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), MILLISECOND
            packets += list(stream.encode(frame))
        packets += list(stream.encode())
        if last is not None:
            packets[-1].duration = round(last / packets[-1].time_base)
        container.mux(packets)
        if voice is not None:
            for start in range(0, int(sound * 8000), 1024):
                quiet = np.zeros((1, 1024), np.float32)
                heard = av.AudioFrame.from_ndarray(quiet, format="fltp", layout="mono")
                heard.sample_rate, heard.pts = 8000, start
                container.mux(voice.encode(heard))
            container.mux(voice.encode())
    return path


def patch(path: Path, box: bytes, place: int, content: bytes) -> Path:
    """Overwrite a part of an mp4's box."""
    data = bytearray(path.read_bytes())
    start = data.index(box) + place
    data[start : start + len(content)] = content
    path.write_bytes(data)
    return path


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Note in an mp4's track how a player has to show it: x' = ax + cy, y' = bx + dy."""
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return patch(path, b"tkhd", 44, matrix)


def huge_png(width: int, height: int) -> bytes:
    """A few kB that claim to be a large picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")
