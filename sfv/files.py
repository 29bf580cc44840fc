"""Files that are whole or absent: written under a temporary name, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def partial_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file beside `path`; on leaving it is on disk, or gone when writing failed.

    Yields:
        the open file and its temporary path, which the caller renames.

    Raises:
        OSError: the disk is full or the folder cannot be written; names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file, temporary
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(
                error.errno,
                f"cannot write {path} ({error.strerror or error}): nothing half-written was left "
                "there; make room or choose another folder, then run again",
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success it takes `path`'s place.

    Raises:
        OSError: as `partial_file`; what stood under `path` before stays.
    """
    with partial_file(path) as (_, temporary):
        yield temporary
    temporary.replace(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with partial_file(path) as (file, temporary):
        file.write(data)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON (sorted keys, no NaN), whole or not at all."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def claim_folder(folder: Path, marker: str, what: str) -> None:
    """Make `folder`, or take it over if it is empty or holds `marker`.

    Raises:
        FileExistsError: the folder holds something else; the message says what to do.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).exists():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5])
        raise FileExistsError(
            f"{folder} holds {found}, which is not {what} (no {marker} in it). "
            "Give another output folder, or empty this one first"
        )
    folder.mkdir(parents=True, exist_ok=True)
