"""The interval of a mean covers what it says, on data of several kinds and from two episodes on."""

import math

import numpy as np
import pytest

from sfv.metrics.interval import MIN_EPISODES, beyond_chance, mean_interval, t_quantile
from sfv.metrics.protocol import Passport, mean_value, paired_difference

NUM = 2000
COVERED = {
    "normal": {2: 0.94, 3: 0.94, 6: 0.94, 10: 0.94, 30: 0.94},
    "lognormal": {2: 0.91, 3: 0.89, 6: 0.89, 10: 0.90, 30: 0.92},
    "bounded": {2: 0.87, 3: 0.87, 6: 0.92, 10: 0.93, 30: 0.93},
}
"""Least share by kind and count. The percentile bootstrap has 0.51, 0.75, 0.85, 0.90, 0.93 on the first."""


def drawn(kind: str, num: int) -> tuple[np.ndarray, float]:
    """Samples of a mean that is known."""
    rng = np.random.default_rng(num)
    if kind == "normal":
        return rng.normal(3.0, 2.0, (NUM, num)), 3.0
    if kind == "lognormal":
        return rng.lognormal(0.0, 0.5, (NUM, num)), math.exp(0.125)
    return rng.beta(0.5, 0.5, (NUM, num)), 0.5


def share_covered(samples: np.ndarray, mean: float) -> float:
    ends = np.array([mean_interval(sample) for sample in samples.tolist()])
    return float(((ends[:, 0] <= mean) & (mean <= ends[:, 1])).mean())


@pytest.mark.parametrize("num", [2, 3, 6, 10, 30])
@pytest.mark.parametrize("kind", COVERED)
def test_the_interval_covers_what_it_says(kind: str, num: int) -> None:
    assert COVERED[kind][num] <= share_covered(*drawn(kind, num)) <= 0.97


@pytest.mark.parametrize("num", [2, 3, 10])
def test_a_paired_interval_covers_what_it_says(num: int) -> None:
    rng = np.random.default_rng(num)
    shared = rng.normal(20, 5, (500, num))
    other, passport = shared + rng.normal(1.0, 0.5, (500, num)), Passport("psnr", "long", num)
    hits = 0
    for a, b in zip(shared.tolist(), other.tolist(), strict=True):
        gap = paired_difference(mean_value(a, passport), mean_value(b, passport))
        assert gap.low is not None and gap.high is not None
        hits += gap.low <= 1.0 <= gap.high
    assert 0.92 <= hits / 500 <= 0.98


@pytest.mark.parametrize(
    ("level", "freedom", "known"),
    [
        (0.95, 1, 12.70620474),
        (0.95, 2, 4.30265273),
        (0.95, 9, 2.26215716),
        (0.99, 29, 2.75638590),
        (0.95, 10_000, 1.96020124),
    ],
)
def test_quantiles_are_those_of_the_tables(level: float, freedom: int, known: float) -> None:
    assert t_quantile(level, freedom) == pytest.approx(known, rel=1e-5)


def test_an_interval_needs_two_values_and_a_level() -> None:
    assert mean_interval([1.0, math.nan]) == (None, None)
    assert mean_interval([1.0, 2.0, math.nan]) == mean_interval([1.0, 2.0])
    with pytest.raises(ValueError, match=r"level=95\.0; give 0 < level < 1"):
        mean_interval([1.0, 2.0], level=95.0)


@pytest.mark.parametrize(
    ("low", "high", "num", "sure"),
    [
        (0.1, 0.2, MIN_EPISODES, True),
        (-0.2, -0.1, MIN_EPISODES, True),
        (0.1, 0.2, MIN_EPISODES - 1, False),
        (0.0, 0.2, MIN_EPISODES, False),
        (None, None, MIN_EPISODES, False),
    ],
)
def test_a_difference_is_one_from_ten_episodes_on(
    low: float | None, high: float | None, num: int, sure: bool
) -> None:
    assert beyond_chance(low, high, num) == sure
