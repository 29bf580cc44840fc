"""Writing files whole or not at all. Torch-free."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, content: bytes) -> None:
    """Write under a temporary name, force to disk, rename; a failure leaves no file behind.

    Raises:
        OSError: the disk is full or the folder cannot be written; names the file.
    """
    with partial_file(path) as (file, temporary):
        file.write(content)
    temporary.replace(path)


@contextmanager
def partial_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file beside `path`; on leaving it is on disk, or gone when writing failed.

    Yields:
        the open file and its temporary path, which the caller renames.

    Raises:
        OSError: the disk is full or the folder cannot be written; names the file.
    """
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
                f"cannot write {path} ({error.strerror}): nothing was left there; "
                "make room or choose another folder, then run again",
            ) from error
        raise
