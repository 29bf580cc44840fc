import json
import math
from pathlib import Path

import pytest

from sfv.cli import main
from sfv.evaluation.benchmark.run import check_seeds
from sfv.evaluation.benchmark.seeds import averaged, folder_of, spread
from sfv.evaluation.benchmark.spec import BenchmarkError
from sfv.metrics.protocol import MetricValue, Passport, comparable, from_plain, mean_value
from tests.evaluation.benchmark.test_run import arguments

PASSPORT = Passport("return_psnr", "return", 3)


def test_walks_are_averaged_over_seeds_before_they_are_resampled() -> None:
    one, two = (mean_value(values, PASSPORT) for values in ([1.0, 2.0, 6.0], [3.0, 8.0, 4.0]))
    value = averaged([{"psnr": one}, {"psnr": two}], [5, 9])["psnr"]
    assert value.episodes == (2.0, 5.0, 5.0) and value.value == 4
    told = mean_value([2.0, 5.0, 5.0], PASSPORT)
    assert (value.low, value.high) == (told.low, told.high)
    assert value.passport.sampling_seeds == "5, 9"
    comparable(value, one)


def test_a_walk_without_a_value_stays_without_one() -> None:
    values = [mean_value([1.0, math.nan], PASSPORT), mean_value([3.0, math.nan], PASSPORT)]
    value = averaged([{"x": v} for v in values], [0, 1])["x"]
    assert value.value == 2 and math.isnan(value.episodes[1]) and value.passport.count == 1


def test_distances_between_sets_are_averaged_with_their_bounds() -> None:
    fvd = [MetricValue(v, v - 1, v + 3, PASSPORT) for v in (10.0, 14.0)]
    value = averaged([{"fvd": v} for v in fvd], [0, 1])["fvd"]
    assert (value.value, value.low, value.high) == (12, 11, 15)
    assert value.passport.interval.endswith("; bounds averaged over seeds")
    unknown = MetricValue(4.0, None, None, PASSPORT)
    none = averaged([{"fvd": fvd[0]}, {"fvd": unknown}], [0, 1])["fvd"]
    assert (none.value, none.low) == (7, None)


def test_the_spread_is_of_what_the_seeds_decide() -> None:
    seeds = {
        seed: {name: mean_value([v, v], PASSPORT) for name in ("psnr", "psnr_ceiling")}
        for seed, v in ((0, 10.0), (7, 14.0))
    }
    assert spread(seeds) == {
        "psnr": {"std": pytest.approx(math.sqrt(8)), "values": {"0": 10.0, "7": 14.0}}
    }


def test_the_first_seeds_videos_lie_where_a_call_without_seeds_puts_them() -> None:
    assert folder_of(Path("rows/fast"), 3, 3) == Path("rows/fast")
    assert folder_of(Path("rows/fast"), 0, 3) == Path("rows/fast/seed-0")


def test_seeds_that_repeat_or_lack_are_refused() -> None:
    assert check_seeds(None, 4) == [4] and check_seeds(2, 4) == [2]
    for wrong in ([], [1, 1]):
        with pytest.raises(BenchmarkError, match="allowed are one or more different seeds"):
            check_seeds(wrong, 0)


@pytest.mark.slow
def test_a_call_with_seeds_goes_on_from_one_without(made_up, world, tmp_path, capsys) -> None:
    """Seed 0 is not made again, the other is; each walk's value is the mean of both."""
    out = tmp_path / "out"
    given = arguments(made_up, out, ckpt=world, rows="none", protocols="return")
    assert main(given) == 0
    before = json.loads((out / "report.json").read_text())
    video = out / "rows" / "none" / "return" / "return-12-00.mp4"
    made = video.stat().st_mtime_ns
    assert main([*given, "--seeds=[0,3]"]) == 0
    said = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert video.stat().st_mtime_ns == made
    other = out / "rows" / "none" / "seed-3" / "return" / "return-12-00.mp4"
    assert other.read_bytes() != video.read_bytes()
    found = report["seeds"]["spread"]["none"]["return_psnr"]
    values = found["values"]
    cell = report["rows"]["none"]["metrics"]["return_psnr"]
    assert values["0"] == before["rows"]["none"]["metrics"]["return_psnr"]["value"] != values["3"]
    assert cell["value"] == pytest.approx((values["0"] + values["3"]) / 2)
    assert cell["passport"]["sampling_seeds"] == "0, 3" and "seeds" not in before
    assert report["settings"]["seeds"] == report["seeds"]["seeds"] == [0, 3]
    assert "Sampling seeds 0, 3" in said and "Standard deviation over seeds of row none" in said
    assert "return_psnr_ceiling" not in report["seeds"]["spread"]["none"]


def test_a_value_comes_back_from_json() -> None:
    value = mean_value([1.0, math.nan, 4.0], PASSPORT)
    again = from_plain(json.loads(json.dumps(value.to_plain())))
    assert again.episodes[::2] == (1.0, 4.0) and math.isnan(again.episodes[1])
    assert (again.value, again.low, again.passport) == (value.value, value.low, value.passport)
