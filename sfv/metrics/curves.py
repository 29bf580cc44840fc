"""Curves: how a quality depends on the gap between two visits, or on how long a video has run.

A bin's value is the mean over episodes of each episode's mean in the bin, so that an episode with
many revisits does not outvote the others; its interval is that of `protocol.mean_value`.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sfv.metrics.frame import lpips, psnr
from sfv.metrics.motion import frame_changes
from sfv.metrics.protocol import (
    Difference,
    MetricValue,
    Passport,
    differing,
    mean_value,
    paired_difference,
)
from sfv.metrics.scene_revisit import FrameFeatures, Visits, check_visits, video_revisit_similarity
from sfv.metrics.scene_revisit import revisit_lpips as lpips_of_visits
from sfv.metrics.scene_revisit import revisit_psnr as psnr_of_visits

Points = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""Where on the axis, and the quality there, of one episode."""


@dataclass(frozen=True)
class Bin:
    """One bin of a curve.

    Attributes:
        start: first gap or frame.
        stop: one past the last.
        num_items: pairs or frames in it, over all episodes.
        value: mean over the episodes that have any; its passport counts them.
    """

    start: int
    stop: int
    num_items: int
    value: MetricValue


@dataclass(frozen=True)
class Curve:
    """A quality along an axis, in frames.

    Attributes:
        metric: its name.
        axis: what the bins hold: "gap" between two visits, or "frame" of the video.
        bins: without those that no episode has anything in.
        passport: of all bins; `count` is the number of episodes.
    """

    metric: str
    axis: str
    bins: tuple[Bin, ...]
    passport: Passport

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; numbers that are not finite become None."""
        bins = []
        for one in self.bins:
            known = one.value.to_dict()
            bins.append(
                {
                    "start": one.start,
                    "stop": one.stop,
                    "items": one.num_items,
                    "episodes": one.value.passport.count,
                    **{name: known[name] for name in ("value", "low", "high")},
                }
            )
        return {
            "metric": self.metric,
            "axis": self.axis,
            "unit": "frames",
            "bins": bins,
            "passport": self.passport.to_dict(),
        }


def doubling_edges(largest: int) -> list[int]:
    """1, 2, 4, ... until `largest` lies inside: equal bins for videos of any length."""
    edges = [1]
    while edges[-1] <= largest:
        edges.append(2 * edges[-1])
    return edges


def even_edges(num_frames: int, chunk_frames: int, most: int = 16) -> list[int]:
    """Bins of whole chunks, at most `most`; the last may reach behind the video."""
    num_chunks = -(-num_frames // chunk_frames)
    width = chunk_frames * -(-num_chunks // most)
    return list(range(0, num_frames + width, width))


def binned(
    metric: str, axis: str, points: Sequence[Points], edges: Sequence[int], passport: Passport
) -> Curve:
    """Sort every episode's points into bins.

    Args:
        metric: name of the curve.
        axis: what its points lie on.
        points: one entry an episode; NaN qualities are left out.
        edges: bin i holds edges[i] <= x < edges[i + 1].
        passport: of the curve.

    Raises:
        ValueError: edges that do not rise, or points outside all bins.
    """
    if len(edges) < 2 or any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"bin edges are {list(edges)}; give at least two, each above the last")
    for x, _ in points:
        if len(x) and not edges[0] <= x.min() <= x.max() < edges[-1]:
            raise ValueError(
                f"{metric}: {axis} from {x.min()} to {x.max()} lies outside the bins from "
                f"{edges[0]} to {edges[-1]}; give wider edges"
            )
    passport = replace(passport, metric=metric, count=len(points))
    bins = []
    for start, stop in itertools.pairwise(edges):
        chosen = [y[(start <= x) & (x < stop) & ~np.isnan(y)] for x, y in points]
        num = sum(map(len, chosen))
        if num:
            means = [float(y.mean()) if len(y) else float("nan") for y in chosen]
            bins.append(Bin(start, stop, num, mean_value(means, passport)))
    return Curve(metric, axis, tuple(bins), passport)


def curve_difference(a: Curve, b: Curve) -> list[tuple[int, int, Difference]]:
    """Paired difference `b - a` of every bin: (start, stop, difference).

    Raises:
        ValueError: the curves were not measured alike, or have other bins.
    """
    different = differing(a.passport.to_dict(), b.passport.to_dict())
    spans = [[(one.start, one.stop) for one in curve.bins] for curve in (a, b)]
    if different or spans[0] != spans[1]:
        said = "; ".join(different) or f"bins: {spans[0]} and {spans[1]}"
        raise ValueError(f"the curves of {a.metric} and {b.metric} differ in {said}")
    return [
        (x.start, x.stop, paired_difference(x.value, replace(y.value, passport=x.value.passport)))
        for x, y in zip(a.bins, b.bins, strict=True)
    ]


def _points(x: Any, values: Tensor) -> Points:
    return np.asarray(x, dtype=np.int64), values.double().numpy()


def gap_points(visits: Visits, values: Float[Tensor, " pairs"]) -> Points:
    """The quality of each pair against its gap, later frame - first frame."""
    return _points([later - first for first, later in visits], values)


RevisitMeasure = Callable[[Tensor, Visits], Tensor]


def revisit_measures(features: FrameFeatures) -> Mapping[str, RevisitMeasure]:
    """What compares the first and the later visit inside one video, by name."""
    return {
        "recall_psnr": psnr_of_visits,
        "recall_lpips": lpips_of_visits,
        "recall_src": lambda video, visits: video_revisit_similarity(video, visits, features),
    }


def against_truth(
    video: Shaped[Tensor, "t 3 height width"],
    true: Shaped[Tensor, "t 3 height width"],
    visits: Visits,
) -> dict[str, Float[Tensor, " pairs"]]:
    """PSNR and LPIPS of every later visit against the true frame of the same moment."""
    _, later = check_visits(visits, len(video))
    a, b = true[later][None], video[later][None]
    return {"recall_true_psnr": psnr(a, b)[0], "recall_true_lpips": lpips(a, b)[0]}


def drift_points(
    video: Shaped[Tensor, "t 3 height width"],
    true: Shaped[Tensor, "t 3 height width"] | None = None,
) -> dict[str, Points]:
    """Quality of every frame against its number: change from the frame before; PSNR, LPIPS with truth."""
    frames = range(len(video))
    found = {"drift_motion": _points(frames[1:], frame_changes(video))}
    if true is not None:
        found["drift_psnr"] = _points(frames, psnr(true[None], video[None])[0])
        found["drift_lpips"] = _points(frames, lpips(true[None], video[None])[0])
    return found
