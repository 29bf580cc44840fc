"""Bring frames to another size."""

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Fit = Literal["crop", "stretch", "pad"]
"""`crop` cuts the middle out, `stretch` changes the shape of things, `pad` adds black bars."""
FITS: tuple[str, ...] = get_args(Fit)


def fit_frame(frame: NDArray[np.uint8], height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
    """Bring a frame to `height width 3`: averaged over areas when it shrinks, linear when it grows."""
    old_height, old_width = frame.shape[:2]
    scales = (height / old_height, width / old_width)
    if fit == "stretch":
        return _resize(frame, height, width)
    if fit == "crop":
        scale = max(scales)
        rows, columns = min(old_height, height / scale), min(old_width, width / scale)
        top, left = round((old_height - rows) / 2), round((old_width - columns) / 2)
        inner = frame[top : top + round(rows), left : left + round(columns)]
        return _resize(inner, height, width)
    scale = min(scales)
    rows, columns = round(old_height * scale), round(old_width * scale)
    padded = np.zeros((height, width, 3), dtype=np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    padded[top : top + rows, left : left + columns] = _resize(frame, rows, columns)
    return padded


def _resize(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = height <= frame.shape[0] and width <= frame.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=method), dtype=np.uint8)
