"""Curves of long videos: recall by the gap between visits, quality by the length of the video."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from sfv.metrics.curves import (
    Curve,
    Points,
    against_truth,
    binned,
    doubling_edges,
    drift_points,
    even_edges,
    gap_points,
    revisit_measures,
)
from sfv.metrics.protocol import Passport
from sfv.metrics.scene_revisit import FrameFeatures, Visits
from sfv.metrics.suite_common import Progress, check_lists, lpips_passport, quiet, videos_hash
from sfv.metrics.suite_long import FIRST_CHUNK, default_frame_features


def score_curves(
    videos: Sequence[Tensor],
    revisits: Sequence[Visits],
    *,
    chunk_frames: int,
    reference: Sequence[Tensor] | None = None,
    frame_features: FrameFeatures | None = None,
    context: str = FIRST_CHUNK,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Curve]:
    """Recall by gap and drift over length, with an interval and a count for every bin.

    Along the gap between two visits, in doubling bins: `recall_psnr`, `recall_lpips`, `recall_src` of
    the later visit against the first one of the same video; with the true videos also
    `recall_true_psnr`, `recall_true_lpips` of the later visit against the truth of that moment, and
    `NAME_ceiling` of the first three. Along the video, in at most 16 bins of whole chunks:
    `drift_motion`; with the true videos `drift_psnr`, `drift_lpips` and `drift_motion_ceiling`. Curves
    over gaps are left out where no episode returns.

    Args:
        videos: one long video an episode.
        revisits: for each episode, pairs [first_frame, later_frame] of equal pose.
        chunk_frames: frames in a chunk.
        reference: the true videos, at least as long.
        frame_features: network of SRC; None: AlexNet.
        context: which frames of the videos are true, for the passports.
        seed: for the passports.
        progress: told what is measured.

    Raises:
        ValueError: lists, videos or revisits that do not fit.
        WeightsMissing: the networks are not installed.
    """
    check_lists(videos, revisits, "videos", "lists of revisits")
    features = frame_features or default_frame_features()
    tell = progress or quiet
    base = Passport("", "long", len(videos), seed=seed, context=context)
    true: list[Tensor] | None = None
    if reference is not None:
        check_lists(videos, reference, "videos", "reference videos")
        true = [b[: len(a)] for a, b in zip(videos, reference, strict=True)]
        base = replace(base, reference_sha256=videos_hash(true))
    found: dict[str, list[Points]] = {}
    for i, (video, pairs) in enumerate(zip(videos, revisits, strict=True)):
        tell("curves", i, len(videos))
        for name, points in _of_episode(video, pairs, None if true is None else true[i], features):
            found.setdefault(name, []).append(points)
    tell("curves", len(videos), len(videos))
    return _curves(found, chunk_frames, features, base)


def _of_episode(
    video: Tensor, visits: Visits, true: Tensor | None, features: FrameFeatures
) -> list[tuple[str, Points]]:
    points = dict(drift_points(video, true))
    if true is not None:
        points["drift_motion_ceiling"] = drift_points(true)["drift_motion"]
    if visits:
        for name, measure in revisit_measures(features).items():
            points[name] = gap_points(visits, measure(video, visits))
            if true is not None:
                points[f"{name}_ceiling"] = gap_points(visits, measure(true, visits))
        if true is not None:
            for name, values in against_truth(video, true, visits).items():
                points[name] = gap_points(visits, values)
    return list(points.items())


def _curves(
    found: Mapping[str, Sequence[Points]],
    chunk_frames: int,
    features: FrameFeatures,
    base: Passport,
) -> dict[str, Curve]:
    curves = {}
    for name, points in found.items():
        largest = max(int(x.max()) for x, _ in points)
        axis = "frame" if name.startswith("drift") else "gap"
        if axis == "frame":
            edges, how = even_edges(largest + 1, chunk_frames), "bins of whole chunks"
        else:
            edges, how = doubling_edges(largest), "bins that double"
        passport = _passport(name, features, base)
        settings = "; ".join(part for part in (passport.settings, how) if part)
        curves[name] = binned(name, axis, points, edges, replace(passport, settings=settings))
    return curves


def _passport(name: str, features: FrameFeatures, base: Passport) -> Passport:
    if "lpips" in name:
        return lpips_passport(base, "alex")
    if "src" in name:
        return replace(
            base,
            network=features.name,
            network_sha256=features.sha256,
            resize=features.resize,
            settings="100 x cosine; first visit against each later visit",
        )
    return replace(base, settings="mean |frame difference| x 255") if "motion" in name else base
