"""Pure steps from a stored episode to a batch: decode, collate (`windows` cuts)."""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.lib import format as npy
from torch import Tensor

from sfv.data.index import DAMAGE, ShardError, one_episode
from sfv.data.shards import Sample
from sfv.data.windows import Window, WindowError
from sfv.media.limits import MediaError
from sfv.media.reader import read_frames
from sfv.types import WindowBatch


def decode_mp4(
    content: bytes,
    where: str = "video",
    most: int | None = None,
    size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "t height width 3"]:
    """Decode frames to RGB.

    Args:
        content: an mp4 file (or any container that FFmpeg knows).
        where: named in errors.
        most: frames to decode; None decodes all.
        size: height and width that are expected; larger frames are refused before they are decoded.

    Raises:
        ShardError: the video cannot be read, or its frames are larger.
    """
    try:
        return read_frames(content, where, most, size)
    except MediaError as error:
        raise ShardError(
            f"{where}: unreadable video ({error.fault}); collect or convert the episode again"
        ) from error


def read_npy(content: bytes) -> np.ndarray:
    """Read an npy file that its numbers fill to the last byte.

    `np.load` makes room for the shape that a file claims, opens zip files, and takes its length from
    the header; this does none of it.

    Raises:
        ValueError: not an npy file of plain numbers, or another size than its shape says.
    """
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}; 1.0 and 2.0 are allowed")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    place = file.tell()
    if dtype.kind not in "biuf" or min(shape, default=1) < 1:
        raise ValueError(
            f"{dtype} of shape {shape}; plain numbers with sizes >= 1 are allowed, pickled Objects are not"
        )
    needed, given = math.prod(shape) * dtype.itemsize, len(content) - place
    if needed != given:
        raise ValueError(f"shape {shape} of {dtype} needs {needed} bytes, there are {given}")
    numbers = np.frombuffer(content, dtype, offset=place).copy()
    return numbers.reshape(shape, order="F" if is_fortran else "C")


def decode_latents(content: bytes, where: str = "latents") -> Float[Tensor, "c t h w"]:
    """Read a float16 array; pickled objects are refused.

    Raises:
        ShardError: not such an array, or one with infinite or missing numbers.
    """
    try:
        array = read_npy(content)
    except DAMAGE as error:
        raise ShardError(f"{where}: unreadable latents ({error}); encode them again") from error
    if array.dtype != np.float16 or array.ndim != 4:
        raise ShardError(
            f"{where}: latents are {array.dtype} with {array.ndim} dimensions; float16 c t h w is "
            "allowed: encode them again"
        )
    if not np.isfinite(array).all():
        raise ShardError(f"{where}: latents hold inf or nan; encode them again")
    return torch.from_numpy(array)


def encode_latents(latents: Float[Tensor, "c t h w"], where: str = "latents") -> bytes:
    """Give the bytes of a float16 npy file.

    Raises:
        ShardError: a value is too large for float16.
    """
    array = latents.to(torch.float16).cpu().numpy()
    if not np.isfinite(array).all():
        raise ShardError(
            f"{where}: latents do not fit float16 (largest {latents.abs().max():.3g}); scale the "
            "codec's output to about unit variance"
        )
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_frames(content: bytes, where: str = "frames") -> UInt8[np.ndarray, "t height width 3"]:
    """Read a uint8 array of frames; pickled objects are refused.

    Raises:
        ShardError: not such an array.
    """
    try:
        array = read_npy(content)
    except DAMAGE as error:
        raise ShardError(f"{where}: unreadable frames ({error}); write them again") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise ShardError(
            f"{where}: frames are {array.dtype} {list(array.shape)}; uint8 t height width 3 is "
            "allowed: write them again"
        )
    return np.asarray(array)


def decode(sample: Sample, where: str = "") -> Tensor:
    """Decode an episode's frames and check their number and size against its metadata.

    Returns:
        float16 latents `c t h w`, or uint8 video `t 3 height width`.

    Raises:
        ShardError: unreadable, or not what the metadata says.
    """
    meta = sample.meta
    where = f"{where}: {meta.id}" if where else f"episode {meta.id}"
    with one_episode(where):
        if meta.encoding.kind == "latents":
            frames = decode_latents(sample.payload, where)
            given, said = [frames.shape[1]], [meta.num_frames]
        else:
            frames = torch.from_numpy(_pixels(sample, where)).permute(0, 3, 1, 2)
            given, said = list(frames.shape), [meta.num_frames, 3, meta.height, meta.width]
    if given != said:
        raise ShardError(f"{where}: frames are {given}, the metadata says {said}")
    return frames


def collate(chosen: Sequence[Window]) -> WindowBatch:
    """Stack windows of one bucket to a batch: float32 latents, or uint8 video.

    Raises:
        WindowError: the windows' shapes differ.
    """
    first = chosen[0]
    for window in chosen:
        if window.frames.shape != first.frames.shape:
            raise WindowError(
                f"window {window.key} is {list(window.frames.shape)}, {first.key} is "
                f"{list(first.frames.shape)}; one batch needs one frame size: encode all episodes "
                "at the same height and width"
            )
    frames = torch.stack([window.frames for window in chosen])
    batch = WindowBatch(
        num_context=first.num_context,
        actions=[window.action for window in chosen],
        keys=[window.key for window in chosen],
    )
    if frames.dtype == torch.uint8:
        batch["video"] = frames  # a quarter of float's bytes on the way to the device
    else:
        batch["latents"] = frames.float()
    return batch


def _pixels(sample: Sample, where: str) -> UInt8[np.ndarray, "t height width 3"]:
    """Decode video or stored frames; of a video no more than the metadata says, and one to tell by."""
    meta = sample.meta
    if meta.encoding.kind == "frames":
        return decode_frames(sample.payload, where)
    return decode_mp4(sample.payload, where, meta.num_frames + 1, (meta.height, meta.width))
