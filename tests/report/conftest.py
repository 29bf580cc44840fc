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


def with_truth(report: dict[str, Any]) -> dict[str, Any]:
    """Add what the truth scores, and what the rows close of the gap to it."""

    def cell(value: float | None) -> dict[str, Any]:
        return {"value": value, "low": None, "high": None, "passport": {}}

    for row in report["rows"].values():
        row["metrics"] |= {"src": cell(80.0), "src_ceiling": cell(99.0), "return_lpips": cell(0.5)}
    metrics = {"psnr_decoded": cell(35.0), "src_decoded": cell(98.0), "src_ceiling": cell(99.0)}
    report["truth"] = {"n": 6, "metrics": metrics}
    share = {"value": 0.614, "low": 0.551, "high": 0.668, "n": 6}
    gone = {"value": None, "low": None, "high": None, "n": 6}
    report["gap_closed"] = {
        "fast": {
            "return_lpips": {"decoded": share, "truth": share | {"value": -0.04, "low": None}},
            "return_psnr": {"decoded": gone},
        }
    }
    report["undone"], report["learned"] = {"none": 0, "fast": 12}, {"fast": 240}
    return report


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
