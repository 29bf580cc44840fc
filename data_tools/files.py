"""Episode folders: `ID.mp4` beside `ID.json`, written whole or not at all."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from sfv.data.schema import EpisodeMeta, SchemaError, from_json, to_json
from sfv.files import write_bytes

VIDEO_CODEC = "libx264rgb"
_VIDEO_OPTIONS = {"qp": "0", "preset": "ultrafast"}


def encode_mp4(frames: NDArray[np.uint8], fps: float) -> bytes:
    """Encode losslessly: decoding gives back every byte, so the file never caps a PSNR.

    Args:
        frames: `t height width 3`, RGB.
        fps: a whole number of frames a second, at least 1.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(VIDEO_CODEC, rate=round(fps), options=_VIDEO_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.thread_count = 1
        for frame in frames:
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
        texts = {p.stem: p for p in folder.glob("*.json") if p.name != "summary.json"}
        videos = {p.stem: p for p in folder.glob("*.mp4")}
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
