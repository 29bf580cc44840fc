"""Files that are whole or absent: written under a temporary name, then renamed.

What is being written lies beside its place in a folder `.NAME.RANDOM.tmp`. Its writer holds a lock there,
which ends with the process, so that leftovers of a dead writer can be told from work in progress. Until
the lock is there the folder is called `.NAME.RANDOM.begun`; that takes no time: an old one is a leftover.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

LOCK = ".lock"
"""A file that is there while a process uses its folder."""

WAIT = "wait for it, or give another output folder"

_TEMPORARY, _BEGUN = ".tmp", ".begun"
_OURS = re.compile(rf"\..+\.[0-9a-f]{{12}}({_TEMPORARY}|{_BEGUN})", re.DOTALL)
_LONG_S = 24 * 3600
"""No writer needs that long to lock its folder, and no two clocks of a cluster lie so far apart."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES)


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
        with temporary.open("xb") as file:
            yield file, temporary
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a free path on the disk of `path`, for a file; on success it takes `path`'s place.

    Whatever wrote it, the file is on disk before it is renamed, and has the permissions of any new file
    (umask).

    Raises:
        OSError: as `partial_file`; what stood under `path` before stays.
    """
    with _workspace(path) as temporary:
        yield temporary
        _settle(temporary, _usual_mode(temporary))
        temporary.replace(path)
        sync_folder(path.parent)


@contextmanager
def replacing_parts(folder: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary folder on the disk of `folder`; on success all that is in it moves there.

    Parts of the same name are replaced, `marker` last; other files of `folder` stay. Permissions and
    syncing as in `replacing`.

    Raises:
        OSError: as `partial_file`; nothing was moved if it came up while writing.
    """
    folder = folder.resolve()  # a link would be replaced itself
    with _workspace(folder / marker if _stays(folder) else folder, folder) as temporary:
        temporary.mkdir()
        yield temporary
        _settle(temporary, _usual_mode(temporary))
        if not folder.exists() or not any(folder.iterdir()):
            temporary.replace(folder)
            sync_folder(folder.parent)
            return
        for part in sorted(temporary.iterdir(), key=lambda p: p.name == marker):
            if part.is_dir() and (folder / part.name).exists():
                shutil.rmtree(folder / part.name)
            part.replace(folder / part.name)
            sync_folder(folder)


def _stays(folder: Path) -> bool:
    """Whether parts have to move into a folder one by one: it cannot be replaced as a whole."""
    if not folder.is_dir():
        return False
    fixed = os.path.ismount(folder) or not os.access(folder.parent, os.W_OK)
    return fixed or any(folder.iterdir())


def check_writable(folder: Path) -> None:
    """Make a folder if need be, and try out what a writer does there, before hours of work are lost.

    Raises:
        OSError: no file can be written there; names the folder.
    """
    with _workspace(folder / "file", folder):
        pass  # it has made and renamed a folder with a file there


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where the file system can be told to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def is_temporary(path: Path) -> bool:
    """Whether a path is a lock or unfinished work of this module."""
    hidden = path.name.startswith(".")
    return path.name == LOCK or (hidden and path.name.endswith((_TEMPORARY, _BEGUN)))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{_TEMPORARY}")


@contextmanager
def _workspace(path: Path, named: Path | None = None) -> Iterator[Path]:
    """Yield a free path in a locked folder beside `path`; afterwards the folder is gone.

    Errors name `named`, or `path`.
    """
    work = _beside(path)
    begun = work.with_suffix(_BEGUN)  # not to be removed before it is locked
    with _naming(named or path, work, begun):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent.absolute())
        begun.mkdir()
        with (begun / LOCK).open("w") as lock:
            _try_lock(lock.fileno())
            begun.rename(work)
            yield work / "content"
            shutil.rmtree(work, ignore_errors=True)  # another process may help


@lru_cache(maxsize=1024)
def _remove_leftovers(folder: Path) -> None:
    """Remove what dead writers left; only once a process, since a folder may hold many files."""
    for path in folder.glob(".*"):
        if _OURS.fullmatch(path.name) and path.is_dir():
            with suppress(OSError):
                _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    """Remove a folder for writing, unless its writer may be alive.

    Raises:
        OSError: it is.
    """
    if path.suffix == _BEGUN:
        if time.time() - path.stat().st_mtime > _LONG_S:
            shutil.rmtree(path, ignore_errors=True)
    elif not (path / LOCK).exists():  # killed while it removed its folder, or just doing so
        shutil.rmtree(path, ignore_errors=True)
    else:
        with (path / LOCK).open("r+") as file:
            if _try_lock(file.fileno()):
                shutil.rmtree(path, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    """Take a lock that ends with this process; False where the file system knows no locks.

    Raises:
        BlockingIOError: another process has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _usual_mode(temporary: Path) -> int:
    """What the umask left of the permissions of a file that was made the usual way."""
    return stat.S_IMODE((temporary.parent / LOCK).stat().st_mode)


def _settle(path: Path, mode: int) -> None:
    """Have all below on disk, readable by whom `mode` says; some libraries write private files."""
    if path.is_dir():
        for part in path.iterdir():
            _settle(part, mode)
        sync_folder(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = os.fstat(descriptor)
        wanted = stat.S_IMODE(found.st_mode) | mode
        # A second name of a file that was there before keeps that file's permissions.
        if wanted != stat.S_IMODE(found.st_mode) and found.st_nlink == 1:
            os.fchmod(descriptor, wanted)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path, *temporary: Path) -> Iterator[None]:
    """On failure remove what is temporary; an `OSError` then names `path`."""
    try:
        yield
    except BaseException as error:
        for left in temporary:
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with suppress(OSError):
                    left.unlink()
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
    """Keep a second process off a folder; the lock ends with the process.

    Args:
        folder: gets a file `.lock` for that time.
        refusal: what the second one is told, after who has the folder.

    Raises:
        FileExistsError: another process has it.
    """
    path = folder / LOCK
    while True:
        with path.open("a+") as file:
            try:
                if not _try_lock(file.fileno()):
                    warnings.warn(
                        f"the file system of {folder} knows no locks: start no second command there",
                        stacklevel=3,
                    )
            except BlockingIOError:
                file.seek(0)
                holder = file.read() or "another process"
                raise FileExistsError(f"{folder} is in use by {holder}: {refusal}") from None
            if not _is_at(file.fileno(), path):
                continue  # the one before has just removed it
            with suppress(OSError):  # a full disk is for others to tell
                file.truncate(0)
                file.write(_this_process())
                file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> str:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


@contextmanager
def claimed(folder: Path, marker: str, what: str) -> Iterator[None]:
    """Have a folder to oneself: `claim_folder`, then `locked`.

    Raises:
        FileExistsError: the folder holds something else, or another process has it.
    """
    claim_folder(folder, marker, what)
    with locked(folder, WAIT):
        yield


def confined(path: Path, folder: Path) -> Path:
    """The real path of a file of a folder, through links that stay in the folder.

    Raises:
        ValueError: it leads out of the folder, or is no regular file.
    """
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise ValueError(f"{path} leads out of {folder}, to {real}; put a copy there")
    if not real.is_file():
        raise ValueError(f"{path} is no regular file; put the file itself there")
    return real


def claim_folder(folder: Path, marker: str, what: str) -> None:
    """Make `folder`, or take it over if it is empty or holds `marker`.

    Raises:
        FileExistsError: the folder holds something else; the message says what to do.
        OSError: as `check_writable`.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder: {what} is made there")
    there = folder.iterdir() if folder.is_dir() else ()
    foreign = sorted(path.name for path in there if not is_temporary(path))
    if foreign and not (folder / marker).exists():
        found = ", ".join(foreign[:5])
        raise FileExistsError(
            f"{folder} holds {found}, which is not {what} (no {marker} in it). "
            "Give another output folder, or empty this one first"
        )
    check_writable(folder)
