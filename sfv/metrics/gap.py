"""Share of a gap: how much of the way from a model without memory to the truth a memory goes.

Of the way back after the true way out. The gap ends at the decoded truth (the true frames through the codec
and back, the best that any Φ with this codec can do) or at the truth itself: its first visits against its
later ones, what a perfect memory of the true frames would show.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from sfv.metrics.frame import PSNR_CAP_DB
from sfv.metrics.interval import mean_interval
from sfv.metrics.protocol import COMPANIONS, MetricValue, comparable

DECODED, CEILING = "_decoded", "_ceiling"
TARGETS = {"decoded": DECODED, "truth": CEILING}
"""Names of both ends in a report, with the ending of their metrics."""
SIGNS = {"return_psnr": 1, "return_lpips": -1, "return_src": 1}
"""Measures of the way back; 1: higher is better."""


@dataclass(frozen=True)
class Share:
    """A share of a gap with its interval; None where there is no gap to close.

    Args:
        value: 0 is the base, 1 the end of the gap; below 0 is worse than the base.
        low: of the interval.
        high: of the interval.
        n: episodes behind it.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def share_of_gap(base: MetricValue, row: MetricValue, end: MetricValue, sign: int = 1) -> Share:
    """Mean gain of a row over the mean gap, paired over episodes.

    The interval is Student's t of the ratio's linearised values, R + (gain - R gap) / mean gap.

    Args:
        base: where the gap begins.
        row: what closes it.
        end: where it ends.
        sign: 1 where higher is better, else -1.

    Raises:
        ValueError: base and row were not measured alike, or the episodes differ.
    """
    comparable(base, row)
    values = zip(base.episodes, row.episodes, end.episodes, strict=True)
    known = [case for case in values if not any(map(math.isnan, case))]
    gains = [sign * (b - a) for a, b, _ in known]
    gaps = [sign * (c - a) for a, _, c in known]
    gap = math.fsum(gaps) / len(gaps) if gaps else 0.0
    if gap <= 0:
        return Share(None, None, None, len(known))
    ratio = math.fsum(gains) / len(gains) / gap
    linear = [ratio + (x - ratio * g) / gap for x, g in zip(gains, gaps, strict=True)]
    low, high = mean_interval(linear)
    return Share(ratio, low, high, len(known))


def truth_values(
    decoded: Mapping[str, MetricValue], rows: Iterable[Mapping[str, MetricValue]]
) -> dict[str, MetricValue]:
    """The report's `truth`: `NAME_decoded`, and each `NAME_ceiling` once.

    Args:
        decoded: metrics of the decoded truth.
        rows: metrics of rows, of which all have the same ceilings.
    """
    named = {
        f"{name}{DECODED}": replace(
            value, passport=replace(value.passport, metric=f"{name}{DECODED}")
        )
        for name, value in decoded.items()
        if not name.endswith(COMPANIONS)
    }
    ceilings = (item for row in (decoded, *rows) for item in row.items())
    return named | {name: value for name, value in ceilings if name.endswith(CEILING)}


def gap_closed(
    scores: Mapping[str, Mapping[str, MetricValue]],
    truth: Mapping[str, MetricValue],
    base: str = "none",
) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """The report's `gap_closed`: by row, metric and end of the gap a share with its interval.

    Args:
        scores: metrics by row.
        truth: `NAME_decoded` and `NAME_ceiling`. A mean PSNR at its cap is no end of a gap: the frames
            are equal, and the cap is arbitrary.
        base: the row in which every gap begins; without it there is none.
    """
    found: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
    for row in scores if base in scores else ():
        for metric in SIGNS if row != base else ():
            known = scores[row].keys() & scores[base].keys()
            ends = {
                name: truth[f"{metric}{ending}"]
                for name, ending in TARGETS.items()
                if metric in known and f"{metric}{ending}" in truth
            }
            shares = {
                name: asdict(
                    share_of_gap(scores[base][metric], scores[row][metric], end, SIGNS[metric])
                )
                for name, end in ends.items()
                if not (metric == "return_psnr" and end.value >= PSNR_CAP_DB)
            }
            if shares:
                found.setdefault(row, {})[metric] = shares
    return found
