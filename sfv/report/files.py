"""Write a file whole or not at all."""

import errno
import os
from pathlib import Path


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the whole new one.

    The bytes go to a temporary name beside `path`, reach the disk, and are renamed.

    Raises:
        OSError: the disk is full, a quota is reached, or the folder cannot be written; no part of
            the new file is left, and an older file at `path` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, _explain(error, path, len(data)), str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _explain(error: OSError, path: Path, num_bytes: int) -> str:
    """Say what was being written and what to change."""
    what = f"cannot write {path.name} ({num_bytes / 2**20:.1f} MiB)"
    choices = "or choose another output folder. Nothing is left behind"
    if error.errno == errno.ENOSPC:
        return f"{what}: the disk is full; free space {choices}"
    if error.errno in (errno.EFBIG, errno.EDQUOT):
        return f"{what}: a file size limit or quota is reached; raise it {choices}"
    if error.errno == errno.ENOENT:
        return f"{what}: the folder {path.parent} does not exist; create it first"
    return f"{what}: {error.strerror}"
