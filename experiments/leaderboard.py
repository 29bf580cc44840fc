"""Write the table of docs/leaderboard.md from the reports of benchmark runs.

    python -m experiments.leaderboard runs/doom-bench/report.json --page docs/leaderboard.md

Each argument is a `report.json` of `sfv evaluate --benchmark`, or SYSTEM=report.json; without a name the
folder of the report names the system. Only numbers that stand in the reports are shown. Numbers of
one benchmark have to have been measured alike: where two passports differ, the tool says in which
field and writes nothing.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.command import run_command
from sfv.files import read_json, write_bytes
from sfv.metrics.protocol import MetricValue, comparable, from_plain
from sfv.report.catalogue import METRICS, format_number
from sfv.report.rows import NOT_COUNTED, parse_report
from sfv.report.still import WON_BY_STILLS

BEGIN, END = "<!-- leaderboard: begin -->", "<!-- leaderboard: end -->"
COLUMNS = (
    "return_psnr", "return_lpips", "return_src", "return_fvd", "src", "fvd", "scuts", "motion",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One row of one report.

    Args:
        system: who made it.
        row: of the report.
        num: walks.
        values: its metrics.
        marks: what `none` is beaten in beyond chance, by metric, or what beats it.
        still: why metrics that a still video wins do not count; "" where they do.
    """

    system: str
    row: str
    num: int
    values: Mapping[str, MetricValue]
    marks: Mapping[str, str] = field(default_factory=dict)
    still: str = ""

    def counts(self, metric: str) -> bool:
        """Whether its value of a metric may be held against others'."""
        return metric not in WON_BY_STILLS or not self.still


def leaderboard(reports: list[str], page: Path = Path("docs/leaderboard.md")) -> None:
    """Put the tables between the markers of the page.

    Args:
        reports: report.json files of benchmark runs, each as PATH or SYSTEM=PATH.
        page: a Markdown page that holds both markers.
    """
    if not reports:
        raise ValueError("no report given; give at least one report.json of a benchmark run")
    boards: dict[str, list[Entry]] = {}
    for given in reports:
        name, entries = read_report(given)
        boards.setdefault(name, []).extend(entries)
    for entries in boards.values():
        check(entries)
    text = "\n".join(table(name, boards[name]) for name in sorted(boards))
    write_bytes(page, between_markers(page.read_text(), text, page).encode())
    print(f"{sum(map(len, boards.values()))} rows of {len(boards)} benchmarks in {page}")


def read_report(given: str) -> tuple[str, list[Entry]]:
    """Read a report: the benchmark's name with the walks taken, and an entry a row.

    Raises:
        ValueError: it is no report of a benchmark.
        OSError: it cannot be read.
    """
    system, equals, place = given.rpartition("=")
    path = Path(place)
    content = read_json(path)
    try:
        settings = content["settings"]
        name = f"{settings['benchmark']}: {', '.join(settings['parts'])}"
        parsed = parse_report(content)
        marks: dict[str, dict[str, str]] = {}
        for gap in parsed.differences:
            if gap.against == "none" and (winner := parsed.winner(gap)):
                mark = " *" if winner == gap.row else " (worse)"
                marks.setdefault(gap.row, {})[gap.metric] = mark
        entries = [
            Entry(
                system if equals else path.parent.name,
                row,
                found["n"],
                {
                    metric: from_plain(cell)
                    for metric, cell in found["metrics"].items()
                    if cell["value"] is not None
                },
                marks.get(row, {}),
                parsed.row(row).still,
            )
            for row, found in content["rows"].items()
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no report of a benchmark ({error!r}); give the report.json of "
            "sfv evaluate --benchmark"
        ) from error
    return name, entries


def check(entries: Sequence[Entry]) -> None:
    """Check that the values of each column were measured alike, over equally many walks.

    Raises:
        ValueError: names both rows and the field that differs.
    """
    for metric in COLUMNS:
        having = [entry for entry in entries if metric in entry.values]
        for entry in having[1:]:
            try:
                comparable(having[0].values[metric], entry.values[metric])
            except ValueError as error:
                raise ValueError(
                    f"{having[0].system}/{having[0].row} and {entry.system}/{entry.row}: {error}"
                ) from error
    counts = {entry.num for entry in entries}
    if len(counts) > 1:
        raise ValueError(
            f"rows of {sorted(counts)} walks cannot stand in one table; score the same walks"
        )


def table(name: str, entries: Sequence[Entry]) -> str:
    """A benchmark's table: floor and ceiling first, then the rows, best way back first."""
    columns = [m for m in COLUMNS if any(m in entry.values for entry in entries)]
    lines = [
        f"### {name}",
        "",
        f"{entries[0].num} walks.",
        "",
        "| system | row | " + " | ".join(METRICS[m].heading for m in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for ending, words in (("_ceiling", "true video"), ("_floor", "another place")):
        cells = [_companion(entries, f"{m}{ending}", m) for m in columns]
        if any(cells):
            lines.append(f"| *{words}* | | {' | '.join(cells)} |")
    for entry in sorted(entries, key=_way_back, reverse=True):
        cells = [_cell(entry, metric) for metric in columns]
        lines.append(f"| {entry.system} | {entry.row} | {' | '.join(cells)} |")
    still = [
        f"{entry.system}/{entry.row}: {entry.still}"
        for entry in entries
        if not all(map(entry.counts, columns))
    ]
    if still:
        lines += ["", f"{NOT_COUNTED}{'; '.join(still)}."]
    return "\n".join([*lines, ""])


def _way_back(entry: Entry) -> float:
    value = entry.values.get("return_psnr")
    return -math.inf if value is None else value.value


def _companion(entries: Sequence[Entry], name: str, metric: str) -> str:
    """Ceilings and floors of the way back are the truth's own, so all rows have the same."""
    if name in ("src_floor", "return_src_floor"):
        return ""  # of each row's own video
    found = [entry.values[name] for entry in entries if name in entry.values]
    return format_number(found[0].value, METRICS[metric].digits) if found else ""


def _cell(entry: Entry, metric: str) -> str:
    value = entry.values.get(metric)
    if value is None:
        return "–"
    digits = METRICS[metric].digits
    text = format_number(value.value, digits)
    if value.low is not None and value.high is not None:
        text += f" [{format_number(value.low, digits)}, {format_number(value.high, digits)}]"
    if not entry.counts(metric):
        return f'<span style="color: gray">({text})</span>'
    return text + entry.marks.get(metric, "")


def between_markers(
    page: str, text: str, path: Path, markers: tuple[str, str] = (BEGIN, END)
) -> str:
    """Replace what stands between the markers.

    Raises:
        ValueError: the page does not hold both, in order.
    """
    before, begin, rest = page.partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not begin or not end:
        raise ValueError(
            f"{path} has no lines {markers[0]!r} and {markers[1]!r}; add both, in this order"
        )
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 2 after an error of the input."""
    args = list(sys.argv[1:] if argv is None else argv)
    reports = []
    while args and not args[0].startswith("-"):
        reports.append(args.pop(0))
    return run_command(
        "experiments.leaderboard", leaderboard, [f"--reports={json.dumps(reports)}", *args]
    )


if __name__ == "__main__":
    sys.exit(main())
