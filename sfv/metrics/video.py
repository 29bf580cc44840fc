"""What every metric asks of a video, and how a long one is cut into clips."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def check_video(video: Tensor, name: str = "video") -> Float[Tensor, "*b t 3 height width"]:
    """Return the video as float32 in [0, 1].

    Args:
        video: uint8 in 0..255, or floating point in [0, 1]; `(b) t 3 height width`.
        name: how an error calls it.

    Raises:
        ValueError: wrong shape, wrong type, values outside the range or not finite.
    """
    if video.dim() not in (4, 5) or video.shape[-3] != 3:
        raise ValueError(
            f"{name} has shape {tuple(video.shape)}; expected `t 3 height width` or "
            "`b t 3 height width` (frames before channels; permute it)"
        )
    if video.numel() == 0:
        raise ValueError(f"{name} of shape {tuple(video.shape)} is empty; give at least one frame")
    if video.dtype == torch.uint8:
        return video.float() / 255
    if not video.is_floating_point():
        raise ValueError(
            f"{name} has type {video.dtype}; expected uint8 in 0..255 or a float in [0, 1]"
        )
    low, high = float(video.min()), float(video.max())
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"{name} has values from {low:.4g} to {high:.4g}; a float video must be in [0, 1]: "
            "clamp it, divide by 255, or map [-1, 1] with (x + 1) / 2"
        )
    return video.float()


def check_pair(
    video_a: Tensor, video_b: Tensor
) -> tuple[Float[Tensor, "*b t 3 height width"], Float[Tensor, "*b t 3 height width"]]:
    """Check two videos that are compared frame by frame.

    Raises:
        ValueError: their shapes differ, or one is refused by `check_video`.
    """
    if video_a.shape != video_b.shape:
        raise ValueError(
            f"the videos have shapes {tuple(video_a.shape)} and {tuple(video_b.shape)}; "
            "frame-wise metrics need equal shapes: cut or resize one of them"
        )
    return check_video(video_a, "the first video"), check_video(video_b, "the second video")


def clips(
    video: Shaped[Tensor, "t 3 height width"], num_frames: int = 16, stride: int | None = None
) -> Shaped[Tensor, "n {num_frames} 3 height width"]:
    """Cut a video into clips; frames behind the last whole clip are left out.

    Args:
        video: one video, any type.
        num_frames: frames in a clip.
        stride: frames between the starts of two clips; None puts clips side by side.

    Raises:
        ValueError: the video is shorter than one clip, or a count is not positive.
    """
    num_clips(video.shape[0], num_frames, stride)
    return video.unfold(0, num_frames, num_frames if stride is None else stride).movedim(-1, 1)


def num_clips(length: int, num_frames: int = 16, stride: int | None = None) -> int:
    """Clips that `clips` cuts from a video of so many frames.

    Raises:
        ValueError: as `clips`.
    """
    step = num_frames if stride is None else stride
    if num_frames < 1 or step < 1:
        raise ValueError(f"num_frames={num_frames} and stride={step} must be at least 1")
    if length < num_frames:
        raise ValueError(
            f"the video has {length} frames, one clip needs {num_frames}: "
            "give longer videos or set a smaller clip length"
        )
    return (length - num_frames) // step + 1
