"""The files behind the claims ledger: what the paper says, and where our values are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_origin

from experiments.cluster.measured import Value, read_report
from sfv.yaml_file import read_yaml

STATUSES = ("needs GPUs", "not reproducible")
Kind = Literal["ratio", "share", "order"]


@dataclass(frozen=True)
class Column:
    """One column of a table of the paper.

    Attributes:
        metric: its name in our reports.
        scale: what our value is multiplied by to have the paper's unit.
        report: the only report it may stand in, where rows have several that measure it.
    """

    metric: str
    scale: float | int = 1
    report: str = ""


@dataclass(frozen=True)
class Place:
    """A row of a report."""

    report: str
    row: str


@dataclass(frozen=True)
class Row:
    """One row of a table of the paper.

    Attributes:
        paper: the paper's values by column; a column that is left out is empty there.
        status: what stands between us and the paper's value.
        because: why.
        config: the file that makes the value.
        small: where our values at a small scale are, if there can be any; the first that has the metric.
    """

    paper: dict[str, float | int]
    status: str
    because: str
    config: str = ""
    small: list[Place] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """One table of the paper."""

    title: str
    about: str
    columns: dict[str, Column]
    rows: dict[str, Row]


@dataclass(frozen=True)
class Target:
    """A ratio that ours must reach; see the ledger for what the kinds compute.

    Attributes:
        paper: the paper's; None where it is no number.
        reach: the target in words.
        against: what ours is held against; the best of them counts.
        equal: a metric that has to be equal within a share of it.
    """

    claim: str
    kind: Kind
    reach: str
    metric: str
    paper: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    ceiling: str = ""
    ours: Place | None = None
    against: list[Place] = field(default_factory=list)
    rows: list[Place] = field(default_factory=list)
    equal: dict[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """All that it reads."""
        return [*([self.ours] if self.ours else []), *self.against, *self.rows]


class Reports:
    """The reports of a folder, read once.

    Args:
        folder: what the names in the files are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._commands: dict[str, str] = _content(folder / "reports.yaml", dict[str, str])
        self._read: dict[str, dict[str, Value]] = {}

    def value(self, report: str, row: str, metric: str) -> Value | None:
        """The value; None where the report or the value is not there yet."""
        if report not in self._read:
            path = self.folder / report
            self._read[report] = read_report(path) if path.is_file() else {}
        return self._read[report].get(f"{row}/{metric}")

    def commands(self) -> dict[str, str]:
        """What made each of the reports that are there.

        Raises:
            ValueError: of a report nothing is said.
        """
        there = sorted((self.folder / "reports").glob("*.json"))
        names = [path.relative_to(self.folder).as_posix() for path in there]
        unknown = [name for name in names if name not in self._commands]
        if unknown:
            raise ValueError(
                f"{self.folder / 'reports.yaml'}: says not what made {unknown[0]}; add a line for it"
            )
        return {name: self._commands[name] for name in names}


def load_table(path: Path) -> Table:
    """Read a table.

    Raises:
        ValueError: names the file and what is wrong.
    """
    try:
        content = _content(path, Table)
        rows = {
            name: Row(**{**row, "small": [Place(**place) for place in row.get("small", [])]})
            for name, row in content.pop("rows").items()
        }
        columns = {name: Column(**column) for name, column in content.pop("columns").items()}
        table = Table(columns=columns, rows=rows, **content)
        for name, row in rows.items():
            _check_row(name, row, columns)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return table


def load_targets(path: Path) -> list[Target]:
    """Read the targets.

    Raises:
        ValueError: names the file and what is wrong.
    """
    try:
        return [_target(content) for content in _content(path, list[Target])]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _target(content: Mapping[str, Any]) -> Target:
    places = {
        name: [Place(**place) for place in content.get(name, [])] for name in ("against", "rows")
    }
    ours = Place(**content["ours"]) if "ours" in content else None
    target = Target(**{**content, **places, "ours": ours})
    if target.kind not in ("ratio", "share", "order"):
        raise ValueError(f"{target.claim}: kind is {target.kind!r}; allowed: ratio, share, order")
    if target.kind == "order" and len(target.rows) < 2:
        raise ValueError(f"{target.claim}: an order needs two rows or more")
    if target.kind != "order" and (target.ours is None or not target.against):
        raise ValueError(f"{target.claim}: give `ours`, and `against` with one place or more")
    return target


def _check_row(name: str, row: Row, columns: Mapping[str, Column]) -> None:
    unknown = row.paper.keys() - columns.keys()
    if unknown:
        raise ValueError(
            f"row {name!r} has no column {sorted(unknown)[0]!r}; there are {list(columns)}"
        )
    if row.status not in STATUSES:
        raise ValueError(f"row {name!r}: status is {row.status!r}; allowed: {', '.join(STATUSES)}")


def _content(path: Path, kind: Any) -> Any:
    content = read_yaml(path, kind)
    wanted = list if get_origin(kind) is list else dict
    if not isinstance(content, wanted):
        raise ValueError(f"it holds {type(content).__name__}, wanted is {wanted.__name__}")
    return content
