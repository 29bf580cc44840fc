"""The report as plain text for the terminal."""

from collections.abc import Mapping
from typing import Any

from sfv.report.catalogue import Metric, format_number
from sfv.report.rows import Cell, Report, Row, best_rows, format_interval, parse_report

NOT_MEASURED = Cell(None)


def format_table(report: Mapping[str, Any]) -> str:
    """Lay out a report: one line a metric, one column a row of the report (a model).

    `*` marks a value that beats every other column beyond doubt: the interval of each paired
    difference excludes zero. Values without an interval were measured once over all videos.

    Args:
        report: the contents of a `report.json`.

    Raises:
        ValueError: a field is missing; the message names the place.
    """
    parsed = parse_report(report)
    best = best_rows(parsed)
    columns = [["", *(_heading(metric) for metric in parsed.metrics)]]
    columns += [_column(row, parsed, best) for row in parsed.rows]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([*lines, "", *_legend(bool(best))])


def _heading(metric: Metric) -> str:
    return f"{metric.heading} ({metric.unit})" if metric.unit else metric.heading


def _column(row: Row, report: Report, best: set[tuple[str, str]]) -> list[str]:
    """Align the numbers of one model on the right, the intervals behind them on the left."""
    cells = [(metric, row.cells.get(metric.name, NOT_MEASURED)) for metric in report.metrics]
    values = [format_number(cell.value, metric.digits) for metric, cell in cells]
    width = max(map(len, values), default=0)
    lines = []
    for (metric, cell), value in zip(cells, values, strict=True):
        mark = "*" if (row.name, metric.name) in best else " "
        lines.append(f"{value:>{width}}{mark} {format_interval(cell, metric.digits)}".rstrip())
    return [f"{row.name} (n={row.num})", *lines]


def _legend(has_best: bool) -> list[str]:
    lines = ["↑ higher is better, ↓ lower is better; [low, high] is the interval of the value."]
    if has_best:
        lines.append("* better than every other column: the paired interval excludes zero.")
    return lines
