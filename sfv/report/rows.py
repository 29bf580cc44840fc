"""Read a `report.json` into typed rows; every output (table, HTML, TensorBoard) starts here.

{"rows": {ROW: {"n": int, "metrics": {NAME: {"value", "low", "high", "passport"}}}},
 "settings": {...},
 "differences": [{"metric", "row", "against", "value", "low", "high"}],   # optional, paired
 "curves": {...}}                                          # optional, see sfv/report/curves.py
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfv.files import read_json
from sfv.report.catalogue import METRICS, Group, format_number, grouped
from sfv.report.curves import Curve, parse_curves
from sfv.report.fields import field_of, mapping_of, number


@dataclass(frozen=True)
class Cell:
    """One value; None where it was not measured. `low` and `high` are None without an interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    passport: Any = None


@dataclass(frozen=True)
class Row:
    """One model: the number of videos (`num`) and its cells by metric name."""

    name: str
    num: int
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Difference:
    """Paired difference `row` minus `against`; `low` and `high` are None without an interval."""

    metric: str
    row: str
    against: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Report:
    """A checked report; `groups` hold the metrics that any row has."""

    rows: list[Row]
    groups: list[Group]
    settings: dict[str, Any]
    differences: list[Difference] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)


def parse_report(report: Mapping[str, Any]) -> Report:
    """Check a report and give it types.

    Raises:
        ValueError: a field is missing or has the wrong kind; the message names the place.
    """
    raw_rows = mapping_of(report, "rows", "report")
    if not raw_rows:
        raise ValueError("report: 'rows' is empty; measure at least one model first.")
    rows = [_row(name, raw) for name, raw in raw_rows.items()]
    names = dict.fromkeys(name for row in rows for name in row.cells)
    return Report(
        rows=rows,
        groups=grouped(names),
        settings=dict(mapping_of(report, "settings", "report")),
        differences=[
            _difference(raw, f"report.differences[{i}]", raw_rows)
            for i, raw in enumerate(report.get("differences", ()))
        ],
        curves=parse_curves(report.get("curves", {})),
    )


def read_report(path: Path) -> Report:
    """Read a `report.json`.

    Raises:
        ValueError: it is no such report; names the file and the place.
        OSError: it cannot be read.
    """
    content = read_json(path)
    try:
        return parse_report(content)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; it may be another tool's") from error


def best_rows(report: Report) -> set[tuple[str, str]]:
    """Return (row, metric) pairs that are better than every other row beyond doubt.

    Beyond doubt means that the interval of the paired difference to each other row excludes zero. A
    report without paired differences has no best rows.
    """
    wins = set()
    for gap in report.differences:
        better = METRICS[gap.metric].better if gap.metric in METRICS else "neither"
        if better == "neither" or gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
            continue
        higher, lower = (gap.row, gap.against) if gap.low > 0 else (gap.against, gap.row)
        winner, loser = (higher, lower) if better == "higher" else (lower, higher)
        wins.add((winner, loser, gap.metric))
    return {
        (row.name, metric)
        for row in report.rows
        if len(report.rows) > 1
        for metric in row.cells
        if all((row.name, o.name, metric) in wins for o in report.rows if o.name != row.name)
    }


def format_interval(cell: Cell, digits: int) -> str:
    """Print `[low, high]`, or nothing where there is no interval."""
    if cell.low is None or cell.high is None:
        return ""
    return f"[{format_number(cell.low, digits)}, {format_number(cell.high, digits)}]"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Flatten nested settings to dotted names, as the flags are called; the rest becomes text."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, str | int | float | bool):
            flat[name] = value
        else:
            flat[name] = str(value)
    return flat


def differing_settings(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of settings in which runs differ, sorted; a setting that a run lacks differs too."""
    names = sorted({name for settings in runs for name in settings})
    return [n for n in names if len({str(settings.get(n)) for settings in runs}) > 1]


def _row(name: str, raw: Any) -> Row:
    where = f"report.rows[{name!r}]"
    num = field_of(raw, "n", where)
    if not isinstance(num, int) or num < 0:
        raise ValueError(f"{where}.n is {num!r}: it must be the number of videos, an integer.")
    metrics = mapping_of(raw, "metrics", where)
    cells = {
        metric: _cell(cell, f"{where}.metrics[{metric!r}]") for metric, cell in metrics.items()
    }
    return Row(name, num, cells)


def _cell(raw: Any, where: str) -> Cell:
    value = number(field_of(raw, "value", where), f"{where}.value")
    low, high = (number(field_of(raw, end, where), f"{where}.{end}") for end in ("low", "high"))
    return Cell(value, low, high, field_of(raw, "passport", where))


def _difference(raw: Any, where: str, rows: Mapping[str, Any]) -> Difference:
    metric, row, against = (
        str(field_of(raw, name, where)) for name in ("metric", "row", "against")
    )
    for name in (row, against):
        if name not in rows:
            raise ValueError(f"{where} names the row {name!r}; the report has {sorted(rows)}.")
    value, low, high = (
        number(field_of(raw, key, where), f"{where}.{key}") for key in ("value", "low", "high")
    )
    if value is None:
        raise ValueError(f"{where}.value is null: leave out what was not compared.")
    return Difference(metric, row, against, value, low, high)
