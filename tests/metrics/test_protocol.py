import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfv.metrics.code_version import version_of
from sfv.metrics.protocol import (
    MetricValue,
    Passport,
    Row,
    comparable,
    differing,
    from_plain,
    mean_value,
    paired_difference,
    report_json,
)

PASSPORT = Passport("psnr", "next_chunk", 4, reference_sha256="abc")


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


def test_what_an_older_version_kept_gets_the_interval_of_now() -> None:
    value = mean_value([1.0, math.nan, 4.0], PASSPORT)
    older = {
        "low": 1.0,
        "high": 4.0,
        "passport": {**value.passport.to_dict(), "interval": "bootstrap"},
    }
    read = from_plain({**value.to_plain(), **older})
    assert (read.low, read.high, read.passport) == (value.low, value.high, value.passport)
    cell = from_plain({**value.to_dict(), **older})
    assert (cell.low, cell.passport.interval) == (1.0, "bootstrap"), "a report tells no episodes"


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


def test_commits_of_one_version_and_older_passports_are_compared() -> None:
    a, b = (replace(PASSPORT, code_version=v, context="true") for v in ("1.2+gab", "1.2+gcd.dirty"))
    assert differing(a.to_dict(), b.to_dict()) == []
    stored = {k: v for k, v in a.to_dict().items() if k != "context"} | {"code_version": "1.2"}
    assert differing(stored, a.to_dict()) == differing(a.to_dict(), stored) == []
    other = replace(a, context="first chunk", code_version="1.3+gab")
    assert differing(a.to_dict(), other.to_dict()) == [
        "context: 'true' and 'first chunk'",
        "code_version: '1.2+gab' and '1.3+gab'",
    ]


def test_the_code_version_names_the_commit_of_a_checkout(tmp_path: Path) -> None:
    def git(*args: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *who, *args], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert version_of("1.2", tmp_path) == "1.2"
    git("init", "-q")
    assert version_of("1.2", tmp_path) == "1.2"  # no commit yet
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-qm", "first")
    git("tag", "-a", "v7", "-m", "v7")
    commit = git("rev-parse", "--short", "HEAD")
    assert version_of("1.2", tmp_path) == f"1.2+g{commit}"
    (tmp_path / "file").write_text("b")
    assert version_of("1.2", tmp_path) == f"1.2+g{commit}.dirty"
