"""The file of a sweep's Optuna journal, after a writer died: one JSON object a line."""

import json
import sys
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock

from sfv.files import regular_file


def mend(journal: Path, lock: JournalFileSymlinkLock) -> None:
    """Remove a last line that was cut off: what it would have said never was.

    Args:
        journal: the file; it need not be there yet.
        lock: Optuna's; a writer holds it until its line is whole.

    Raises:
        ValueError: another line is damaged, which nothing can make up for; names it.
        OSError: it is no regular file, or cannot be read.
    """
    if not journal.exists() or _first_fault(regular_file(journal)) is None:
        return
    lock.acquire()
    try:
        fault = _first_fault(journal)
        if fault is None:  # it was being written
            return
        number, begin, is_last = fault
        if not is_last:
            raise ValueError(
                f"{journal}, line {number}: is no entry of a sweep's journal; restore the file from a "
                "copy, or remove this line: what it said is lost then"
            )
        size = journal.stat().st_size
        with journal.open("r+b") as file:
            file.truncate(begin)
    finally:
        lock.release()
    print(
        f"{journal}, line {number}: the last line was cut off, as its writer died; removed its "
        f"{size - begin} bytes",
        file=sys.stderr,
    )


def _first_fault(journal: Path) -> tuple[int, int, bool] | None:
    """Number of the first line that is no entry, the byte where it begins, whether it is the last."""
    begin = 0
    with journal.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not _is_entry(line):
                return number, begin, not file.read(1)
            begin += len(line)
    return None


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n") and isinstance(entry, dict) and "op_code" in entry
