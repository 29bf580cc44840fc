"""How each metric is shown: its name, direction, unit, decimals and meaning."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        better: which direction is better; "neither" for what only gives context.
        digits: decimals that are printed.
    """

    name: str
    label: str
    better: Literal["higher", "lower", "neither"] = "neither"
    unit: str = ""
    digits: int = 3
    meaning: str = ""

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "neither": ""}[self.better]

    @property
    def heading(self) -> str:
        return f"{self.label} {self.arrow}".rstrip()


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "psnr", "PSNR", "higher", "dB", 2,
            "Peak signal-to-noise ratio against the true frames.",
        ),
        Metric(
            "ssim", "SSIM", "higher", "", 3,
            "Structural similarity with the true frames; 1 is equal.",
        ),
        Metric(
            "lpips", "LPIPS", "lower", "", 3,
            "Perceptual distance from the true frames; 0 is equal.",
        ),
        Metric(
            "fvd", "FVD", "lower", "", 0,
            "Fréchet distance between I3D features of generated and true videos. Biased upwards at "
            "small counts: read it beside its floor.",
        ),
        Metric(
            "fvd_floor", "FVD floor", "neither", "", 0,
            "FVD between two sets of true videos at this count: what a perfect model would get.",
        ),
        Metric(
            "scuts", "Scene cuts", "lower", "per video", 2,
            "Cuts found in one long video. One that hardly moves has few: read motion beside it.",
        ),
        Metric(
            "src", "Scene return", "higher", "of 100", 2,
            "Likeness of a place at its first and at its later visit, 100 × cosine of features.",
        ),
        Metric(
            "motion", "Motion", "neither", "of 255", 2,
            "Mean change between neighbouring frames; context for scene cuts and scene return.",
        ),
        Metric(
            "kvd", "KVD", "lower", "", 3,
            "Kernel distance between I3D features: like FVD, but unbiased at small counts.",
        ),
        Metric(
            "border_jump", "Border jump", "neither", "", 2,
            "Change across chunk borders over change inside chunks; 1 is seamless.",
        ),
    )
}  # fmt: skip


def format_number(value: float | None, digits: int) -> str:
    """Print a number; an en dash where there is none, the word for inf and nan."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if math.isfinite(value) else str(value)
