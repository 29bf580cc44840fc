"""Files that are whole or absent: written under a temporary name, then renamed."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file in a folder, or a folder on its way, is hidden.

    macOS leaves a `._NAME` beside each file on disks of others; other programs keep half-written files so.
    """
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def ascii_name(text: str, longest: int = 160) -> str:
    """Make a name of letters, digits, `_` and `-`.

    Other characters become `-`. Where letters of another script would be lost, or the end of a long text,
    a hash of the whole text stands for them: two texts then keep two names, today and tomorrow.

    Args:
        text: any.
        longest: characters of the name, so that files named by it can be made (255 bytes).
    """
    text = unicodedata.normalize("NFC", text)  # a file system may give é back as two characters
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")
    if plain and text.isascii() and len(plain) <= longest:
        return plain
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{plain[: longest - 13]}-{digest}".lstrip("-")


def regular_file(path: Path) -> Path:
    """Give a path back if a regular file, or a link to one, is there.

    Reading a pipe would wait for ever, and a device never ends.

    Raises:
        FileNotFoundError: nothing is there.
        OSError: a folder, a pipe, a device or a socket is there.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        known = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        found = known.get(stat.S_IFMT(mode), "a device")
        raise OSError(f"{path} is {found}; give a regular file")
    return path


def read_json(path: Path) -> Any:
    """Read the JSON of a regular file.

    Raises:
        ValueError: it is no JSON; names the file and the place.
        OSError: it is no regular file, or cannot be read.
    """
    try:
        return json.loads(regular_file(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); it may be cut off") from error


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
