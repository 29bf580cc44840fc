"""Curves of a report: a number a chunk, or numbers at given places with their intervals.

{NAME: {ROW: [one number a chunk]}}                                              or
{NAME: {"x": [...], "rows": {ROW: [...]}, "low": {ROW: [...]}, "high": {ROW: [...]},
        "axis": "gap", "unit": "frames"}}       all but x and rows may be left out
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfv.report.fields import kind, number

CHUNK = "chunk"


@dataclass(frozen=True)
class Curve:
    """Some lines over one axis; NaN where nothing was measured.

    Attributes:
        x: places on the axis, rising.
        rows: one number a place for each row; a shorter list ends early.
        low: lower ends of intervals, for rows that have them.
        high: upper ends, for the same rows.
        axis: its name and unit.
    """

    x: list[float]
    rows: dict[str, list[float]]
    low: dict[str, list[float]] = field(default_factory=dict)
    high: dict[str, list[float]] = field(default_factory=dict)
    axis: str = CHUNK


def parse_curves(raw: Any) -> dict[str, Curve]:
    """Check a report's curves.

    Raises:
        ValueError: a field has the wrong kind or length; the message names the place.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"report.curves must map names to {{row: numbers}}, got {kind(raw)}.")
    found = {}
    for name, content in raw.items():
        where = f"report.curves[{name!r}]"
        if not isinstance(content, Mapping):
            raise ValueError(f"{where} must map rows to lists, got {kind(content)}.")
        has_axis = isinstance(content.get("rows"), Mapping)
        found[str(name)] = _with_axis(content, where) if has_axis else _of_chunks(content, where)
    return found


def _of_chunks(content: Mapping[str, Any], where: str) -> Curve:
    rows = _rows(content, where)
    return Curve([float(i) for i in range(max(map(len, rows.values()), default=0))], rows)


def _with_axis(content: Mapping[str, Any], where: str) -> Curve:
    x = _numbers(content.get("x"), f"{where}['x']")
    rises = all(a < b for a, b in itertools.pairwise(x))
    if not rises or not all(map(math.isfinite, x)):
        raise ValueError(f"{where}['x'] is {x}: its numbers must be finite and rise.")
    rows, low, high = (
        _rows(content.get(key, {}), f"{where}[{key!r}]") for key in ("rows", "low", "high")
    )
    if low.keys() != high.keys() or not low.keys() <= rows.keys():
        raise ValueError(
            f"{where} has rows {sorted(rows)}, 'low' of {sorted(low)}, 'high' of {sorted(high)}: give "
            "both ends of an interval, for rows that are there."
        )
    for key, lists in (("rows", rows), ("low", low), ("high", high)):
        for row, values in lists.items():
            if len(values) != len(x):
                raise ValueError(
                    f"{where}[{key!r}][{row!r}] has {len(values)} numbers for {len(x)} places in 'x'."
                )
    axis, unit = str(content.get("axis", "")), str(content.get("unit", ""))
    return Curve(x, rows, low, high, f"{axis} ({unit})" if axis and unit else axis or unit)


def _rows(raw: Any, where: str) -> dict[str, list[float]]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where} must map rows to lists, got {kind(raw)}.")
    return {str(row): _numbers(values, f"{where}[{row!r}]") for row, values in raw.items()}


def _numbers(raw: Any, where: str) -> list[float]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise ValueError(f"{where} must be a list of numbers, got {kind(raw)}.")
    checked = (number(value, where) for value in raw)
    return [math.nan if value is None else value for value in checked]
