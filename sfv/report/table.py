"""The report as plain text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfv.report.catalogue import Metric, format_number
from sfv.report.gap import TITLE, Closed, gap_sentences, gap_table
from sfv.report.rows import Cell, Row, best_rows, format_interval, parse_report
from sfv.texts import printable

NOT_MEASURED = Cell(None)


def format_table(report: Mapping[str, Any]) -> str:
    """Lay out a report: one line a metric, one column a row of the report (a model), then the truth's.

    `*` marks a value that beats every other column beyond doubt: the interval of each paired
    difference excludes zero, over 10 episodes or more. A value in parentheses does not count, see
    `sfv.report.still`. Values without an interval were measured once over all videos.

    Args:
        report: the contents of a `report.json`.

    Raises:
        ValueError: a field is missing; the message names the place.
    """
    parsed = parse_report(report)
    best = best_rows(parsed)
    metrics = [
        shown
        for group in parsed.groups
        for metric in group.metrics
        for shown in (metric, *group.companions[metric.name])
    ]
    columns = [["", *(_heading(metric) for metric in metrics)]]
    columns += [_column(row, metrics, best) for row in (*parsed.rows, *parsed.references)]
    head, *body = _aligned(columns)
    lines = [head, "-" * _width(columns)]
    group_of = {group.metrics[0].name: group for group in parsed.groups}
    for metric, line in zip(metrics, body, strict=True):
        if metric.name in group_of:
            group = group_of[metric.name]
            lines.append(f"{group.title}: {group.meaning}".removesuffix(": "))
        lines.append(line)
    lines += ["", *_legend(bool(best)), *parsed.notes(), *_gaps(parsed.gaps)]
    return printable("\n".join(lines), keep="\n")


def _aligned(columns: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _gaps(gaps: list[Closed]) -> list[str]:
    """The table of gaps, and in words what LPIPS says."""
    if not gaps:
        return []
    head, *body = _aligned(list(zip(*gap_table(gaps), strict=True)))
    return ["", TITLE, f"  {head}", *(f"  {line}" for line in body), *gap_sentences(gaps)]


def _heading(metric: Metric) -> str:
    if metric.of:
        return f"    {metric.label}"
    return f"  {metric.heading} ({metric.unit})" if metric.unit else f"  {metric.heading}"


def _column(row: Row, metrics: list[Metric], best: set[tuple[str, str]]) -> list[str]:
    """Align the numbers of one model on the right, the intervals behind them on the left."""
    cells = [(metric, row.cells.get(metric.name, NOT_MEASURED)) for metric in metrics]
    values = [_value(row, metric, cell) for metric, cell in cells]
    width = max(map(len, values), default=0)
    lines = []
    for (metric, cell), value in zip(cells, values, strict=True):
        mark = "*" if (row.name, metric.name) in best else " "
        interval = "" if metric.of else format_interval(cell, metric.digits)
        lines.append(f"{value:>{width}}{mark} {interval}".rstrip())
    return [f"{row.name} (n={row.num})", *lines]


def _value(row: Row, metric: Metric, cell: Cell) -> str:
    text = format_number(cell.value, metric.digits)
    return text if cell.value is None or row.counts(metric.name) else f"({text})"


def _legend(has_best: bool) -> list[str]:
    lines = ["↑ higher is better, ↓ lower is better; [low, high] is the interval of the value."]
    if has_best:
        lines.append("* better than every other column: the paired interval excludes zero.")
    return lines
