"""What runs measured: values with what they were measured with, their settings and their cost."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cluster.events import scalars_of
from sfv.metrics import protocol
from sfv.report import rows
from sfv.report.rows import flatten
from sfv.run_folder import CONFIG
from sfv.yaml_file import read_yaml

SEEDS = frozenset({"seed_everything", "model.seed", "data.seed"})
PLACES = frozenset({"out", "trainer.default_root_dir", "data.codec_fingerprint"})
VALIDATION = (
    "data.val", "data.batch_size", "data.buckets", "trainer.limit_val_batches",
    "trainer.precision", "model.codec", "model.schedule", "model.num_context",
    "model.num_generated",
)  # fmt: skip
"""Settings that `val/loss` depends on besides the weights."""


@dataclass(frozen=True)
class Value:
    """One number and, by field, what it was measured with.

    Attributes:
        low: end of its interval; None without one.
        high: the other end.
        num: episodes or videos of its row.
        still: why it does not count, as a still video wins this metric; "" where it counts.
    """

    value: float
    passport: Mapping[str, Any]
    low: float | None = None
    high: float | None = None
    num: int | None = None
    still: str = ""


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        folder: the run folder.
        settings: all of them, by dotted name.
        values: by name: `val/loss`, or `ROW/METRIC` of a report.
        cost: hours of training times processes; None when nothing was logged.
    """

    folder: Path
    settings: Mapping[str, Any]
    values: Mapping[str, Value]
    cost: float | None

    @property
    def method(self) -> str:
        """What runs have in common that differ in their seed alone."""
        left = {k: v for k, v in self.settings.items() if k not in SEEDS | PLACES}
        return json.dumps(left, sort_keys=True, default=str)


def load_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: it is none.
        ValueError: nothing was measured in it.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder}: no run folder, {CONFIG} is missing; give folders of `sfv fit`"
        )
    content = read_yaml(folder / CONFIG)
    if not isinstance(content, dict):
        raise ValueError(f"{folder / CONFIG} holds no settings; it may be cut off")
    settings = flatten({str(key): value for key, value in content.items()})
    logged, cost = _logged(folder / "tensorboard", settings)
    values = {**logged, **_reported(folder)}
    if not values:
        raise ValueError(
            f"{folder}: neither val/loss nor a report.json is there; train it, or run sfv evaluate"
        )
    return Run(folder, settings, values, cost)


def _reported(folder: Path) -> dict[str, Value]:
    """Values of the report in the folder or in one directly below it."""
    reports = sorted([*folder.glob("report.json"), *folder.glob("*/report.json")])
    if len(reports) > 1:
        raise ValueError(
            f"{folder} holds several reports: {', '.join(map(str, reports))}; leave one there"
        )
    if not reports:
        return {}
    return read_report(reports[0])


def read_report(path: Path) -> dict[str, Value]:
    """Values of a `report.json` by `ROW/METRIC`; what was not measured is left out.

    Raises:
        ValueError: it is no such report; names the file and the place.
    """
    report = rows.read_report(path)
    return {
        f"{row.name}/{metric}": Value(
            cell.value,
            dict(cell.passport or {}),
            cell.low,
            cell.high,
            row.num,
            "" if row.counts(metric) else row.still,
        )
        for row in report.rows
        for metric, cell in row.cells.items()
        if cell.value is not None
    }


def _logged(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Value], float | None]:
    """The last `val/loss`, and the cost: pauses between attempts, each of which has a log, are free."""
    last: tuple[int, float] | None = None
    seconds = 0.0
    for path in sorted(folder.glob("events.out.tfevents.*")):
        scalars = list(scalars_of(path))
        if scalars:
            times = [scalar.time for scalar in scalars]
            seconds += max(times) - min(times)
        losses = [scalar for scalar in scalars if scalar.tag == "val/loss"]
        if losses and losses[-1].step > 0:  # at 0 stands the NaN that announces it to HParams
            last = max(last or (-1, 0.0), (losses[-1].step, losses[-1].value))
    processes = int(settings.get("trainer.num_nodes") or 1) * _devices(settings)
    cost = seconds / 3600 * processes if seconds else None
    if last is None:
        return {}, cost
    passport = {
        name: value
        for name, value in settings.items()
        if any(name == key or name.startswith(f"{key}.") for key in VALIDATION)
    }
    return {"val/loss": Value(last[1], {"metric": "val/loss", **passport})}, cost


def _devices(settings: Mapping[str, Any]) -> int:
    given = str(settings.get("trainer.devices"))
    return int(given) if given.isdecimal() else 1  # "auto" on one CPU


def differing(a: Value, b: Value) -> list[str]:
    """Fields in which two values were measured differently, with both contents."""
    return protocol.differing(a.passport, b.passport)


def check_comparable(runs: list[Run], name: str) -> None:
    """Check that all runs measured a value alike.

    Raises:
        ValueError: names two runs and the fields.
    """
    first = runs[0]
    for other in runs[1:]:
        fields = differing(first.values[name], other.values[name])
        if fields:
            raise ValueError(
                f"{name} of {first.folder} and of {other.folder} are not comparable: they were measured "
                f"with another {'; '.join(fields)}"
            )
