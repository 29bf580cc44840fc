"""Intervals of means over episodes, and from when on a difference is called one.

Student's t covers what it says for normal values at any count, and more than the percentile bootstrap
and BCa for every kind of value tried (`docs/metrics.md` has the table). Below `MIN_EPISODES` no interval
can be trusted for values that are far from normal, so nothing is called better beyond chance there.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
INTERVAL = "Student's t over episodes, 95 %"
MIN_EPISODES = 10
"""Fewest episodes of a paired difference that may be marked as better beyond chance."""


def mean_interval(
    values: Sequence[float], level: float = LEVEL
) -> tuple[float, float] | tuple[None, None]:
    """Student's interval of the mean; None for fewer than two values.

    Args:
        values: one number an episode (or a seed); NaN (undefined) is left out.
        level: coverage, between 0 and 1.

    Raises:
        ValueError: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}; give 0 < level < 1")
    known = [value for value in values if not math.isnan(value)]
    num = len(known)
    if num < 2:
        return None, None
    mean = math.fsum(known) / num
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (num - 1) / num)
    half = t_quantile(level, num - 1) * spread
    return mean - half, mean + half


@functools.lru_cache(maxsize=256)
def t_quantile(level: float, freedom: int) -> float:
    """The t below which |t| lies with probability `level`.

    With t = √ν tan θ the density is cos^(ν-1) θ up to a factor, on a finite range: it is summed by the
    trapezoidal rule and inverted (error below 1e-5 of the quantile for levels up to 0.999).

    Args:
        level: between 0 and 1.
        freedom: degrees of freedom ν, at least 1.
    """
    angles = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(level, mass / mass[-1], angles)))


def beyond_chance(low: float | None, high: float | None, num: int) -> bool:
    """Whether a paired difference is called one: its interval excludes zero, over enough episodes."""
    return low is not None and high is not None and num >= MIN_EPISODES and not low <= 0 <= high
