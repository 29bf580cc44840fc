"""The report's `gap_closed`: how much of the gap from the base to the truth each row closes.

{ROW: {METRIC: {"decoded": {"value", "low", "high", "n"}, "truth": {...}}}}       1 closes all of it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfv.report.catalogue import METRICS, format_number
from sfv.report.fields import field_of, mapping_of, number

BASE = "none"
ENDS = {"decoded": "the decoded truth", "truth": "the truth"}
TITLE = f"Share of the gap from {BASE} that a row closes, paired over episodes"


@dataclass(frozen=True)
class Closed:
    """The share of one gap that a row closes; None where there is no gap, or no interval."""

    row: str
    metric: str
    end: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def label(self) -> str:
        """The metric's name."""
        return METRICS[self.metric].label if self.metric in METRICS else self.metric

    @property
    def text(self) -> str:
        """`61 % [55, 67]`; an en dash where there is no gap."""
        share = _percent(self.value)
        if self.value is None or self.low is None or self.high is None:
            return share if self.value is None else f"{share} %"
        return f"{share} % [{_percent(self.low)}, {_percent(self.high)}]"

    @property
    def sentence(self) -> str:
        """In words."""
        end = ENDS[self.end]
        if self.value is None:
            return f"There is no gap from {BASE} to {end} ({self.label})."
        return f"{self.row} closes {self.text} of the gap from {BASE} to {end} ({self.label})."


def parse_gaps(raw: Any) -> list[Closed]:
    """Check a report's `gap_closed`.

    Raises:
        ValueError: a field is missing or has the wrong kind; the message names the place.
    """
    holder = {"gap_closed": raw}
    return [
        _closed(str(row), str(metric), end, shares, f"report.gap_closed[{row!r}][{metric!r}]")
        for row, metrics in mapping_of(holder, "gap_closed", "report").items()
        for metric, shares in _mapping(metrics, f"report.gap_closed[{row!r}]").items()
        for end in ENDS
        if end in _mapping(shares, f"report.gap_closed[{row!r}][{metric!r}]")
    ]


def gap_table(gaps: list[Closed]) -> list[list[str]]:
    """Lines of cells: a heading, then a row and metric each; a column for each end that any line has."""
    ends = [end for end in ENDS if any(gap.end == end for gap in gaps)]
    lines = [["", *(f"to {ENDS[end]}" for end in ends)]]
    for row, metric in dict.fromkeys((gap.row, gap.metric) for gap in gaps):
        known = {gap.end: gap for gap in gaps if (gap.row, gap.metric) == (row, metric)}
        cells = [known[end].text if end in known else "" for end in ends]
        lines.append([f"{row}: {next(iter(known.values())).label}", *cells])
    return lines


def gap_sentences(gaps: list[Closed]) -> list[str]:
    """In words, one line a row: LPIPS up to the decoded truth; the table has the rest."""
    return [gap.sentence for gap in gaps if (gap.metric, gap.end) == ("return_lpips", "decoded")]


def _closed(row: str, metric: str, end: str, shares: Mapping[str, Any], where: str) -> Closed:
    place = f"{where}[{end!r}]"
    low, high, value = (
        number(field_of(shares[end], name, place), f"{place}.{name}")
        for name in ("low", "high", "value")
    )
    return Closed(row, metric, end, value, low, high)


def _mapping(raw: Any, where: str) -> Mapping[str, Any]:
    return mapping_of({"": raw}, "", where)


def _percent(share: float | None) -> str:
    text = format_number(None if share is None else 100 * share, 0)
    return "0" if text == "-0" else text.replace("-", "−")
