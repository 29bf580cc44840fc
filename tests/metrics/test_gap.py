import math

import pytest

from sfv.metrics.gap import gap_closed, share_of_gap, truth_values
from sfv.metrics.interval import t_quantile
from sfv.metrics.protocol import Passport, mean_value


def value(*episodes, metric="return_lpips", **passport):
    return mean_value(episodes, Passport(metric, "return", len(episodes), **passport))


def test_a_share_is_the_mean_gain_over_the_mean_gap_with_an_interval_of_the_ratio():
    base, row, end = value(0.8, 0.6, 0.5), value(0.5, 0.4, 0.1), value(0.2, 0.1, 0.0)
    found = share_of_gap(base, row, end, -1)
    gains, gaps = [0.3, 0.2, 0.4], [0.6, 0.5, 0.5]
    ratio = sum(gains) / sum(gaps)
    assert found.value == pytest.approx(ratio)
    left = [x - ratio * g for x, g in zip(gains, gaps, strict=True)]
    spread = math.sqrt(sum(d * d for d in left) / 2 / 3) / (sum(gaps) / 3)
    half = t_quantile(0.95, 2) * spread
    assert (found.low, found.high) == pytest.approx((ratio - half, ratio + half))
    assert found.n == 3


def test_a_share_is_one_at_the_end_and_zero_at_the_base_whatever_the_episodes():
    base, end = value(10.0, 14.0, 9.0), value(30.0, 31.0, 35.0)
    at_end, at_base = share_of_gap(base, end, end), share_of_gap(base, base, end)
    assert (at_end.value, at_end.low, at_end.high) == pytest.approx((1, 1, 1))
    assert (at_base.value, at_base.low, at_base.high) == (0, 0, 0)


def test_undefined_episodes_are_left_out_and_no_gap_has_no_share():
    nan = math.nan
    found = share_of_gap(value(1.0, nan, 2.0), value(2.0, 5.0, 3.0), value(3.0, 9.0, 4.0))
    assert (found.value, found.n) == (0.5, 2)
    none = share_of_gap(value(3.0, 4.0), value(4.0, 4.0), value(2.0, 4.0))
    assert (none.value, none.low, none.high, none.n) == (None, None, None, 2)


def test_what_was_measured_otherwise_is_refused():
    with pytest.raises(ValueError, match="not comparable, they differ in resize"):
        share_of_gap(value(1.0), value(2.0, resize="half"), value(3.0))


def test_every_row_but_the_base_gets_shares_of_the_measures_that_have_an_end():
    scores = {
        "none": {"return_psnr": value(10.0, 12.0), "return_lpips": value(0.5, 0.7)},
        "fast": {
            "return_psnr": value(20.0, 22.0),
            "return_lpips": value(0.3, 0.4),
            "motion": value(1.0, 1.0),
        },
    }
    decoded = {"return_psnr": value(30.0, 32.0), "src_floor": value(1.0), "src": value(9.0)}
    rows = [{"return_psnr_ceiling": value(100.0, 100.0), "return_lpips_ceiling": value(0.0, 0.0)}]
    truth = truth_values(decoded, rows)
    assert set(truth) == {
        "return_psnr_decoded", "src_decoded", "return_psnr_ceiling", "return_lpips_ceiling",
    }  # fmt: skip
    assert truth["src_decoded"].passport.metric == "src_decoded"
    found = gap_closed(scores, truth)
    assert {row: {m: list(ends) for m, ends in of.items()} for row, of in found.items()} == {
        "fast": {"return_psnr": ["decoded"], "return_lpips": ["truth"]}
    }, "equal frames have no PSNR to reach"
    assert found["fast"]["return_psnr"]["decoded"]["value"] == pytest.approx(0.5)
    assert gap_closed({"fast": scores["fast"]}, truth) == {}
