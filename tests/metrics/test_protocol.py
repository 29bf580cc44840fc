import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sfv.metrics.protocol import (
    MetricValue,
    Passport,
    Row,
    bootstrap_interval,
    comparable,
    mean_value,
    paired_difference,
    report_json,
)

PASSPORT = Passport("psnr", "next_chunk", 4, reference_sha256="abc")


def test_interval_has_its_coverage() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for i in range(200):
        low, high = bootstrap_interval(rng.normal(3.0, 1.0, 40).tolist(), seed=i, num=400)
        assert low is not None and high is not None
        hits += low < 3.0 < high
    assert 0.88 <= hits / 200 <= 0.98


def test_interval_against_normal_theory_and_its_level() -> None:
    values = np.random.default_rng(1).normal(0, 2, 400).tolist()
    error = np.std(values) / 20
    for level, z in ((0.95, 1.96), (0.5, 0.674)):
        low, high = bootstrap_interval(values, seed=0, level=level)
        assert low is not None and high is not None
        assert high - low == pytest.approx(2 * z * error, rel=0.1)


def test_interval_is_repeatable_and_needs_two() -> None:
    values = [1.0, 2.0, 4.0, float("nan")]
    assert bootstrap_interval(values, 1) == bootstrap_interval(values[:3], 1)
    assert bootstrap_interval(values, 1, num=50) != bootstrap_interval(values, 2, num=50)
    assert bootstrap_interval([1.0, float("nan")], 1) == (None, None)
    with pytest.raises(ValueError, match=r"level=95\.0, num=2000; give 0 < level < 1"):
        bootstrap_interval(values, 1, level=95.0)


def test_undefined_episodes_are_left_out_and_counted() -> None:
    value = mean_value([1.0, float("nan"), 4.0], PASSPORT)
    assert (value.value, value.passport.count) == (2.5, 2)
    nothing = mean_value([float("nan")], PASSPORT)
    assert math.isnan(nothing.value) and nothing.passport.count == 0


def test_pairing_takes_out_what_both_share() -> None:
    shared = np.random.default_rng(3).normal(20, 5, 12)
    a = mean_value(shared.tolist(), PASSPORT)
    b = mean_value((shared + 1 + np.linspace(-0.1, 0.1, 12)).tolist(), PASSPORT)
    difference = paired_difference(a, b)
    assert difference.value == pytest.approx(1.0)
    assert difference.low is not None and 0.9 < difference.low < 1 < (difference.high or 0) < 1.1
    assert a.high is not None and a.low is not None and a.high - a.low > 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"network": "vgg"}, "network: '' and 'vgg'"),
        ({"protocol": "long"}, "protocol: 'next_chunk' and 'long'"),
        ({"reference_sha256": "other"}, "reference_sha256: 'abc' and 'other'"),
        ({"resize": "224"}, "resize: 'none' and '224'"),
        ({"code_version": "9"}, "code_version"),
    ],
)
def test_values_measured_differently_are_not_compared(change: dict[str, str], field: str) -> None:
    a = mean_value([1.0, 2.0], PASSPORT)
    b = replace(a, passport=replace(a.passport, **change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"not comparable, they differ in {field}"):
        comparable(a, b)
    with pytest.raises(ValueError, match=field):
        paired_difference(a, b)


def test_counts_matter_where_they_bias() -> None:
    a = MetricValue(1.0, None, None, PASSPORT)
    b = replace(a, passport=replace(PASSPORT, count=9, seed=5))
    comparable(a, b)
    fvd = replace(PASSPORT, count_matters=True)
    with pytest.raises(ValueError, match="count: 4 and 9"):
        comparable(replace(a, passport=fvd), replace(a, passport=replace(fvd, count=9)))


def test_paired_difference_needs_the_same_episodes() -> None:
    a, b = mean_value([1.0, 2.0], PASSPORT), mean_value([1.0, 2.0, 3.0], PASSPORT)
    with pytest.raises(ValueError, match="has 2 and 3 episode values"):
        paired_difference(a, b)


def test_report_is_strict_json_in_the_documented_schema() -> None:
    undefined = MetricValue(float("nan"), float("-inf"), None, PASSPORT)
    rows = {"none": Row(2, {"psnr": mean_value([1.0, 2.0], PASSPORT), "src": undefined})}
    report = report_json(rows, {"seed": 3})
    read = json.loads(json.dumps(report, allow_nan=False))
    assert read["settings"] == {"seed": 3}
    assert read["rows"]["none"]["n"] == 2
    metrics = read["rows"]["none"]["metrics"]
    assert set(metrics["psnr"]) == {"value", "low", "high", "passport"}
    assert metrics["psnr"]["value"] == 1.5
    assert metrics["psnr"]["passport"]["protocol"] == "next_chunk"
    assert [metrics["src"][k] for k in ("value", "low", "high")] == [None] * 3
