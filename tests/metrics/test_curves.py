import json
from dataclasses import replace

import numpy as np
import pytest

from sfv.metrics.curves import binned, curve_difference, doubling_edges, even_edges
from sfv.metrics.frame import psnr
from sfv.metrics.interval import mean_interval
from sfv.metrics.protocol import Passport
from sfv.metrics.scene_revisit import revisit_psnr
from sfv.metrics.suite import score_curves
from tests.metrics.scenes import MeanColour, noisy, walk

PASSPORT = Passport("", "long", 3)
NAN = float("nan")


def _points(*pairs: tuple[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([x for x, _ in pairs], dtype=np.int64), np.array([y for _, y in pairs])


def test_an_episode_counts_once_a_bin() -> None:
    points = [
        _points((1, 0.0), (2, 10.0), (3, 20.0)),
        _points((3, 5.0)),
        _points((9, NAN), (8, 7.0)),
    ]
    curve = binned("recall", "gap", points, [1, 2, 4, 8, 16], PASSPORT)
    assert [(b.start, b.stop, b.num_items) for b in curve.bins] == [
        (1, 2, 1),
        (2, 4, 3),
        (8, 16, 1),
    ]
    assert [b.value.value for b in curve.bins] == [0.0, (15 + 5) / 2, 7.0]
    assert [b.value.passport.count for b in curve.bins] == [1, 2, 1]
    ends = (curve.bins[1].value.low, curve.bins[1].value.high)
    assert ends == mean_interval([15.0, 5.0]), "over episodes, not over pairs"
    assert curve.bins[0].value.low is None


def test_json_has_counts_intervals_and_the_passport() -> None:
    curve = binned("recall", "gap", [_points((1, 2.0)), _points((1, 4.0))], [1, 2], PASSPORT)
    read = json.loads(json.dumps(curve.to_dict(), allow_nan=False))
    low, high = mean_interval([2.0, 4.0])
    assert read["bins"] == [
        {"start": 1, "stop": 2, "items": 2, "episodes": 2, "value": 3.0, "low": low, "high": high}
    ]
    assert (read["axis"], read["unit"], read["passport"]["metric"]) == ("gap", "frames", "recall")
    assert read["passport"]["count"] == 2


def test_bad_bins_are_named() -> None:
    with pytest.raises(ValueError, match=r"bin edges are \[4, 4\]; give at least two, each above"):
        binned("recall", "gap", [], [4, 4], PASSPORT)
    with pytest.raises(ValueError, match="gap from 3 to 9 lies outside the bins from 1 to 8"):
        binned("recall", "gap", [_points((9, 0.0), (3, 0.0))], [1, 8], PASSPORT)


def test_edges() -> None:
    assert doubling_edges(1) == [1, 2]
    assert doubling_edges(7) == [1, 2, 4, 8]
    assert doubling_edges(8) == [1, 2, 4, 8, 16]
    assert even_edges(16, 8) == [0, 8, 16]
    assert even_edges(17, 8) == [0, 8, 16, 24]
    edges = even_edges(1000, 8)
    assert len(edges) - 1 <= 16 and edges[1] % 8 == 0 and edges[-2] < 1000 <= edges[-1]


def test_differences_are_paired_bin_by_bin() -> None:
    a = binned("recall", "gap", [_points((1, 1.0)), _points((1, 50.0))], [1, 2], PASSPORT)
    b = binned("recall", "gap", [_points((1, 2.0)), _points((1, 51.0))], [1, 2], PASSPORT)
    ((start, stop, gap),) = curve_difference(a, b)
    assert (start, stop, gap.value, gap.low, gap.high) == (1, 2, 1.0, 1.0, 1.0)
    other = binned("recall", "gap", [_points((2, 2.0)), _points((2, 51.0))], [1, 2, 4], PASSPORT)
    with pytest.raises(ValueError, match=r"differ in bins: \[\(1, 2\)\] and \[\(2, 4\)\]"):
        curve_difference(a, other)
    unlike = replace(b, passport=replace(b.passport, context="more"))
    a = replace(a, passport=replace(a.passport, context="less"))
    with pytest.raises(ValueError, match="differ in context: 'less' and 'more'"):
        curve_difference(a, unlike)


def test_curves_of_videos_are_those_of_their_parts() -> None:
    true, visits = zip(*(walk(i, 9 + i, 33, 37) for i in range(2)), strict=True)
    videos = [noisy(v, 0.1, i) for i, v in enumerate(true)]
    curves = score_curves(
        videos, list(visits), chunk_frames=4, reference=list(true), frame_features=MeanColour()
    )
    recall = {"recall_psnr", "recall_lpips", "recall_src"}
    assert set(curves) == (
        recall
        | {f"{name}_ceiling" for name in recall}
        | {"recall_true_psnr", "recall_true_lpips"}
        | {"drift_motion", "drift_motion_ceiling", "drift_psnr", "drift_lpips"}
    )
    gaps = [[b - a for a, b in pairs] for pairs in visits]
    values = [revisit_psnr(v, p).numpy() for v, p in zip(videos, visits, strict=True)]
    middle = [y[(np.array(g) >= 8) & (np.array(g) < 16)] for y, g in zip(values, gaps, strict=True)]
    (found,) = (one for one in curves["recall_psnr"].bins if one.start == 8)
    assert found.value.episodes == pytest.approx([float(y.mean()) for y in middle])
    assert found.num_items == sum(map(len, middle))
    assert all(b.value.value == 100 for b in curves["recall_psnr_ceiling"].bins)
    drift = [
        psnr(t[None, 4:8], v[None, 4:8]).mean().item() for t, v in zip(true, videos, strict=True)
    ]
    assert curves["drift_psnr"].bins[1].value.episodes == pytest.approx(drift)
    assert curves["recall_lpips"].passport.network == "lpips-0.1-alex"
    assert curves["drift_psnr"].passport.reference_sha256 != ""


def test_without_returns_or_truth_there_is_drift_alone() -> None:
    videos = [noisy(walk(i, 9)[0], 0.1, i) for i in range(2)]
    curves = score_curves(videos, [[], []], chunk_frames=4, frame_features=MeanColour())
    assert set(curves) == {"drift_motion"}
    assert curves["drift_motion"].bins[0].num_items == 2 * 3  # frame 0 changes from nothing
