"""Passports: what a number was measured with, so that only comparable numbers are compared.

A metric value without its network, resizing, clip length and count says little (FVD changes by a
factor with the count). Every value carries a `Passport`, an interval, and the values of the
episodes it averages, from which paired differences are made.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sfv.metrics.code_version import code_version, public
from sfv.metrics.interval import INTERVAL, LEVEL, mean_interval

Protocol = Literal["next_chunk", "long", "return", "plan"]


@dataclass(frozen=True)
class Passport:
    """How a value was measured.

    Attributes:
        metric: its name in the report.
        protocol: what was generated: the next chunk from true context, a long video, the frames of a
            long video that come back to known places, or a plan that was executed.
        count: what the value averages or compares: episodes, or clips for FVD.
        unit: what `count` counts.
        reference_sha256: short hash of the true videos compared with; "" where none are.
        network: the network whose features are compared; "" where none is.
        network_sha256: hash of its weight file.
        resize: what is done to frames before the network.
        frames: frames in a clip; None where frames are scored one by one.
        stride: frames between the starts of two clips.
        context: what true frames the model was given, and whether they are scored; "" in reports that
            were stored before this was.
        covariance_divisor: "N-1" for Fréchet distances.
        settings: other choices, such as a detector's thresholds.
        seed: seed of random splits, and of the bootstrap of a distance between clips.
        interval: how `low` and `high` were made.
        count_matters: the value is biased by `count`, so equal counts are needed to compare.
        sampling_seeds: seeds of the generated videos that each episode's value is averaged over, "0, 1, 2";
            "" where there was one video an episode, or where that was not recorded.
        code_version: version of this package, with the commit in a checkout: `0.6.0+g1a2b3c4`.
    """

    metric: str
    protocol: Protocol
    count: int
    unit: str = "episodes"
    reference_sha256: str = ""
    network: str = ""
    network_sha256: str = ""
    resize: str = "none"
    frames: int | None = None
    stride: int | None = None
    context: str = ""
    covariance_divisor: str | None = None
    settings: str = ""
    seed: int = 0
    interval: str = INTERVAL
    count_matters: bool = False
    sampling_seeds: str = ""
    code_version: str = field(default_factory=code_version)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class MetricValue:
    """A value with its interval; None bounds say that no interval could be made.

    `episodes` holds the value of each episode where the metric is their mean, NaN where undefined.
    """

    value: float
    low: float | None
    high: float | None
    passport: Passport
    episodes: tuple[float, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The report's schema; NaN becomes None."""
        return {
            "value": _finite(self.value),
            "low": _finite(self.low),
            "high": _finite(self.high),
            "passport": self.passport.to_dict(),
        }

    def to_plain(self) -> dict[str, Any]:
        """All there is, as JSON can keep it: `to_dict` and the episodes."""
        return self.to_dict() | {"episodes": [_finite(value) for value in self.episodes]}


def from_plain(kept: Mapping[str, Any]) -> MetricValue:
    """What `MetricValue.to_plain` gave, or a report's cell, which has no episodes.

    Where the episodes are known their interval is made anew: an older version may have kept another kind.
    """
    passport = Passport(**kept["passport"])
    episodes = [math.nan if value is None else value for value in kept.get("episodes", ())]
    if episodes:
        return mean_value(episodes, replace(passport, interval=INTERVAL))
    value = math.nan if kept["value"] is None else kept["value"]
    return MetricValue(value, kept["low"], kept["high"], passport)


@dataclass(frozen=True)
class Row:
    """One row of the report: a method, the number of its episodes, its metrics."""

    n: int
    metrics: Mapping[str, MetricValue]


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None


def mean_value(episodes: Sequence[float], passport: Passport) -> MetricValue:
    """The mean over the episodes where the metric is defined, with its interval.

    The passport's count becomes the number of those episodes.
    """
    known = [v for v in episodes if not math.isnan(v)]
    low, high = mean_interval(known)
    value = sum(known) / len(known) if known else float("nan")
    return MetricValue(value, low, high, replace(passport, count=len(known)), tuple(episodes))


_MAY_DIFFER = {"seed", "count", "interval", "sampling_seeds"}
_ADDED = {"context": ""}
"""Fields that older passports lack, with what stands for "not recorded"."""


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Fields in which two values were measured differently, each with both contents.

    Counts must agree only where they bias the value. Two commits of one version measure alike: a
    change of a metric takes a new version. What an older passport did not record is not compared.

    Args:
        first: a passport as a report holds it.
        second: another.
    """
    free = _MAY_DIFFER - ({"count"} if first.get("count_matters") else set())
    return [
        f"{name}: {first.get(name)!r} and {second.get(name)!r}"
        for name in [*first, *(name for name in second if name not in first)]
        if name not in free and not _alike(name, first.get(name), second.get(name))
    ]


def _alike(name: str, a: Any, b: Any) -> bool:
    if name == "code_version" and isinstance(a, str) and isinstance(b, str):
        return public(a) == public(b)
    return bool(a == b) or (name in _ADDED and bool({a, b} & {None, _ADDED[name]}))


def comparable(a: MetricValue, b: MetricValue) -> None:
    """Check that two values were measured alike.

    Raises:
        ValueError: names the fields that differ; see `differing`.
    """
    different = differing(a.passport.to_dict(), b.passport.to_dict())
    if different:
        raise ValueError(
            f"{a.passport.metric} and {b.passport.metric} are not comparable, they differ in "
            f"{'; '.join(different)}: measure both in the same way"
        )


COMPANIONS = ("_ceiling", "_floor", "_unpaired")
"""Endings of what stands beside a metric and is no score of a row."""


@dataclass(frozen=True)
class Difference:
    """Mean of `b - a` over the episodes of both, with its interval."""

    value: float
    low: float | None
    high: float | None
    count: int


def paired_difference(a: MetricValue, b: MetricValue, level: float = LEVEL) -> Difference:
    """Mean difference `b - a`, episode by episode: far narrower than two separate intervals.

    Raises:
        ValueError: the values are not comparable, or have no or different episodes.
    """
    comparable(a, b)
    if not a.episodes or len(a.episodes) != len(b.episodes):
        raise ValueError(
            f"{a.passport.metric} has {len(a.episodes)} and {len(b.episodes)} episode values; a "
            "paired difference needs the same episodes on both sides"
        )
    pairs = zip(a.episodes, b.episodes, strict=True)
    differences = [y - x for x, y in pairs if not math.isnan(y - x)]
    low, high = mean_interval(differences, level)
    value = sum(differences) / len(differences) if differences else float("nan")
    return Difference(value, low, high, len(differences))


def paired_differences(
    scores: Mapping[str, Mapping[str, MetricValue]], pairs: Iterable[tuple[str, str]]
) -> list[dict[str, Any]]:
    """The report's paired differences, sorted: of every metric that both rows have of each episode.

    What belongs to the truth or to a floor is not compared; where no interval can be made, nothing is.

    Args:
        scores: metrics by row.
        pairs: (row, row that it is compared with).
    """
    found = []
    for row, against in pairs:
        for metric in scores[row].keys() & scores[against].keys():
            if metric.endswith(COMPANIONS) or not scores[row][metric].episodes:
                continue
            gap = paired_difference(scores[against][metric], scores[row][metric])
            if gap.low is not None and gap.high is not None:
                found.append(
                    {
                        "metric": metric, "row": row, "against": against,
                        "value": gap.value, "low": gap.low, "high": gap.high, "n": gap.count,
                    }
                )  # fmt: skip
    return sorted(found, key=lambda gap: (gap["metric"], gap["against"], gap["row"]))


def report_json(rows: Mapping[str, Row], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `report.json`; values that are not finite become None (JSON has no NaN)."""
    return {
        "rows": {name: row_json(row) for name, row in rows.items()},
        "settings": dict(settings),
    }


def row_json(row: Row) -> dict[str, Any]:
    """A row of `report.json`, or its `truth`."""
    return {"n": row.n, "metrics": {name: value.to_dict() for name, value in row.metrics.items()}}
