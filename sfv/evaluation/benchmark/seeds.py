"""Several sampling seeds: each walk's values are averaged over them before the walks are resampled."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfv.metrics.protocol import MetricValue, mean_value

Scores = Mapping[str, MetricValue]


def folder_of(row: Path, seed: int, first: int) -> Path:
    """Folder of a row's videos with one seed.

    Args:
        row: folder of the row.
        seed: of the videos.
        first: `--generation.seed`; its videos lie in the row's own folder, as where there is one seed.
    """
    return row if seed == first else row / f"seed-{seed}"


def averaged(per_seed: Sequence[Scores], seeds: Sequence[int]) -> dict[str, MetricValue]:
    """One value for each metric that every seed has.

    A mean over walks becomes the mean over walks of their means over seeds, with an interval over walks.
    A distance between sets of clips becomes the mean of the seeds' distances; its bounds are the
    means of theirs, which no average over seeds has narrowed.
    """
    shared = [name for name in per_seed[0] if all(name in scores for scores in per_seed)]
    return {name: _averaged([scores[name] for scores in per_seed], seeds) for name in shared}


def _averaged(values: Sequence[MetricValue], seeds: Sequence[int]) -> MetricValue:
    passport = replace(values[0].passport, sampling_seeds=", ".join(map(str, seeds)))
    if values[0].episodes:
        walks = zip(*(value.episodes for value in values), strict=True)
        return mean_value([sum(walk) / len(walk) for walk in walks], passport)
    lows = [value.low for value in values if value.low is not None]
    highs = [value.high for value in values if value.high is not None]
    mean = statistics.fmean(value.value for value in values)
    if min(len(lows), len(highs)) < len(values):
        return MetricValue(mean, None, None, passport)
    told = replace(passport, interval=f"{passport.interval}; bounds averaged over seeds")
    return MetricValue(mean, statistics.fmean(lows), statistics.fmean(highs), told)


def spread(per_seed: Mapping[int, Scores]) -> dict[str, dict[str, Any]]:
    """Of each metric of a row its value with every seed, and their standard deviation.

    What only the truth decides is the same for all seeds and is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in next(iter(per_seed.values())):
        values = [scores[name].value for scores in per_seed.values() if name in scores]
        known = all(map(math.isfinite, values)) and len(values) == len(per_seed) > 1
        if known and not name.endswith(("_ceiling", "_floor")):
            by_seed = {str(seed): scores[name].value for seed, scores in per_seed.items()}
            found[name] = {"std": statistics.stdev(values), "values": by_seed}
    return found
