"""Read a `report.json` into typed rows; every output (table, HTML, TensorBoard) starts here.

{"rows": {ROW: {"n": int, "metrics": {NAME: {"value", "low", "high", "passport"}}}},
 "settings": {...},
 "differences": [{"metric", "row", "against", "value", "low", "high", "n"}],   # optional, paired
 "left_out": [str],                                        # optional, what was not measured, and why
 "truth": {"n": int, "metrics": {NAME_decoded or NAME_ceiling: {...}}},   # optional, what the truth scores
 "gap_closed": {...},                                     # optional, see sfv/report/gap.py
 "undone": {ROW: int}, "learned": {ROW: int},             # optional, chunks; `learned` of guarded rows
 "curves": {...}}                                          # optional, see sfv/report/curves.py
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfv.files import read_json
from sfv.metrics.interval import MIN_EPISODES, beyond_chance
from sfv.report.catalogue import METRICS, Group, format_number, grouped
from sfv.report.curves import Curve, parse_curves
from sfv.report.fields import field_of, mapping_of, number
from sfv.report.gap import Closed, parse_gaps
from sfv.report.still import WON_BY_STILLS, why_not_counted

NOT_COUNTED = (
    "In parentheses or grey, and not counted: what compares a video with itself, where too little moves, "
    "as a still video wins it. "
)
REFERENCES = {"_decoded": "decoded truth", "_ceiling": "truth"}
"""Rows beside the models', from the endings of their metrics in `truth`."""
FEW = f"Fewer than {MIN_EPISODES} episodes: no value is marked as better."


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

    def num_of(self, metric: str) -> int:
        """Episodes behind a value at most; older reports tell no more of a difference."""
        passport = self.cells[metric].passport if metric in self.cells else None
        known = passport.get("count") if isinstance(passport, Mapping) else None
        return min(self.num, known) if isinstance(known, int) else self.num

    @property
    def still(self) -> str:
        """Why metrics that a still wins do not count here; "" where they do."""
        return why_not_counted({name: cell.value for name, cell in self.cells.items()})

    def counts(self, metric: str) -> bool:
        """Whether its value of a metric may be held against others'."""
        return metric not in WON_BY_STILLS or not self.still


@dataclass(frozen=True)
class Difference:
    """Paired difference `row` minus `against` over `num` episodes; no interval: `low`, `high` are None."""

    metric: str
    row: str
    against: str
    value: float
    low: float | None
    high: float | None
    num: int


@dataclass(frozen=True)
class Report:
    """A checked report.

    Attributes:
        rows: of models.
        groups: hold the metrics that any row has.
        references: rows of the truth, which compete with none.
        gaps: shares of gaps that rows close.
        guard: in words, what the guard undid.
    """

    rows: list[Row]
    groups: list[Group]
    settings: dict[str, Any]
    differences: list[Difference] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    references: list[Row] = field(default_factory=list)
    gaps: list[Closed] = field(default_factory=list)
    guard: list[str] = field(default_factory=list)

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)

    def not_counted(self, metric: str) -> dict[str, str]:
        """Rows whose value or curve may not be held against others', and why."""
        return {row.name: row.still for row in self.rows if not row.counts(metric)}

    def _curves_of(self, row: str) -> list[str]:
        return [name for name, curve in self.curves.items() if row in curve.rows]

    def counts(self, gap: Difference) -> bool:
        """Whether both sides of a difference may be held against others."""
        return all(self.row(name).counts(gap.metric) for name in (gap.row, gap.against))

    def winner(self, gap: Difference) -> str:
        """The row that a difference shows to be better; "" where it shows none.

        The one place that decides it: the interval excludes zero, over enough episodes, and both
        sides count.
        """
        better = METRICS[gap.metric].better if gap.metric in METRICS else "neither"
        sure = beyond_chance(gap.low, gap.high, gap.num) and self.counts(gap)
        if better == "neither" or not sure:
            return ""
        assert gap.low is not None
        return gap.row if (gap.low > 0) == (better == "higher") else gap.against

    def notes(self) -> list[str]:
        """What readers have to know: what is missing, does not count, or was undone; too few episodes."""
        still = [
            f"{row.name}: {row.still}"
            for row in self.rows
            if not all(map(row.counts, [*row.cells, *self._curves_of(row.name)]))
        ]
        few = any(
            gap.num < MIN_EPISODES and beyond_chance(gap.low, gap.high, MIN_EPISODES)
            for gap in self.differences
        )
        lines = [f"{NOT_COUNTED}{'; '.join(still)}."] if still else []
        return [*self.left_out, *lines, *([FEW] if few else []), *self.guard]


def parse_report(report: Mapping[str, Any]) -> Report:
    """Check a report and give it types.

    Raises:
        ValueError: a field is missing or has the wrong kind; the message names the place.
    """
    raw_rows = mapping_of(report, "rows", "report")
    if not raw_rows:
        raise ValueError("report: 'rows' is empty; measure at least one model first.")
    rows = [_row(name, raw) for name, raw in raw_rows.items()]
    truth = _row("truth", report["truth"], "report.truth") if report.get("truth") else None
    shown = {} if truth is None else truth.cells  # as rows of their own
    names = dict.fromkeys(name for row in rows for name in row.cells if name not in shown)
    return Report(
        rows=rows,
        groups=grouped(names),
        settings=dict(mapping_of(report, "settings", "report")),
        differences=[
            _difference(raw, f"report.differences[{i}]", {row.name: row for row in rows})
            for i, raw in enumerate(report.get("differences", ()))
        ],
        curves=parse_curves(report.get("curves", {})),
        left_out=_lines(report.get("left_out", []), "report.left_out"),
        references=[] if truth is None else _references(truth),
        gaps=parse_gaps(report.get("gap_closed", {})),
        guard=_guard(report.get("undone", {}), report.get("learned", {})),
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

    `Report.winner` says which row a difference makes better. Rows whose value does not count are not
    competed with. A report without paired differences has no best rows.
    """
    wins = set()
    for gap in report.differences:
        winner = report.winner(gap)
        loser = gap.against if winner == gap.row else gap.row
        wins.add((winner, loser, gap.metric))
    return {
        (row.name, metric)
        for row in report.rows
        for metric in row.cells
        if (others := [o.name for o in report.rows if o is not row and o.counts(metric)])
        and all((row.name, other, metric) in wins for other in others)
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


def _references(truth: Row) -> list[Row]:
    """What the truth scores as rows: the decoded one, and itself where it has any value."""
    found = []
    for ending, name in REFERENCES.items():
        cells = {m.removesuffix(ending): c for m, c in truth.cells.items() if m.endswith(ending)}
        found += [Row(name, truth.num, cells)] if cells else []
    return found


def _guard(undone: Any, learned: Any) -> list[str]:
    """What the guard undid in words; older reports do not tell of how many chunks."""
    lines = []
    for row, num in undone.items():
        total = learned.get(row)
        if total:
            lines.append(
                f"The guard undid {num} of {total} chunks ({num / total:.0%}) that {row} learned."
            )
        elif num:
            lines.append(f"The guard undid {num} chunks that {row} learned.")
    return [line.replace("%", " %") for line in lines]


def _row(name: str, raw: Any, where: str = "") -> Row:
    where = where or f"report.rows[{name!r}]"
    num = field_of(raw, "n", where)
    if not isinstance(num, int) or num < 0:
        raise ValueError(f"{where}.n is {num!r}: it must be the number of videos, an integer.")
    metrics = mapping_of(raw, "metrics", where)
    cells = {
        metric: _cell(cell, f"{where}.metrics[{metric!r}]") for metric, cell in metrics.items()
    }
    return Row(name, num, cells)


def _lines(raw: Any, where: str) -> list[str]:
    if not isinstance(raw, list) or not all(isinstance(line, str) for line in raw):
        raise ValueError(f"{where} is {raw!r:.60}: it must be a list of sentences.")
    return raw


def _cell(raw: Any, where: str) -> Cell:
    value = number(field_of(raw, "value", where), f"{where}.value")
    low, high = (number(field_of(raw, end, where), f"{where}.{end}") for end in ("low", "high"))
    return Cell(value, low, high, field_of(raw, "passport", where))


def _difference(raw: Any, where: str, rows: Mapping[str, Row]) -> Difference:
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
    num = raw.get("n", min(rows[name].num_of(metric) for name in (row, against)))
    if not isinstance(num, int) or num < 0:
        raise ValueError(f"{where}.n is {num!r}: it must be the number of episodes, an integer.")
    return Difference(metric, row, against, value, low, high, num)
