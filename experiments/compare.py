"""Compare runs: means over seeds, what their settings differ in, quality against cost.

python -m experiments.compare runs/lr/trial-* --out runs/lr/comparison
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.cluster.measured import PLACES, SEEDS, Run, check_comparable, load_run
from experiments.cluster.scatter import Point, write_html, write_png
from sfv.files import write_bytes
from sfv.metrics.interval import LEVEL, mean_interval
from sfv.report.board import write_layout
from sfv.report.rows import NOT_COUNTED, differing_settings
from sfv.report.still import WON_BY_STILLS, why_not_counted
from sfv.texts import printable

COST = "device hours"


@dataclass(frozen=True)
class Mean:
    """Mean over seeds with Student's interval; None bounds for a single seed.

    `still` says why it does not count, as a still video wins this metric; "" where it counts.
    """

    value: float
    low: float | None
    high: float | None
    still: str = ""


def mean_of(values: Sequence[float]) -> Mean:
    """Average a few seeds' values; their spread is estimated from themselves."""
    return Mean(math.fsum(values) / len(values), *mean_interval(values))


def means_of(runs: Sequence[Run]) -> dict[str, Mean]:
    """Mean of each value that all runs of a method have; rows with too little motion are noted."""
    names = [n for n in runs[0].values if all(n in run.values for run in runs)]
    means = {n: mean_of([run.values[n].value for run in runs]) for n in names}
    for name in names:
        row, slash, metric = name.rpartition("/")
        if metric in WON_BY_STILLS:
            of_row = {n.removeprefix(row + slash): mean.value for n, mean in means.items()}
            means[name] = replace(means[name], still=why_not_counted(of_row))
    return means


def methods_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Put runs together that differ in their seed alone, under the settings that tell them apart."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.method, []).append(run)
    names = differences([group[0] for group in groups.values()])
    labels = {}
    for group in groups.values():
        shown = " ".join(f"{_short(n, names)}={group[0].settings.get(n)}" for n in names)
        labels[shown or group[0].folder.name] = group
    return labels


def load_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Read runs; those with another tool's files, or with damaged ones, are left out.

    Returns:
        the runs, and a line for each that was left out.

    Raises:
        ValueError: none is left.
        FileNotFoundError: a folder is no run.
    """
    runs, errors = [], []
    for folder in folders:
        try:
            runs.append(load_run(folder))
        except ValueError as error:
            errors.append(error)
    if not runs:
        raise errors[0]
    left_out = [f"left out: {' '.join(str(error).split())}" for error in errors]
    return runs, left_out


def differences(runs: Sequence[Run]) -> list[str]:
    """Settings in which runs differ, leaving out seeds and places."""
    names = differing_settings([run.settings for run in runs])
    return [n for n in names if n not in SEEDS | PLACES]


def _short(name: str, names: Sequence[str]) -> str:
    """The last word of a setting's name where that is clear."""
    last = name.rpartition(".")[2]
    return last if sum(n.rpartition(".")[2] == last for n in names) == 1 else name


def common_values(runs: Sequence[Run]) -> list[str]:
    """Names of what all runs measured.

    Raises:
        ValueError: there is none.
    """
    names = [n for n in runs[0].values if all(n in run.values for run in runs)]
    if not names:
        listed = "; ".join(f"{run.folder}: {', '.join(run.values)}" for run in runs)
        raise ValueError(f"the runs have no value in common ({listed})")
    return names


def format_table(methods: dict[str, list[Run]], names: Sequence[str]) -> str:
    """One line a method."""
    lines = [["method", "seeds", *names, COST]]
    still: list[str] = []
    for label, runs in methods.items():
        means = means_of(runs)
        cells = [_cell(means[n]) for n in names]
        still += [f"{label}, {n}: {means[n].still}" for n in names if means[n].still]
        costs = [run.cost for run in runs if run.cost is not None]
        cost = f"{sum(costs):.3g}" if costs else "-"
        lines.append([label, str(len(runs)), *cells, cost])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    note = f"[low, high]: {LEVEL:.0%} interval of the mean over seeds (Student's t)"
    told = [f"{NOT_COUNTED}{'; '.join(still)}."] if still else []
    return "\n".join([*text, "", note, *told])


def _cell(mean: Mean) -> str:
    bounds = "" if mean.low is None else f" [{mean.low:.4g}, {mean.high:.4g}]"
    return f"({mean.value:.4g}){bounds}" if mean.still else f"{mean.value:.4g}{bounds}"


def compare(folders: Sequence[Path], out: Path, metric: str | None = None) -> str:
    """Compare runs and write the page, the picture and TensorBoard's layout.

    Args:
        folders: run folders.
        out: where `compare.html`, `compare.png` and `compare.txt` are written.
        metric: the quality to draw; None takes the first.

    Returns:
        the table.

    Raises:
        ValueError: values are not comparable, or none is common.
        FileNotFoundError: a folder is no run.
    """
    runs, left_out = load_runs(folders)
    names = common_values(runs)
    if metric is not None and metric not in names:
        raise ValueError(f"--metric {metric!r} is not in all runs; these are: {', '.join(names)}")
    for name in names:
        check_comparable(runs, name)
    methods = methods_of(runs)
    table = "\n".join([format_table(methods, names), *left_out])
    drawn = metric or names[0]
    points = []
    for label, group in methods.items():
        mean = means_of(group)[drawn]
        cost = math.fsum(run.cost or 0.0 for run in group) / len(group)
        points.append(Point(label, cost, mean.value, mean.low, mean.high, mean.still))
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "compare.txt", (table + "\n").encode())
    write_html(out / "compare.html", points, f"{COST} of one run", drawn, table)
    write_png(out / "compare.png", points, f"{COST} of one run", drawn)
    write_layout(out / "layout")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    p = argparse.ArgumentParser(prog="experiments.compare", description=__doc__.splitlines()[0])
    p.add_argument("runs", type=Path, nargs="+", help="run folders")
    p.add_argument("--out", type=Path, default=Path("runs/comparison"), help="where to write")
    p.add_argument("--metric", help="drawn against cost, e.g. val/loss or fast/psnr")
    args = p.parse_args(argv)
    try:
        print(printable(compare(args.runs, args.out, args.metric), keep="\n"))
    except (ValueError, OSError) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    print(f"written: {args.out / 'compare.html'}, compare.png, compare.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
