"""How each metric is shown: its name, group, direction, unit, decimals and meaning."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        better: which direction is better; "neither" for what only gives context.
        digits: decimals that are printed.
        of: name of the metric beside which it is shown, as a floor is; "" where it stands alone.
    """

    name: str
    label: str
    better: Literal["higher", "lower", "neither"] = "neither"
    unit: str = ""
    digits: int = 3
    meaning: str = ""
    group: str = "More"
    of: str = ""

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "neither": ""}[self.better]

    @property
    def heading(self) -> str:
        return f"{self.label} {self.arrow}".rstrip()


@dataclass(frozen=True)
class Group:
    """Metrics that come from one way of generating; `companions` stand beside the one they name."""

    title: str
    meaning: str
    metrics: list[Metric]
    companions: dict[str, list[Metric]]


GROUPS = {
    "Next chunk": "one chunk at a time, from the true context and action",
    "Long video": "only the first chunk is true",
    "Way back": "the true way out is shown, the way back is generated",
    "Plan": "imagined, executed in the engine; distances in the environment's unit",
    "More": "",
}

_NEXT, _LONG, _BACK, _PLAN = "Next chunk", "Long video", "Way back", "Plan"
METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "psnr", "PSNR", "higher", "dB", 2,
            "Peak signal-to-noise ratio against the true frames.", _NEXT,
        ),
        Metric(
            "ssim", "SSIM", "higher", "", 3,
            "Structural similarity with the true frames; 1 is equal.", _NEXT,
        ),
        Metric(
            "lpips", "LPIPS", "lower", "", 3,
            "Perceptual distance from the true frames; 0 is equal.", _NEXT,
        ),
        Metric(
            "fvd", "FVD", "lower", "", 0,
            "Fréchet distance between I3D features of generated and true clips. Biased upwards at "
            "small counts: read it beside its floor.", _NEXT,
        ),
        Metric(
            "kvd", "KVD", "lower", "", 3,
            "Kernel distance between the same features, unbiased at small counts; may be negative.",
            _NEXT,
        ),
        Metric(
            "scuts", "Scene cuts", "lower", "per video", 2,
            "Cuts found in one long video. One that hardly moves has few: read motion beside it.",
            _LONG,
        ),
        Metric(
            "src", "Scene return", "higher", "of 100", 2,
            "Likeness of a place at its first and at its later visits, 100 × cosine of features.",
            _LONG,
        ),
        Metric(
            "revisit_psnr", "Revisit PSNR", "higher", "dB", 2,
            "PSNR between the first and the later visits of a place.", _LONG,
        ),
        Metric(
            "revisit_lpips", "Revisit LPIPS", "lower", "", 3,
            "Perceptual distance between the first and the later visits of a place.", _LONG,
        ),
        Metric(
            "border_jump", "Border jump", "neither", "", 2,
            "Change across chunk borders over change inside chunks; 1 is seamless.", _LONG,
        ),
        Metric(
            "motion", "Motion", "neither", "of 255", 2,
            "Mean change between neighbouring frames; context for scene cuts and scene return.",
            _LONG,
        ),
        Metric(
            "human", "Human", "higher", "of 1", 3,
            "What raters say who do not know the system: mean of three criteria from 0 to 1.", _LONG,
        ),
        Metric(
            "return_psnr", "Return PSNR", "higher", "dB", 2,
            "PSNR of the revisiting frames against the true frames of the same moment.", _BACK,
        ),
        Metric(
            "return_lpips", "Return LPIPS", "lower", "", 3,
            "Perceptual distance of the revisiting frames from the true ones of the same moment.",
            _BACK,
        ),
        Metric(
            "return_src", "Scene return", "higher", "of 100", 2,
            "Likeness of the generated way back to the true first visits.", _BACK,
        ),
        Metric(
            "return_fvd", "Return FVD", "lower", "", 0,
            "Fréchet distance between I3D features of generated and true ways back.", _BACK,
        ),
        Metric(
            "return_kvd", "Return KVD", "lower", "", 3,
            "Kernel distance between the same features, unbiased at small counts.", _BACK,
        ),
        Metric(
            "open_return_psnr", "Open return PSNR", "higher", "dB", 2,
            "PSNR of the revisiting frames against the true ones when only the first chunk is true.",
            _LONG,
        ),
        Metric(
            "open_return_lpips", "Open return LPIPS", "lower", "", 3,
            "Perceptual distance of the revisiting frames from the true ones when only the first "
            "chunk is true.", _LONG,
        ),
        Metric(
            "dist", "Dist", "lower", "", 3,
            "Mean distance from the way points of the way back, which are earlier places.", _PLAN,
        ),
        Metric(
            "success", "Success", "higher", "of 1", 2,
            "Share of episodes with every named way point within the tolerance.", _PLAN,
        ),
        Metric(
            "reached", "Way points reached", "higher", "of 1", 2,
            "Share of way points within the tolerance.", _PLAN,
        ),
        Metric(
            "right_choice", "Right choice", "higher", "of 1", 2,
            "Share of the way back's chunks for which the script's action was chosen.", _PLAN,
        ),
        Metric(
            "step_read", "Steps as chosen", "higher", "of 1", 2,
            "Share of planned steps that were read off the imagined frames as the chosen action.",
            _PLAN,
        ),
        Metric("plan_steps", "Steps", "neither", "", 0, "Executed steps of an episode.", _PLAN),
    )
}  # fmt: skip
_OF_OBJECTS = (
    Metric(
        "object_psnr", "Object PSNR", "higher", "dB", 2,
        "PSNR of the thing's part of the picture against the true one.", _BACK,
    ),
    Metric(
        "object_lpips", "Object LPIPS", "lower", "", 3,
        "Perceptual distance of the thing's part of the picture from the true one.", _BACK,
    ),
    Metric(
        "object_pixels", "Object off by", "lower", "pixels", 2,
        "Distance of the thing, found by its colour, from where it should be.", _BACK,
    ),
    Metric(
        "object_metres", "Object off by", "lower", "m", 3,
        "The same on the table, by the camera's calibration.", _BACK,
    ),
    Metric(
        "object_there", "Object there", "higher", "% of frames", 1,
        "Frames whose part with the thing is nearer to the true one than to one without it.", _BACK,
    ),
)  # fmt: skip
METRICS |= {metric.name: metric for metric in _OF_OBJECTS}
METRICS |= {
    f"open_{metric.name}": replace(
        metric, name=f"open_{metric.name}", label=f"Open {metric.label[0].lower()}{metric.label[1:]}",
        group=_LONG,
    )
    for metric in _OF_OBJECTS
}  # fmt: skip

COMPANIONS = {
    "fvd_floor": (
        "floor",
        "FVD between random halves of the true clips. A half has fewer clips, so this lies above "
        "the floor at the full count: compare it with the value at the floor's count.",
    ),
    "fvd_unpaired": (
        "at floor's count",
        "FVD of generated clips against the other half of the true clips: floor and this differ "
        "only in who made the clips.",
    ),
    "src_floor": ("floor", "The same with the visits exchanged: another place of the same world."),
    "_ceiling": ("true video", "What the true video scores."),
    "_floor": (
        "floor",
        "What the true video scores with another of its places, or without the thing, on the way back.",
    ),
}
"""Names (or, with a leading underscore, endings) of what stands beside a metric."""


def grouped(names: Iterable[str]) -> list[Group]:
    """Sort metrics into groups; known ones in the catalogue's order, the others in theirs."""
    names = list(names)
    companions = [found for name in names if (found := _companion(name)) and found.of in names]
    apart = {metric.name for metric in companions}
    alone = [METRICS[name] for name in METRICS if name in names]
    alone += [
        Metric(name, name, digits=0 if name.startswith("fvd") else 3)
        for name in names
        if name not in METRICS and name not in apart
    ]
    groups = []
    for title, meaning in GROUPS.items():
        metrics = [metric for metric in alone if metric.group == title]
        beside = {m.name: [c for c in companions if c.of == m.name] for m in metrics}
        if metrics:
            groups.append(Group(title, meaning, metrics, beside))
    return groups


def format_number(value: float | None, digits: int) -> str:
    """Print a number; an en dash where there is none, the word for inf and nan."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if math.isfinite(value) else str(value)


def _companion(name: str) -> Metric | None:
    for ending, (label, meaning) in COMPANIONS.items():
        base = METRICS.get(name.rpartition("_")[0])
        if name.endswith(ending) and base is not None:
            return replace(
                base, name=name, label=label, better="neither", meaning=meaning, of=base.name
            )
    return None
