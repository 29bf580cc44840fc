"""Where a thing is in pictures, and how its own part of a picture compares. Pure functions."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int, Shaped, UInt8
from torch import Tensor

COLOUR_DISTANCE = 120.0
"""Euclidean distance in red, green, blue (0 to 255) from which on a pixel is not the thing's."""

LEAST_CROP = 16
"""Pixels; a smaller thing is compared with what is around it."""

LPIPS_SIDE = 64


def locate(
    frame: UInt8[np.ndarray, "height width 3"], colour: Sequence[int]
) -> tuple[float, float] | None:
    """Middle of the largest blob of a colour: column and row in pixels from the top left corner.

    Each pixel weighs by how near its colour is, so that a blob's edges count in part; None where no
    pixel is near.
    """
    apart = np.linalg.norm(frame.astype(np.float64) - np.asarray(colour), axis=2)
    weights = np.clip(1 - apart / COLOUR_DISTANCE, 0, None)
    blobs = _blobs(weights > 0)
    if not blobs.any():
        return None
    sums = np.bincount(blobs.ravel(), weights.ravel())
    sums[0] = 0
    blob = np.where(blobs == sums.argmax(), weights, 0)
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]] + 0.5
    return float((columns * blob).sum() / blob.sum()), float((rows * blob).sum() / blob.sum())


def _blobs(mask: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, "height width"]:
    """One number for each set of touching pixels, also by their corners; 0 outside."""
    height, width = mask.shape
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        wide = np.pad(numbers, 1)
        near = [wide[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        spread = np.where(mask, np.max(near, axis=0), 0)
        if np.array_equal(spread, numbers):
            return numbers
        numbers = spread


def project(
    camera: Float64[np.ndarray, "3 4"], place: Sequence[float | int]
) -> tuple[float, float]:
    """Column and row at which a place in the world is seen."""
    column, row, depth = camera @ np.array([*place, 1.0])
    return float(column / depth), float(row / depth)


def at_height(
    camera: Float64[np.ndarray, "3 4"], pixel: tuple[float, float], height: float | int
) -> tuple[float, float]:
    """The place x, y of this height that is seen at a pixel (column, row)."""
    rows = camera[:2] - np.outer(pixel, camera[2])
    x, y = np.linalg.solve(rows[:, :2], -(rows[:, 2] * height + rows[:, 3]))
    return float(x), float(y)


def around(box: Sequence[int], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a square around a box, twice its side and inside the picture."""
    left, top, right, bottom = box
    side = min(max(LEAST_CROP, 2 * max(right - left, bottom - top)), height, width)
    first_row = min(max((top + bottom - side) // 2, 0), height - side)
    first_column = min(max((left + right - side) // 2, 0), width - side)
    return slice(first_row, first_row + side), slice(first_column, first_column + side)


def enlarged(crop: Shaped[Tensor, "3 side side"]) -> Float[Tensor, "1 1 3 64 64"]:
    """A crop as large as LPIPS needs pictures to be, values in [0, 1]."""
    values = crop.float() / 255 if crop.dtype == torch.uint8 else crop.float()
    size = (LPIPS_SIDE, LPIPS_SIDE)
    return F.interpolate(values[None], size, mode="bilinear", align_corners=False)[None].clamp(0, 1)
