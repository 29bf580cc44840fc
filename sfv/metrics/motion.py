"""How much moves, and whether chunks join smoothly.

Fewer scene cuts and steadier scenes may only mean that less happens: report motion beside them.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sfv.metrics.video import check_video
from sfv.metrics.video_mean import VideoMean


def frame_changes(video: Shaped[Tensor, "t 3 height width"]) -> Float[Tensor, " changes"]:
    """Mean absolute difference of neighbouring frames over pixels and colours, in units of 0..255.

    Raises:
        ValueError: fewer than two frames, or not a video.
    """
    frames = check_video(video)
    if frames.dim() != 4 or len(frames) < 2:
        raise ValueError(
            f"motion of a video of shape {tuple(frames.shape)}; give `t 3 height width` with at "
            "least 2 frames"
        )
    return frames.diff(dim=0).abs().mean(dim=(1, 2, 3)) * 255


def motion(video: Shaped[Tensor, "t 3 height width"]) -> float:
    """Mean of `frame_changes`; 0 is a still, and needs no optical flow."""
    return float(frame_changes(video).mean())


def border_jump(video: Shaped[Tensor, "t 3 height width"], chunk_frames: int) -> float:
    """Mean change across chunk borders over mean change inside chunks; 1 is seamless.

    NaN for a video in which nothing moves inside the chunks.

    Args:
        video: chunks of `chunk_frames` frames one after another; the last may be shorter.
        chunk_frames: at least 2, and fewer than the video's frames.

    Raises:
        ValueError: there is no border or no inside.
    """
    changes = frame_changes(video)
    if not 2 <= chunk_frames <= len(changes):
        raise ValueError(
            f"chunk_frames={chunk_frames} for a video of {len(changes) + 1} frames; a border needs "
            f"2 <= chunk_frames <= {len(changes)}"
        )
    border = torch.arange(1, len(changes) + 1) % chunk_frames == 0
    inside = changes[~border].mean()
    return float(changes[border].mean() / inside) if inside > 0 else float("nan")


class Motion(VideoMean):
    """Mean `motion` over videos."""

    def update(self, video: Tensor) -> None:
        """Add a batch, `b t 3 height width`."""
        self._add(torch.stack([frame_changes(one) for one in video]))


class BorderJump(VideoMean):
    """Mean `border_jump` over the videos in which something moves.

    Args:
        chunk_frames: frames in a chunk.
    """

    higher_is_better = False

    def __init__(self, chunk_frames: int) -> None:
        super().__init__()
        self.chunk_frames = chunk_frames

    def update(self, video: Tensor) -> None:
        """Add a batch, `b t 3 height width`."""
        self._add(torch.tensor([[border_jump(one, self.chunk_frames)] for one in video]))
