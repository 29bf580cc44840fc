"""The claims ledger: every cell of the paper's tables beside what was measured here.

    python -m experiments.ledger             writes docs/claims.md
    python -m experiments.ledger --check     says whether it is up to date

The paper's values stand in experiments/claims; ours are read from the reports that are named there.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.cluster.measured import Value, differing
from experiments.ledger_files import (
    Column,
    Place,
    Reports,
    Row,
    Table,
    Target,
    load_table,
    load_targets,
)
from sfv.files import write_bytes
from sfv.texts import printable

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "experiments" / "claims"
PAGE = ROOT / "docs" / "claims.md"
TABLES = ("table1.yaml", "table2.yaml", "table4.yaml")
NOT_YET = "not measured yet"
HEADER = """# Claims ledger

Made by `python -m experiments.ledger`; do not edit. A line for every cell of the paper's Tables 1, 2
and 4. *Measured at small scale* means: the same code and rule on a model and data that fit the machines
here. Such a value cannot be held against the paper's, only against other lines with the same passport.
*Needs GPUs* says what the paper's own value would take; the config for it is shipped. A value in
parentheses [does not count](metrics.md#values-that-do-not-count): less moves than in the true videos.
"""


class Passports:
    """Numbers passports in the order in which they come up."""

    def __init__(self) -> None:
        self.known: list[str] = []

    def number(self, value: Value) -> str:
        text = json.dumps(value.passport, sort_keys=True)
        if text not in self.known:
            self.known.append(text)
        return f"p{self.known.index(text) + 1}"

    def lines(self) -> list[str]:
        """What each stands for, in words."""
        lines = []
        for i, text in enumerate(self.known, start=1):
            fields = [f"{k} {v}" for k, v in json.loads(text).items() if v not in ("", None, False)]
            lines.append(f"- p{i}: {', '.join(fields)}")
        return lines


def page(folder: Path = CLAIMS) -> str:
    """Write the ledger.

    Raises:
        ValueError: a file of claims or a report is wrong.
    """
    reports, passports = Reports(folder), Passports()
    parts = [HEADER]
    for name in TABLES:
        table = load_table(folder / name)
        parts.append("\n".join(table_lines(table, reports, passports)) + "\n")
    targets = load_targets(folder / "targets.yaml")
    parts.append("\n".join(target_lines(targets, reports)) + "\n")
    if passports.known:
        parts.append("\n".join(["## Passports", "", *passports.lines()]) + "\n")
    commands = [f"- `{report}`: `{command}`" for report, command in reports.commands().items()]
    if commands:
        head = ["## Reports", "", "Where the values come from, in `experiments/claims`.", ""]
        parts.append("\n".join([*head, *commands]) + "\n")
    return "\n".join(parts)


def table_lines(table: Table, reports: Reports, passports: Passports) -> list[str]:
    """One line a cell."""
    head = ["row", "column", "paper", "here", "N", "passport", "status", "command"]
    lines = [f"## {table.title}", "", table.about, "", _line(head), _line(["---"] * len(head))]
    for name, row in table.rows.items():
        for label, paper in row.paper.items():
            value = _small(row, table.columns[label], reports)
            scale = table.columns[label].scale
            here = "–" if value is None else _shown(value, scale)
            num = "–" if value is None or value.num is None else str(value.num)
            passport = "–" if value is None else passports.number(value)
            cells = [name, label, f"{paper:g}", here, num, passport, _status(row, value)]
            lines.append(_line([*cells, f"`{_command(row)}`" if row.config else "–"]))
    return lines


def _small(row: Row, column: Column, reports: Reports) -> Value | None:
    places = [place for place in row.small if column.report in ("", place.report)]
    found = (reports.value(place.report, place.row, column.metric) for place in places)
    return next((value for value in found if value is not None), None)


def _status(row: Row, value: Value | None) -> str:
    if value is not None:
        return f"measured at small scale; the paper's needs GPUs ({row.because})"
    if row.small:
        return f"{NOT_YET}; the paper's {row.status} ({row.because})"
    return f"{row.status}: {row.because}"


def _command(row: Row) -> str:
    first = (ROOT / row.config).read_text().splitlines()[0]
    return first.removeprefix("# ")


def target_lines(targets: Sequence[Target], reports: Reports) -> list[str]:
    """One line a target."""
    lines = [
        "## Targets",
        "",
        "Ratios that should not depend on size, on held-out maps. Brackets put the ends of both intervals "
        "together at their worst, which is wider than an interval of the ratio.",
        "",
        _line(["claim", "paper", "ours must reach", "here", "reached"]),
        _line(["---"] * 5),
    ]
    for target in targets:
        here, reached = judge(target, reports)
        paper = "–" if target.paper is None else f"{target.paper:.2f}"
        lines.append(_line([target.claim, paper, target.reach, here, reached]))
    return lines


def judge(target: Target, reports: Reports) -> tuple[str, str]:
    """What was measured, and whether that reaches the target.

    Returns:
        the value in words, and `yes`, `no`, or why that cannot be said.
    """
    found = {
        place: reports.value(place.report, place.row, target.metric) for place in target.places
    }
    absent = [f"{p.report} {p.row}" for p, value in found.items() if value is None]
    known = {place: value for place, value in found.items() if value is not None}
    if target.kind == "order":
        return (NOT_YET, f"missing: {', '.join(absent)}") if absent else _order(target, known)
    against = {p: known[p] for p in target.against if p in known}
    if target.ours not in known or not against:
        return NOT_YET, f"missing: {', '.join(absent)}"
    ours = known[target.ours]
    unlike = [field for other in against.values() for field in differing(ours, other)]
    if unlike:
        return "–", f"not comparable: {unlike[0]}"
    if target.kind == "share":
        here, reached = _share(target, ours, next(iter(against.items())), reports)
    else:
        here, reached = _ratio(target, ours, list(against.values()))
    notes = [f"without {', '.join(absent)}"] if absent else []
    unfit = _unequal(target, reports) + _not_counted({target.ours: ours, **against})
    return "; ".join([here, *notes, *unfit]), "no" if unfit else reached


def _ratio(target: Target, ours: Value, against: Sequence[Value]) -> tuple[str, str]:
    """Ours over the best (least) of the others."""
    best = min(against, key=lambda value: value.value)
    if best.value <= 0:
        return "–", "the best of the others is 0: no ratio"
    ratio = ours.value / best.value
    ends = ""
    if None not in (ours.low, ours.high, best.low, best.high) and best.low:
        assert ours.low is not None and ours.high is not None and best.high is not None
        ends = f" [{ours.low / best.high:.2f}, {ours.high / best.low:.2f}]"
    return f"{ratio:.2f}{ends}", _reached(target, ratio)


def _share(
    target: Target, ours: Value, other: tuple[Place, Value], reports: Reports
) -> tuple[str, str]:
    """How much of the gap between the other and the ceiling ours closes."""
    place, base = other
    ceiling = reports.value(place.report, place.row, target.ceiling)
    if ceiling is None:
        return NOT_YET, f"missing: {target.ceiling} in {place.report} {place.row}"
    if ceiling.value <= base.value:
        return "–", "the true video scores no more than the base: no gap"
    share = (ours.value - base.value) / (ceiling.value - base.value)
    return f"{share:.2f}", _reached(target, share)


def _order(target: Target, known: dict[Place, Value]) -> tuple[str, str]:
    values = [known[place] for place in target.rows]
    unlike = [field for other in values[1:] for field in differing(values[0], other)]
    if unlike:
        return "–", f"not comparable: {unlike[0]}"
    here = " > ".join(
        place.row for place in sorted(target.rows, key=lambda place: -known[place].value)
    )
    falls = all(a.value > b.value for a, b in itertools.pairwise(values))
    unfit = _not_counted(known)
    return "; ".join([here, *unfit]), "yes" if falls and not unfit else "no"


def _not_counted(values: Mapping[Place, Value]) -> list[str]:
    """Say whose values do not count, as too little moves."""
    return [f"{p.row} does not count, {v.still}" for p, v in values.items() if v.still]


def _unequal(target: Target, reports: Reports) -> list[str]:
    """Say where what has to be equal is not."""
    if not target.equal or target.ours is None:
        return []
    metric, within = target.equal["metric"], float(target.equal["within"])
    places = [target.ours, *target.against]
    values = [reports.value(place.report, place.row, metric) for place in places]
    if any(value is None for value in values):
        return [f"{metric} is not measured"]
    numbers = [value.value for value in values if value is not None]
    apart = max(abs(number / numbers[0] - 1) for number in numbers) if numbers[0] else 1.0
    return [] if apart <= within else [f"{metric} differs by {apart:.0%}"]


def _reached(target: Target, number: float) -> str:
    above = target.at_least is None or number >= target.at_least
    below = target.at_most is None or number <= target.at_most
    return "yes" if above and below else "no"


def _shown(value: Value, scale: float) -> str:
    ends = ""
    if value.low is not None and value.high is not None:
        ends = f" [{value.low * scale:.4g}, {value.high * scale:.4g}]"
    text = f"{value.value * scale:.4g}{ends}"
    return f"({text})" if value.still else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    p = argparse.ArgumentParser(prog="experiments.ledger", description="Write the claims ledger.")
    p.add_argument("--out", type=Path, default=PAGE, help="the page (default: docs/claims.md)")
    p.add_argument("--claims", type=Path, default=CLAIMS, help="the folder of claims and reports")
    p.add_argument(
        "--check", action="store_true", help="write nothing; 1 if the page is not up to date"
    )
    args = p.parse_args(argv)
    try:
        text = page(args.claims)
        if args.check:
            known = args.out.read_text() if args.out.is_file() else ""
            print("up to date" if known == text else f"{args.out} is not up to date")
            return int(known != text)
        write_bytes(args.out, text.encode())
    except (ValueError, OSError) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
