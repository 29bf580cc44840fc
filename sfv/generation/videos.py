"""Generated videos as files, without loss."""

import io
from pathlib import Path

import av
import torch
from jaxtyping import UInt8
from torch import Tensor

from sfv.files import write_bytes
from sfv.media.limits import MediaError
from sfv.media.rate import exact_rate
from sfv.media.reader import read_frames

Video = UInt8[Tensor, "t 3 height width"]


def write_video(path: Path, video: Video, fps: float | int) -> None:
    """Write an mp4 that decodes to the very same bytes (H.264 in RGB, lossless)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264rgb", rate=exact_rate(fps), options={"qp": "0", "preset": "ultrafast"}
        )
        stream.height, stream.width = video.shape[2:]
        stream.pix_fmt = "rgb24"
        stream.thread_count = 1
        for frame in video.permute(0, 2, 3, 1).contiguous().numpy():
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    write_bytes(path, buffer.getvalue())


def read_video(path: Path, most: int | None = None) -> Video:
    """Read an mp4 of any encoding.

    Args:
        path: the file.
        most: frames to read; None reads all.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        frames = read_frames(path, str(path), most)
    except MediaError as error:
        raise ValueError(f"{path}: is no readable video ({error.fault})") from error
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
