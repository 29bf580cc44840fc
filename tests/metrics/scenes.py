"""Moving pictures with known cuts and places, drawn from named generators."""

import itertools

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


class Corners:
    """Clip features that are quick to compute: some pixels of the first and last frame."""

    name, sha256, resize = "corners", "0" * 64, "none"

    def __call__(self, clips: Tensor) -> Tensor:
        return torch.cat([clips[:, 0, :, 0, 0], clips[:, -1, :, 1, 2]], dim=1)


class MeanColour:
    """Frame features that are quick to compute."""

    name, sha256, resize = "mean-colour", "0" * 64, "none"

    def __call__(self, frames: Tensor) -> Tensor:
        return frames.mean((2, 3))


SHIFTS = {"left": -2, "right": 2, "stay": 0}


def sliding(parts: list[tuple[str, int]], height: int = 20, width: int = 24) -> Tensor:
    """A window that slides over a texture; each part is an action and its number of frames."""
    offsets = [0]
    for action, num in parts:
        offsets += [offsets[-1] + SHIFTS[action] * (i + 1) for i in range(num)]
    wide = texture(3, height, width + 400)
    return torch.stack([wide[:, :, 200 + x : 200 + x + width] for x in offsets[1:]])


class Drift:
    """Reads the actions of `sliding` exactly: the shift under which two frames agree."""

    actions, name, sha256, resize = tuple(SHIFTS), "drift", "0" * 64, "none"

    def __call__(self, video: Tensor) -> Tensor:
        rows = []
        for a, b in itertools.pairwise(video):
            inner = a[:, :, 4:-4]
            errors = [
                (inner - b[:, :, 4 - s : b.shape[2] - 4 - s]).abs().mean() for s in SHIFTS.values()
            ]
            rows.append(torch.softmax(-1000 * torch.stack(errors), dim=0))
        return torch.stack(rows)
