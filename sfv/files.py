"""Files that are whole or absent: written under a temporary name, then renamed."""

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,199}", re.ASCII)


def plain_name(name: Any, what: str, ending: str = "") -> str:
    """Check a name that was read from a file, before it becomes part of a path, a URL or a command.

    Args:
        name: as it was read.
        what: named in the error: which name it is, and where it stands.
        ending: that it has to have, `.tar` say.

    Raises:
        ValueError: it could lead out of a folder, or mean something to a shell or in a URL.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not name.endswith(ending):
        last = f" and {ending!r} at its end" if ending else ""
        raise ValueError(
            f"{what} {str(name)[:200]!r} is not a plain file name; allowed are at most 200 letters, "
            f"digits, '_', '-' and '.', with a letter, digit or '_' first{last}"
        )
    return name


def part_of_a_name(text: Any, what: str) -> str:
    """Check a text that was read from a file, before it becomes part of a file's name in a folder of ours.

    Args:
        text: as it was read; any language, spaces too: it goes into no command and no URL.
        what: named in the error.

    Raises:
        ValueError: it leads out of the folder, or names no file.
    """
    if not isinstance(text, str) or text in ("", ".", "..") or "/" in text or "\0" in text:
        raise ValueError(
            f"{what} {str(text)[:200]!r} cannot become part of a file's name: it needs at least one "
            "character, and has no '/'"
        )
    return text


@contextmanager
def partial_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file beside `path`; on leaving it is on disk, or gone when writing failed.

    Yields:
        the open file and its temporary path, which the caller renames.

    Raises:
        OSError: the disk is full or the folder cannot be written; names the file.
    """
    temporary = _beside(path)
    with _naming(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file, temporary
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success it takes `path`'s place.

    Raises:
        OSError: as `partial_file`; what stood under `path` before stays.
    """
    with partial_file(path) as (_, temporary):
        yield temporary
    with _naming(path, temporary):
        temporary.replace(path)


@contextmanager
def replacing_parts(folder: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success all that is in it moves there.

    Parts of the same name are replaced, `marker` last; other files of `folder` stay.

    Raises:
        OSError: as `partial_file`; nothing was moved if it came up while writing.
    """
    folder = folder.resolve()  # a link would be replaced itself
    temporary = _beside(folder)
    with _naming(folder, temporary):
        temporary.mkdir(parents=True)
        yield temporary
        if not folder.exists() or not any(folder.iterdir()):
            temporary.replace(folder)
            return
        for part in sorted(temporary.iterdir(), key=lambda p: p.name == marker):
            if part.is_dir() and (folder / part.name).exists():
                shutil.rmtree(folder / part.name)
            part.replace(folder / part.name)
        temporary.rmdir()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """On failure remove `temporary`; an `OSError` then names `path`."""
    try:
        yield
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(
                error.errno or errno.EIO,
                f"cannot write {path} ({error.strerror or error}): nothing half-written was left "
                "there; make room or choose another folder, then run again",
            ) from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON (sorted keys, no NaN), whole or not at all."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Keep a second process off a folder; the lock goes with the process.

    Args:
        folder: gets a file `lock`.
        refusal: what the second one is told.

    Raises:
        FileExistsError: another process has it.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"{folder}: {refusal}") from None
        yield


def claim_folder(folder: Path, marker: str, what: str) -> None:
    """Make `folder`, or take it over if it is empty or holds `marker`.

    Raises:
        FileExistsError: the folder holds something else; the message says what to do.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder: {what} is made there")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).exists():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5])
        raise FileExistsError(
            f"{folder} holds {found}, which is not {what} (no {marker} in it). "
            "Give another output folder, or empty this one first"
        )
    folder.mkdir(parents=True, exist_ok=True)
