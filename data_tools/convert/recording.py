"""What a converter hands over: recordings with their annotations; and safe readers for its input."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sfv import texts

CELL_LIMIT = 1_000_000
"""Characters of one CSV cell; more is a broken file."""


class SetupError(ValueError):
    """The command cannot start: a wrong option, or the data set's own files are not as they should be."""


class BadInput(ValueError):
    """One input is broken; it is skipped and counted. The message is its reason."""


class NotWanted(ValueError):
    """One input is sound but left out by a rule; it is skipped and counted."""


@dataclass(frozen=True)
class Span:
    """One annotated action.

    Args:
        text: what is done, in words.
        start: seconds from the recording's start.
        stop: seconds; the action covers start <= t < stop.
        raw: what the source says about it, any JSON value.
    """

    text: str
    start: float
    stop: float
    raw: Any = None


@dataclass(frozen=True)
class Samples:
    """Low-level records of a recording; each chunk of the episode keeps its own.

    Args:
        name: key in the `samples` of an action's `raw`.
        times: seconds, rising. A record made at t acts from t on, so it belongs to the frame after t.
        values: one JSON value a time.
    """

    name: str
    times: tuple[float, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Details:
    """The annotations of one recording.

    Args:
        spans: actions; they may overlap and leave gaps.
        samples: low-level records.
        left_out: counts of annotations that the reader left out, by reason.
    """

    spans: tuple[Span, ...]
    samples: tuple[Samples, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Recording:
    """One input: a stretch of a video, or a folder of pictures.

    Args:
        key: names the input in the summary and its episodes; unique.
        scene: the place, which decides the split; "" when unknown (an error, with `scene_hint`).
        video: a video file, or a folder of numbered pictures.
        start: seconds into the video where the recording starts.
        stop: seconds where it ends; None is the video's end.
        picture_fps: of a folder of pictures; None for a video file.
        split: the source's own split, which a split of its scene must not contradict; None without.
        payload: whatever the converter's `read_details` needs; it is pickled to workers.
    """

    key: str
    scene: str
    video: Path
    start: float = 0.0
    stop: float | None = None
    picture_fps: float | None = None
    split: str | None = None
    payload: Any = None


@dataclass(frozen=True)
class Skip:
    """An input that was not converted.

    Args:
        key: of the input.
        reason: without numbers that differ from input to input, so that equal reasons are counted together.
        detail: the rest of the message.
        fault: the input is broken, rather than left out by a rule.
    """

    key: str
    reason: str
    detail: str = ""
    fault: bool = True


def skip_of(key: str, error: Exception, fault: bool = True) -> Skip:
    """Skip an input for an error, whose message reads "what is wrong: where, and what was given"."""
    reason, _, detail = str(error).partition(": ")
    return Skip(key, reason, detail, fault)


@dataclass(frozen=True)
class Source:
    """A data set as its converter found it.

    Args:
        name: short name; begins every episode's id and scene.
        domain: of the schema.
        licence: SPDX name where there is one.
        source: where the frames come from, in words.
        recordings: inputs to convert, in a fixed order.
        skips: inputs that were found and cannot be converted.
        scene_hint: what to do when a scene is missing.
        settings: the converter's own settings that decide the content.
    """

    name: str
    domain: Literal["navigation", "game", "human", "robot", "driving"]
    licence: str
    source: str
    recordings: tuple[Recording, ...]
    skips: tuple[Skip, ...] = ()
    scene_hint: str = ""
    settings: dict[str, object] = field(default_factory=dict)


def inside(root: Path, name: str, what: str) -> Path:
    """Join a path that a data file names to the data set's root.

    Raises:
        BadInput: it leads out of the root.
    """
    try:
        path = (root / name).resolve()
        if path.is_relative_to(root.resolve()):
            path = texts.find_file(root, name).resolve()
    except (OSError, ValueError) as error:  # longer than a name may be, or no text a name can have
        raise BadInput(f"path that no file can have: {what} names {name[:80]!r}") from error
    if not path.is_relative_to(root.resolve()):
        raise BadInput(f"path outside of the data set: {what} names {name!r}")
    return path


def need_dir(path: Path, what: str) -> Path:
    """Give the folder back if it is there.

    Raises:
        SetupError: it is not.
    """
    if not path.is_dir():
        raise SetupError(f"{path}: no such folder; give {what}")
    return path


def read_text(path: Path) -> str:
    """Read a UTF-8 text, see `sfv.texts`.

    Raises:
        BadInput: missing or not UTF-8.
    """
    try:
        return texts.read_text(path)
    except OSError as error:
        raise BadInput(f"file cannot be read: {path} ({error.strerror or error})") from error
    except ValueError as error:
        raise BadInput(f"file is not UTF-8 text: {error}") from error


def read_csv(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV file with a header.

    Raises:
        BadInput: missing, no header, a needed column is missing, a row of another length.
    """
    csv.field_size_limit(CELL_LIMIT)
    reader = csv.DictReader(io.StringIO(read_text(path)), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise BadInput(f"CSV cannot be read: {path} line {reader.line_num} ({error})") from error
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise BadInput(
            f"CSV lacks the column {missing[0]!r}: {path} has {list(reader.fieldnames or ())}; "
            f"needed are {list(needed)}"
        )
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise BadInput(
                f"CSV row of another length than the header: {path}, data row {number - 1}"
            )
    return rows


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        BadInput: missing or not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {path} ({error})") from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Read one JSON object a line; empty lines are passed over.

    Raises:
        BadInput: missing, or a line that is no JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"not JSON lines: {path} line {number} ({error})") from error
        if not isinstance(value, dict):
            raise BadInput(f"not JSON lines: {path} line {number} is no object")
        yield value


def number(text: object, where: str) -> float:
    """Read a finite number from a cell or a JSON value.

    Raises:
        BadInput: it is none.
    """
    try:
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            raise ValueError
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"not a number: {where} is {text!r}")
    return value


def whole(text: object, where: str) -> int:
    """Read a whole number >= 0.

    Raises:
        BadInput: it is none.
    """
    value = number(text, where)
    if value != int(value) or value < 0:
        raise BadInput(f"not a whole number >= 0: {where} is {text!r}")
    return int(value)


def compact(value: object) -> Any:
    """Make a value fit for JSON: six significant digits, null for what is no finite number."""
    if isinstance(value, float):
        short = float(f"{value:.6g}") if math.isfinite(value) else None
        return int(short) if short is not None and short.is_integer() else short
    if isinstance(value, dict):
        return {str(key): compact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [compact(item) for item in value]
    return value
