"""Moving pictures with known cuts and places, drawn from named generators."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sfv.rng import stream


def texture(place: int, height: int, width: int) -> Tensor:
    """A smooth picture of one place, `3 height width` in [0, 1]."""
    coarse = torch.rand(1, 3, 9, 9, generator=stream(0, "texture", place))
    return F.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)


def pan(place: int, num_frames: int, height: int = 48, width: int = 56, speed: int = 1) -> Tensor:
    """A camera that pans over one place, `t 3 height width`."""
    wide = texture(place, height, width + speed * num_frames)
    starts = range(0, speed * num_frames, speed)
    return torch.stack([wide[:, :, x : x + width] for x in starts])


def noisy(video: Tensor, level: float, key: int = 0) -> Tensor:
    noise = torch.randn(video.shape, generator=stream(0, "noise", key))
    return (video + level * noise).clamp(0, 1)


def walk(place: int, out: int, height: int = 48, width: int = 56) -> tuple[Tensor, list[list[int]]]:
    """Out and back, with the pairs of frames that show one view."""
    there = pan(place, out, height, width)
    video = torch.cat([there, there[:-1].flip(0)])
    return video, [[out - 1 - k, out - 1 + k] for k in range(1, out)]
