from typing import Any

import pytest

from sfv.report.rows import flatten, parse_report
from sfv.report.table import format_table
from tests.report.conftest import with_truth


def gap(metric: str, low: float, high: float, row: str = "fast", against: str = "none") -> dict:
    return {
        "metric": metric,
        "row": row,
        "against": against,
        "value": 0.0,
        "low": low,
        "high": high,
        "n": 12,
    }


def test_table_is_aligned_and_complete(report: dict[str, Any]) -> None:
    assert format_table(report).splitlines() == [
        "               none (n=5)             fast (n=6)",
        "-----------------------------------------------------------",
        "Next chunk: one chunk at a time, from the true context and action",
        "  PSNR ↑ (dB)  19.80  [18.50, 20.25]  21.16  [20.00, 22.00]",
        "  LPIPS ↓      0.341  [0.320, 0.360]  0.302  [0.280, 0.330]",
        "  FVD ↓         1320                    992",
        "    floor        812                    812",
        "",
        "↑ higher is better, ↓ lower is better; [low, high] is the interval of the value.",
    ]


def test_what_was_not_measured_is_a_dash(report: dict[str, Any]) -> None:
    del report["rows"]["none"]["metrics"]["lpips"]
    report["rows"]["fast"]["metrics"]["psnr"].update(value=None, low=None, high=None)
    table = format_table(report).splitlines()
    assert table[3].split() == ["PSNR", "↑", "(dB)", "19.80", "[18.50,", "20.25]", "–"]
    assert table[4].split() == ["LPIPS", "↓", "–", "0.302", "[0.280,", "0.330]"]


def test_an_unknown_metric_is_shown_last_without_arrow(report: dict[str, Any]) -> None:
    cell = {"value": 3, "low": None, "high": None, "passport": {}}
    report["rows"]["none"]["metrics"] = {"seconds": cell, **report["rows"]["none"]["metrics"]}
    assert format_table(report).splitlines()[7:9] == [
        "More",
        "  seconds      3.000                      –",
    ]


def test_each_group_has_its_heading_and_each_metric_its_company(report: dict[str, Any]) -> None:
    def cell(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 1, "high": value + 1, "passport": {}}

    report["rows"]["fast"]["metrics"] = {
        "src_floor": cell(70.0),
        "return_psnr": cell(22.0),
        "src_ceiling": cell(99.0),
        "fvd_unpaired": cell(1400.0),
        "scuts_ceiling": cell(0.5),
        "src": cell(90.0),
        "fvd": cell(900.0),
    }
    del report["rows"]["none"]
    lines = [line.split("  ") for line in format_table(report).splitlines()]
    assert [(line[1] or line[2]) if line[0] == "" else line[0] for line in lines[2:-2]] == [
        "Next chunk: one chunk at a time, from the true context and action",
        "FVD ↓",
        "at floor's count",
        "Long video: only the first chunk is true",
        "Scene return ↑ (of 100)",
        "floor",
        "true video",
        "Way back: the true way out is shown, the way back is generated",
        "Return PSNR ↑ (dB)",
        "More",
        "scuts_ceiling",
    ]


def test_only_a_sure_paired_difference_marks_the_better_side(report: dict[str, Any]) -> None:
    report["differences"] = [
        gap("psnr", 0.5, 2.0),
        gap("lpips", -0.01, 0.02),
        gap("fvd", 100.0, 200.0),
        gap("fvd_floor", 1.0, 2.0),
    ]
    lines = format_table(report).splitlines()
    marked = {
        line.strip().split("  ")[0]: [word for word in line.split() if "*" in word]
        for line in lines
    }
    assert marked["PSNR ↑ (dB)"] == ["21.16*"]
    assert marked["FVD ↓"] == ["1320*"]
    assert marked["LPIPS ↓"] == marked["floor"] == []
    assert lines[-1].startswith("* better than every other column")


def test_best_of_three_must_beat_both_others(report: dict[str, Any]) -> None:
    report["rows"]["loop"] = report["rows"]["fast"]
    report["differences"] = [gap("psnr", 0.5, 2.0), gap("psnr", 0.1, 0.3, "loop", "none")]
    assert "*" not in format_table(report)
    report["differences"].append(gap("psnr", -0.4, -0.1, "loop", "fast"))
    assert [word for word in format_table(report).split() if word.endswith("*")][:1] == ["21.16*"]


def test_the_truth_stands_beside_the_rows_and_competes_with_none(report: dict[str, Any]) -> None:
    report["differences"] = [gap("psnr", 0.5, 2.0)]
    lines = format_table(with_truth(report)).splitlines()
    heads = [text.strip() for text in lines[0].split("  ") if text.strip()]
    assert heads == ["none (n=5)", "fast (n=6)", "decoded truth (n=6)", "truth (n=6)"]
    psnr = next(line for line in lines if "PSNR" in line)
    assert "21.16*" in psnr and psnr.split()[-2:] == ["35.00", "–"]
    src = next(line for line in lines if "Scene return" in line)
    assert src.split()[-4:] == ["80.00", "80.00", "98.00", "99.00"]
    assert not any("true video" in line for line in lines), "the truth has a column of its own"


def test_gaps_and_what_the_guard_undid_are_told(report: dict[str, Any]) -> None:
    lines = format_table(with_truth(report)).splitlines()
    assert "The guard undid 12 of 240 chunks (5 %) that fast learned." in lines
    start = lines.index("Share of the gap from none that a row closes, paired over episodes")
    assert [" ".join(line.split()) for line in lines[start + 1 :]] == [
        "to the decoded truth to the truth",
        "fast: Return LPIPS 61 % [55, 67] −4 %",
        "fast: Return PSNR –",
        "fast closes 61 % [55, 67] of the gap from none to the decoded truth (Return LPIPS).",
    ]
    del report["learned"]
    assert "The guard undid 12 chunks that fast learned." in format_table(report)


@pytest.mark.parametrize(("num", "marked"), [(10, True), (9, False)])
def test_no_star_below_ten_episodes(report: dict[str, Any], num: int, marked: bool) -> None:
    report["differences"] = [{**gap("psnr", 0.5, 2.0), "n": num}]
    table = format_table(report)
    assert ("21.16*" in table, "Fewer than 10 episodes" in table) == (marked, not marked)


def test_an_older_report_that_tells_no_count_is_taken_at_its_rows_counts(
    report: dict[str, Any],
) -> None:
    report["differences"] = [gap("psnr", 0.5, 2.0)]
    del report["differences"][0]["n"]
    assert "*" not in format_table(report)
    for row in report["rows"].values():
        row["n"] = row["metrics"]["psnr"]["passport"]["count"] = 12
    assert "21.16*" in format_table(report)


def moving(report: dict[str, Any], none: float, fast: float) -> None:
    """Give the rows long videos with this motion; the true ones have 4.0, and 12 episodes count."""
    for row, motion in (("none", none), ("fast", fast)):
        values = {"src": 90.0 if row == "none" else 80.0, "motion": motion, "motion_ceiling": 4.0}
        report["rows"][row]["metrics"] = {
            name: {"value": value, "low": None, "high": None, "passport": {}}
            for name, value in values.items()
        }
    report["differences"] = [gap("src", -20.0, -5.0)]


@pytest.mark.parametrize(
    ("none", "fast", "shown"),
    [
        (3.5, 3.9, ("90.00*", "80.00")),
        (3.3, 3.9, ("(90.00)", "80.00")),
        (3.3, 3.3, ("(90.00)", "(80.00)")),
        (3.9, 3.3, ("90.00", "(80.00)")),
    ],
)
def test_what_a_still_video_wins_does_not_count_in_a_row_that_moves_too_little(
    report: dict[str, Any], none: float, fast: float, shown: tuple[str, str]
) -> None:
    moving(report, none, fast)
    lines = format_table(report).splitlines()
    assert tuple(next(line for line in lines if "Scene return" in line).split()[-2:]) == shown
    told = [line for line in lines if "too little moves" in line]
    assert len(told) == (min(none, fast) < 3.4)
    if none < 3.4:
        assert "none: its motion of 3.30 is 18% below the true video's 4.00" in told[0]


def test_a_difference_without_interval_marks_nothing(report: dict[str, Any]) -> None:
    report["differences"] = [{**gap("psnr", 0.0, 0.0), "low": None, "high": None}]
    assert "*" not in format_table(report)


def test_a_single_row_is_never_best(report: dict[str, Any]) -> None:
    del report["rows"]["none"]
    assert "*" not in format_table(report)


def change(report: dict[str, Any], path: str, value: Any = None) -> None:
    """Set the place `a/b/c` of a report, or delete it where no value is given."""
    *parents, last = path.split("/")
    place = report
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("rows", None, r"report has no 'rows'; it has \['settings'\]"),
        ("rows", {}, "'rows' is empty; measure at least one model first"),
        ("rows", [1], "report.rows must be an object, got list"),
        ("left_out", "fvd", "report.left_out is 'fvd': it must be a list of sentences"),
        ("settings", None, "report has no 'settings'"),
        ("rows/fast/n", None, r"report.rows\['fast'\] has no 'n'; it has \['metrics'\]"),
        ("rows/fast/n", 2.5, r"rows\['fast'\].n is 2.5: it must be the number of videos"),
        ("rows/fast/metrics", None, r"report.rows\['fast'\] has no 'metrics'"),
        ("rows/none/metrics/psnr/value", None, r"\['none'\].metrics\['psnr'\] has no 'value'"),
        ("rows/none/metrics/psnr/low", None, r"metrics\['psnr'\] has no 'low'"),
        ("rows/none/metrics/psnr/passport", None, r"metrics\['psnr'\] has no 'passport'"),
        ("rows/none/metrics/psnr/high", "20", r"\['psnr'\].high is '20': it must be a number"),
        ("rows/none/metrics/psnr", 19.8, r"\['psnr'\] must be an object with 'value', got float"),
        ("differences", [{"metric": "psnr"}], r"report.differences\[0\] has no 'row'"),
        ("differences", [{**gap("psnr", 0.0, 1.0), "n": 2.5}], r"\[0\].n is 2.5: it must be"),
        ("differences", [gap("psnr", 0.0, 1.0, "slow")], r"names the row 'slow'; .*'fast', 'none'"),
        ("gap_closed", [1], "report.gap_closed must be an object, got list"),
        ("gap_closed", {"fast": {"psnr": {"truth": {}}}}, r"\['psnr'\]\['truth'\] has no 'low'"),
        ("truth", {"n": 2}, r"report.truth has no 'metrics'"),
        ("curves", [1, 2], "report.curves must map names"),
        ("curves", {"fast/loss": [1, 2]}, r"report.curves\['fast/loss'\] must map rows to lists"),
        ("curves", {"c": {"x": [1, 1], "rows": {}}}, r"\['c'\]\['x'\] is \[1.0, 1.0\]: .*rise"),
        ("curves", {"c": {"x": [1], "rows": {"a": [1, 2]}}}, r"\['a'\] has 2 numbers for 1 place"),
        (
            "curves",
            {"c": {"x": [1], "rows": {"a": [1]}, "low": {"b": [1]}, "high": {"b": [1]}}},
            r"rows \['a'\], 'low' of \['b'\].*give both ends",
        ),
        ("curves", {"fast/loss": {"fast": 3}}, r"\['fast/loss'\]\['fast'\] must be a list"),
        ("curves", {"fast/loss": {"fast": ["x"]}}, r"\['fast'\] is 'x': it must be a number"),
    ],
)
def test_a_wrong_report_names_the_place(
    report: dict[str, Any], path: str, value: Any, message: str
) -> None:
    change(report, path, value)
    with pytest.raises(ValueError, match=message):
        parse_report(report)


def test_settings_are_flattened_to_flags() -> None:
    nested = {"a": {"b": {"c": 1.5}, "d": True}, "e": "text", "f": None, "g": [1, 2], "h": {}}
    assert flatten(nested) == {"a.b.c": 1.5, "a.d": True, "e": "text", "f": "None", "g": "[1, 2]"}
