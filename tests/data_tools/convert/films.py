"""Real video files whose frames tell their own number, and readers of what converters wrote."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np

from sfv.data.schema import EpisodeMeta, from_json
from sfv.data.stages import decode_mp4

BASE = 8
"""Frames differ in brightness by STEP at least: more than lossy video is off by."""
STEP = 30
PERIOD = BASE * BASE
"""Frames after which pictures start again."""


def marked(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture whose left and right half hold the two digits of a number, in brightness."""
    high, low = divmod(number % PERIOD, BASE)
    picture = np.full((height, width, 3), 10 + STEP * low, dtype=np.uint8)
    picture[:, : width // 2] = 10 + STEP * high
    return picture


def write_film(
    path: Path, num_frames: int, fps: Any = 30, size: tuple[int, int] = (48, 64), gop: int = 12,
    faststart: bool = False, codec: str = "libx264",
) -> Path:  # fmt: skip
    """A yuv420p file as cameras make them, picture i marked with i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "10", "g": str(gop)})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            picture = av.VideoFrame.from_ndarray(marked(number, *size), format="rgb24")
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_png(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt = "rgb24"
    packets = encoder.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    path.write_bytes(b"".join(bytes(p) for p in [*packets, *encoder.encode(None)]))


def turn(path: Path, clockwise: bool) -> None:
    """Note in an mp4's track header that players have to turn the picture, as telephones do."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    one, zero = 0x00010000, 0
    side = one if clockwise else -one
    matrix = (zero, side, zero, -side, zero, zero, zero, zero, 0x40000000)
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of a film (modulo PERIOD) these are."""
    third = frames.shape[2] // 3
    sides = (frames[:, :, :third], frames[:, :, -third:])
    high, low = ((side.mean(axis=(1, 2, 3)) - 10) / STEP for side in sides)
    return [int(n) for n in np.rint(high) * BASE + np.rint(low)]


def episodes(folder: Path) -> dict[str, tuple[EpisodeMeta, np.ndarray]]:
    """All that a converter wrote."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != "summary.json":
            meta = from_json(path.read_bytes())
            frames = decode_mp4(path.with_suffix(".mp4").read_bytes())
            assert frames.shape == (meta.num_frames, meta.height, meta.width, 3)
            found[meta.id] = (meta, frames)
    return found


def texts(meta: EpisodeMeta) -> list[str]:
    return [action.text for action in meta.actions]


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def truncated(path: Path, share: float) -> Path:
    """The first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def sound_only(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    path.write_bytes(buffer.getvalue())
    return path
