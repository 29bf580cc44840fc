"""The tables of a LeRobot data set, versions 2.0, 2.1 and 3.0: where each episode's data lie."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_tools.convert.recording import (
    BadInput,
    SetupError,
    inside,
    number,
    read_json,
    read_jsonl,
    whole,
)
from sfv.names import is_hidden

VERSIONS = ("v2.0", "v2.1", "v3.0")
_PLACE = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")


@dataclass(frozen=True)
class Episode:
    """Where one episode lies.

    Args:
        index: its number in the data set.
        length: frames, by the metadata.
        data: parquet file that holds its rows (and, in v3.0, those of other episodes).
        video: video file of the chosen camera.
        start: seconds into the video where it starts.
        stop: seconds where it ends; None is the file's end.
        tasks: texts of its tasks, for episodes whose rows do not say which.
    """

    index: int
    length: int
    data: Path
    video: Path
    start: float
    stop: float | None
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Meta:
    """What `meta/info.json` says, checked.

    Args:
        root: of the data set.
        version: one of VERSIONS.
        fps: frames a second of the data.
        camera: name of the video feature to use.
        info: the whole file.
        tasks: texts by number.
    """

    root: Path
    version: str
    fps: float
    camera: str
    info: dict[str, Any]
    tasks: dict[int, str]


def read_meta(root: Path, camera: str | None) -> Meta:
    """Read what holds for the whole data set.

    Args:
        root: holds `meta/`, `data/`, `videos/`.
        camera: name of the video feature; None when there is only one.

    Raises:
        SetupError: an unknown version, or no such camera.
        BadInput: a file of `meta/` cannot be used.
    """
    info = read_json(root / "meta" / "info.json")
    if not isinstance(info, dict):
        raise BadInput(f"not a LeRobot info.json: {root / 'meta' / 'info.json'}")
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise SetupError(
            f"{root}: codebase_version is {version!r}; known are {list(VERSIONS)}: convert the data "
            "set with LeRobot's own scripts first"
        )
    fps = number(info.get("fps"), "info.json fps")
    if fps <= 0:
        raise BadInput(f"fps is not above 0: info.json says {fps}")
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(f, dict) for f in features.values()):
        raise BadInput("info.json lacks an object 'features' of objects")
    tasks = _tasks_v3(root) if version == "v3.0" else _tasks_v2(root)
    return Meta(root, version, fps, _camera(features, camera), info, tasks)


def read_episodes(meta: Meta) -> list[Episode | tuple[int, BadInput]]:
    """List the episodes; in place of one whose entry is broken, its number and the fault.

    Raises:
        BadInput: the list itself cannot be read.
    """
    read = _episode_v3 if meta.version == "v3.0" else _episode_v2
    rows = _rows_v3(meta.root) if meta.version == "v3.0" else list(_rows_v2(meta.root))
    found: list[Episode | tuple[int, BadInput]] = []
    for position, row in enumerate(rows):
        try:
            found.append(read(meta, row))
        except BadInput as error:
            found.append((position, error))
    return found


def read_rows(episode: Episode, columns: list[str]) -> dict[str, list[Any]]:
    """Read an episode's rows, in the order of its frames.

    Raises:
        BadInput: the file cannot be read, lacks a column or the episode.
    """
    names = ["episode_index", "frame_index", *columns]
    table = _table(episode.data, names, episode.index)
    if not table["episode_index"]:
        raise BadInput(f"data file without the episode: {episode.data.name}, {episode.index}")
    frames = [whole(frame, "frame_index") for frame in table["frame_index"]]
    order = sorted(range(len(frames)), key=frames.__getitem__)
    return {name: [table[name][row] for row in order] for name in names}


def fill(template: object, fields: dict[str, int | str], root: Path) -> Path:
    """Fill a path template of info.json, which may only hold `{name}` and `{name:03d}`.

    Raises:
        BadInput: another form, an unknown name, or a path out of the data set.
    """
    if not isinstance(template, str):
        raise BadInput(f"path template is no text: {template!r}")

    def value(match: re.Match[str]) -> str:
        name, digits = match[1], int(match[2] or 0)
        if name not in fields:
            raise BadInput(f"path template names an unknown field: {template!r}")
        return str(fields[name]).zfill(digits)

    filled = _PLACE.sub(value, template)
    if "{" in filled or "}" in filled:
        raise BadInput(f"path template cannot be read: {template!r}")
    return inside(root, filled, "info.json")


def _camera(features: dict[str, Any], camera: str | None) -> str:
    """Choose the video feature."""
    kinds = {name: feature.get("dtype") for name, feature in features.items()}
    videos = [
        name for name, kind in kinds.items() if kind == "video" and not _is_depth(features[name])
    ]
    if not videos:
        pictures = [name for name, kind in kinds.items() if kind == "image"]
        raise SetupError(
            f"the data set has no video feature (pictures inside the tables: {pictures}); make one "
            "with videos by LeRobot's own tools"
        )
    if camera is None and len(videos) > 1:
        raise SetupError(f"several cameras: choose one with --camera, of {videos}")
    if camera is not None and camera not in videos:
        raise SetupError(f"--camera {camera}: the data set has {videos}")
    return camera or videos[0]


def _is_depth(feature: dict[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map"))


def _tasks_v2(root: Path) -> dict[int, str]:
    tasks = {}
    for row in read_jsonl(root / "meta" / "tasks.jsonl"):
        tasks[whole(row.get("task_index"), "tasks.jsonl task_index")] = str(row.get("task", ""))
    return tasks


def _tasks_v3(root: Path) -> dict[int, str]:
    """Task texts are the table's pandas index: a column `task`, or one without a name in early files."""
    table = _table(root / "meta" / "tasks.parquet", None)
    name = next((n for n in ("task", "__index_level_0__") if n in table), None)
    if name is None or "task_index" not in table:
        raise BadInput(f"tasks.parquet lacks task_index or task: it has {list(table)}")
    pairs = zip(table["task_index"], table[name], strict=True)
    return {whole(number, "task_index"): str(text) for number, text in pairs}


def _rows_v2(root: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(root / "meta" / "episodes.jsonl"))


def _rows_v3(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    found = (root / "meta" / "episodes").glob("*/*.parquet")
    paths = sorted(path for path in found if not is_hidden(path, root))
    if not paths:
        raise BadInput(f"no episode table: {root / 'meta' / 'episodes'} holds no */*.parquet")
    for path in paths:
        names = [name for name in _columns(path) if not name.startswith("stats/")]
        table = _table(path, names)
        rows += [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    return sorted(rows, key=lambda row: str(row.get("episode_index", "")).zfill(12))


def _episode_v2(meta: Meta, row: dict[str, Any]) -> Episode:
    index = whole(row.get("episode_index"), "episodes.jsonl episode_index")
    size = whole(meta.info.get("chunks_size"), "info.json chunks_size") or 1
    fields: dict[str, int | str] = {
        "episode_chunk": index // size, "episode_index": index, "video_key": meta.camera,
    }  # fmt: skip
    return Episode(
        index=index,
        length=whole(row.get("length"), f"episode {index} length"),
        data=fill(meta.info.get("data_path"), fields, meta.root),
        video=fill(meta.info.get("video_path"), fields, meta.root),
        start=0.0,
        stop=None,
        tasks=_texts(row.get("tasks")),
    )


def _episode_v3(meta: Meta, row: dict[str, Any]) -> Episode:
    index = whole(row.get("episode_index"), "episodes table episode_index")

    def count(name: str) -> int:
        return whole(row.get(name), f"episode {index} {name}")

    camera = f"videos/{meta.camera}"
    data: dict[str, int | str] = {
        "chunk_index": count("data/chunk_index"), "file_index": count("data/file_index"),
    }  # fmt: skip
    video: dict[str, int | str] = {
        "chunk_index": count(f"{camera}/chunk_index"),
        "file_index": count(f"{camera}/file_index"),
        "video_key": meta.camera,
    }
    return Episode(
        index=index,
        length=count("length"),
        data=fill(meta.info.get("data_path"), data, meta.root),
        video=fill(meta.info.get("video_path"), video, meta.root),
        start=number(row.get(f"{camera}/from_timestamp"), f"episode {index} from_timestamp"),
        stop=number(row.get(f"{camera}/to_timestamp"), f"episode {index} to_timestamp"),
        tasks=_texts(row.get("tasks")),
    )


def _texts(tasks: object) -> tuple[str, ...]:
    given = [tasks] if isinstance(tasks, str) else tasks
    return tuple(str(task) for task in given) if isinstance(given, list) else ()


def _columns(path: Path) -> list[str]:
    with _reading(path), _parquet().ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def _table(
    path: Path, columns: list[str] | None, episode: int | None = None
) -> dict[str, list[Any]]:
    """Read columns of a table.

    Args:
        path: the file.
        columns: None reads all.
        episode: gives only the rows of this episode.
    """
    with _reading(path):
        names = columns or _columns(path)
        table = _read(path, path.stat().st_mtime_ns, tuple(names))
        if episode is not None:
            table = table.filter(_compute().equal(table.column("episode_index"), episode))
        return {name: table.column(name).to_pylist() for name in names}


@lru_cache(maxsize=1)
def _read(path: Path, changed: int, columns: tuple[str, ...]) -> Any:
    """Read columns as an arrow table; the last is kept, since in v3.0 many episodes share a file."""
    with _parquet().ParquetFile(path) as file:
        have = list(file.schema_arrow.names)
        missing = [name for name in columns if name not in have]
        if missing:
            raise BadInput(f"parquet file lacks the column {missing[0]!r}: {path.name} has {have}")
        # One thread and no filter while reading: pyarrow then neither hangs nor ends the process
        # when the file is damaged.
        return file.read(columns=list(columns), use_threads=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """The reader's errors become `BadInput`."""
    try:
        yield
    except (BadInput, SetupError):
        raise
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"parquet file cannot be read: {path.name} ({first})") from error


def _parquet() -> Any:
    """The reader of tables, which only this converter needs."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SetupError("LeRobot's tables need pyarrow: pip install 'sfv[lerobot]'") from error
    return pq


def _compute() -> Any:
    import pyarrow.compute as compute

    return compute
