"""From a simulator's pictures to frames, and how alike two frames are. Torch-free."""

import numpy as np
from numpy.typing import NDArray

GAMMA = 1.5
_FINE = 8
"""Steps of a brightness level that are told apart before brightening."""


def shrink(pictures: NDArray[np.uint8], size: int, gamma: float | None = None) -> NDArray[np.uint8]:
    """Crop the middle square, average down to `size` pixels and brighten by gamma (None: GAMMA)."""
    side = pictures.shape[1]
    left = (pictures.shape[2] - side) // 2
    weights = area_weights(side, size)
    planes = np.moveaxis(pictures[:, :, left : left + side], 3, 1).astype(np.float32)
    small = np.moveaxis(weights @ planes @ weights.T, 1, 3)
    levels = np.arange(_FINE * 255 + 1) / (_FINE * 255)
    brighter = np.round(255 * levels ** (1 / (gamma or GAMMA))).astype(np.uint8)
    return np.asarray(brighter[np.rint(small * _FINE).astype(np.int64)])


def area_weights(side: int, size: int) -> NDArray[np.float32]:
    """Row i holds how much of each of `side` pixels lies under output pixel i; rows sum to 1."""
    edges, pixels = np.linspace(0, side, size + 1), np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.clip(overlap, 0, 1) * size / side, dtype=np.float32)


def revisit_psnr(
    frames: NDArray[np.uint8], pairs: list[tuple[int, int]]
) -> tuple[float, float] | None:
    """Least and mean PSNR (dB) over pairs of frames; equal frames count as 99 dB."""
    if not pairs:
        return None
    values = []
    for first, later in pairs:
        error = np.mean((frames[first].astype(np.float64) - frames[later]) ** 2)
        values.append(min(99.0, float(10 * np.log10(255**2 / max(error, 1e-9)))))
    return round(min(values), 2), round(float(np.mean(values)), 2)
