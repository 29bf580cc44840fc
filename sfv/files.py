"""Files that are whole or absent: written under a temporary name, then renamed."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`.

    Raises:
        OSError: when the file cannot be written (disk full, no permission); nothing stays under
            `path`'s name that was not there before, and the message names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path}: {error.strerror or error}; nothing half-written is left. "
            "Free space or choose another output folder, then run again",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


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
