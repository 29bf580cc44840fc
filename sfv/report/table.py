"""The report as plain text for the terminal."""

from collections.abc import Mapping
from typing import Any

from sfv.report.catalogue import Metric, format_number
from sfv.report.rows import Cell, Row, best_rows, format_interval, parse_report
from sfv.texts import printable

NOT_MEASURED = Cell(None)


def format_table(report: Mapping[str, Any]) -> str:
    """Lay out a report: one line a metric, one column a row of the report (a model).

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
    columns += [_column(row, metrics, best) for row in parsed.rows]
    widths = [max(map(len, column)) for column in columns]
    head, *body = (
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    )
    lines = [head, "-" * (sum(widths) + 2 * (len(widths) - 1))]
    group_of = {group.metrics[0].name: group for group in parsed.groups}
    for metric, line in zip(metrics, body, strict=True):
        if metric.name in group_of:
            group = group_of[metric.name]
            lines.append(f"{group.title}: {group.meaning}".removesuffix(": "))
        lines.append(line)
    return printable("\n".join([*lines, "", *_legend(bool(best)), *parsed.notes()]), keep="\n")


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
