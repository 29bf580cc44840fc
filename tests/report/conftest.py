import copy
from typing import Any

import numpy as np
import pytest


def cell(
    value: float | None, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "passport": {"metric": "m", "count": 5}}


_REPORT = {
    "rows": {
        "none": {
            "n": 5,
            "metrics": {
                "psnr": cell(19.804, 18.5, 20.25),
                "fvd": cell(1320.4),
                "fvd_floor": cell(812.0),
                "lpips": cell(0.3414, 0.32, 0.36),
            },
        },
        "fast": {
            "n": 6,
            "metrics": {
                "psnr": cell(21.16, 20.0, 22.0),
                "fvd": cell(991.6),
                "fvd_floor": cell(812.0),
                "lpips": cell(0.302, 0.28, 0.33),
            },
        },
    },
    "settings": {"command": "sfv demo --out runs/x", "seed": 7, "fast": {"lr": 0.001}},
}


@pytest.fixture
def report() -> dict[str, Any]:
    """A report of two rows without paired differences, free to change."""
    return copy.deepcopy(_REPORT)


@pytest.fixture
def frames() -> np.ndarray:
    """20 frames of 30 x 44: a bright square wanders over a gradient; no two frames are equal."""
    rows, columns = np.mgrid[:30, :44]
    video = np.empty((20, 30, 44, 3), np.uint8)
    for index, frame in enumerate(video):
        frame[..., 0] = 40 + 3 * rows
        frame[..., 1] = 30 + 2 * columns
        frame[..., 2] = 90
        frame[8:16, 2 * index : 2 * index + 6] = (250, 240, 60)
    return video
