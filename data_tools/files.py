"""Episode folders: `ID.mp4` beside `ID.json`, written whole or not at all."""

import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from sfv.data.schema import EpisodeMeta, SchemaError, from_json, to_json
from sfv.files import write_bytes
from sfv.media.rate import exact_rate
from sfv.names import is_hidden

VIDEO_CODEC = "libx264rgb"


@dataclass(frozen=True)
class Quality:
    """How a video is encoded.

    Args:
        codec: FFmpeg's name of the encoder; goes into the metadata of an episode.
        pix_fmt: pixel format that the encoder gets.
        options: of the encoder, (name, value).
    """

    codec: str
    pix_fmt: str
    options: tuple[tuple[str, str], ...]


LOSSLESS = Quality(VIDEO_CODEC, "rgb24", (("qp", "0"), ("preset", "ultrafast")))
"""Decoding gives back every byte, so the file never caps a PSNR. For simulators."""


def h264(crf: int = 18) -> Quality:
    """Lossy H.264 (yuv420p) for camera video, whose noise makes lossless files huge.

    Args:
        crf: constant rate factor, 0 (best) to 51; 18 is hard to tell from the source.

    Raises:
        ValueError: a crf out of range.
    """
    if not 0 <= crf <= 51:
        raise ValueError(f"crf {crf}: allowed are 0 (best) to 51 (smallest)")
    # Slower presets give other bytes from call to call on small pictures (x264 core 165).
    return Quality("libx264", "yuv420p", (("crf", str(crf)), ("preset", "veryfast")))


def encode_mp4(
    frames: Iterable[NDArray[np.uint8]], fps: float, quality: Quality = LOSSLESS
) -> bytes:
    """Encode frames one by one.

    Args:
        frames: each `height width 3`, RGB; an array `t height width 3` or an iterator.
        fps: frames a second; not rounded.
        quality: `LOSSLESS` or `h264(crf)`; the latter needs an even height and width.

    Raises:
        ValueError: no frame, or an odd size with yuv420p.
    """
    left = iter(frames)
    first = next(left, None)
    if first is None:
        raise ValueError("no frame to encode: an episode has at least one")
    height, width = first.shape[:2]
    if quality.pix_fmt == "yuv420p" and (height % 2 or width % 2):
        raise ValueError(f"frames of {height}x{width}: h264 needs an even height and width")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            quality.codec, rate=exact_rate(fps), options=dict(quality.options)
        )
        stream.height, stream.width = height, width
        stream.pix_fmt = quality.pix_fmt
        stream.thread_count = 1
        for frame in itertools.chain([first], left):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()


def write_episode(folder: Path, meta: EpisodeMeta, mp4: bytes) -> None:
    """Write the video, then the JSON; so an episode that has its JSON is complete."""
    text = to_json(meta)
    write_bytes(folder / f"{meta.id}.mp4", mp4)
    write_bytes(folder / f"{meta.id}.json", text.encode())


def episode_files(folders: list[Path]) -> dict[str, Path]:
    """Find the JSON of every episode by file names alone, in the order of the ids.

    Raises:
        SchemaError: no episode, an id twice, a JSON without its video or a video without its JSON.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        files_there = [path for path in folder.iterdir() if not is_hidden(path, folder)]
        texts = {p.stem: p for p in files_there if p.suffix == ".json" and p.stem != "summary"}
        videos = {p.stem: p for p in files_there if p.suffix == ".mp4"}
        lonely = sorted(set(texts) ^ set(videos))
        if lonely:
            raise SchemaError(
                f"{folder}: episode {lonely[0]!r} has only one of .mp4 and .json; collect it again "
                "(--resume) or remove it"
            )
        double = sorted(set(texts) & set(files))
        if double:
            raise SchemaError(
                f"episode {double[0]!r} stands in {folder} and {files[double[0]].parent}"
            )
        files |= texts
    if not files:
        raise SchemaError(f"no episode (ID.mp4 with ID.json) in {[str(f) for f in folders]}")
    return dict(sorted(files.items()))


def find_episodes(folders: list[Path]) -> Iterator[tuple[EpisodeMeta, Path]]:
    """Go through folders of episodes in the order of their ids.

    Yields:
        the metadata and the video's path.

    Raises:
        SchemaError: as `episode_files`; a JSON that breaks the schema or names another id.
    """
    for path in episode_files(folders).values():
        yield read_meta(path), path.with_suffix(".mp4")


def read_meta(path: Path) -> EpisodeMeta:
    """Read the JSON of one episode.

    Raises:
        SchemaError: it breaks the schema or names another id than its file.
    """
    meta = from_json(path.read_bytes(), str(path))
    if meta.id != path.stem:
        raise SchemaError(f"{path}: names the id {meta.id!r}; file name and id have to agree")
    return meta


def settings_hash(settings: dict[str, object]) -> str:
    """Short hash of settings that decide the content of an episode."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
