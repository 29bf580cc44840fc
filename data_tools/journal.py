"""What became of each item of a run: append-only files that survive `kill -9`.

A journal is a folder. `journal.json` says whose it is; every process that works for the run appends
to a file of its own, one JSON object a line, so no two processes ever write to one file. Only lines
that end in a newline count: what a dying process left half-written is work not done.

Beside `NAME.jsonl` stands `NAME.trace`, to which Python's faulthandler writes while the process
dies of a crash or of its time limit; this is how the reason is known afterwards.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from sfv.files import write_json

HEADER = "journal.json"
SYNC_EVERY_S = 1.0
"""Seconds of work that a power failure may cost: what it loses is done again."""

Role = Literal["driver", "worker"]


class JournalError(ValueError):
    """The journal belongs to another run, is in use or is damaged; the message says what to do."""


@dataclass(frozen=True)
class Record:
    """How one item ended.

    Args:
        key: of the item.
        kept: whether the work was done.
        result: what the function returned; None for a skipped item.
        reason: why it was skipped, in words that can be counted; empty for a kept item.
        detail: more about this one item: a message, a measured value.
        attempts: tries until then.
    """

    key: str
    kept: bool
    result: Any = None
    reason: str = ""
    detail: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Start:
    """An attempt that began: by whom, and in which file."""

    attempt: int
    role: Role
    file: str


class Writer:
    """The file of this process."""

    def __init__(self, folder: Path, role: Role) -> None:
        self.role = role
        name = f"{role}-{socket.gethostname()}-{os.getpid()}-{time.time_ns():x}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(folder / f"{name}.jsonl", flags, 0o644)
        self._synced = 0.0
        self.trace = os.open(folder / f"{name}.trace", flags, 0o644)

    def append(self, line: Mapping[str, Any]) -> None:
        """Hand one line to the kernel, where it survives this process; sync the disk now and then."""
        rest = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        while rest:
            rest = rest[os.write(self._file, rest) :]
        if time.monotonic() > self._synced + SYNC_EVERY_S:
            os.fsync(self._file)
            self._synced = time.monotonic()


@lru_cache(maxsize=4)
def writer_of(folder: str, role: Role) -> Writer:
    """Give this process its file in a journal; it is made on first use."""
    return Writer(Path(folder), role)


class Journal:
    """The driver's view of a journal.

    Args:
        folder: made when missing.
        owner: what decides the results: tool and settings; JSON-able.
        resume: go on with a journal that stands there.

    Raises:
        JournalError: one stands there and `resume` is False, it belongs to another run, or another
            process uses it.
    """

    def __init__(self, folder: Path, owner: Mapping[str, Any], resume: bool) -> None:
        self.folder = folder
        self.ended: dict[str, Record] = {}
        self.starts: dict[str, list[Start]] = {}
        self._failures: dict[tuple[str, int], tuple[str, str]] = {}
        self._offsets: dict[Path, int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        try:
            _claim(folder / HEADER, json.loads(json.dumps(owner)), resume)
            self.refresh()
        except BaseException:
            os.close(self._lock)
            raise
        # A worker of an earlier driver died with it; that says nothing about its item.
        self.starts = {
            key: [start for start in starts if start.role == "driver"]
            for key, starts in self.starts.items()
        }
        self._failures = {at: why for at, why in self._failures.items() if self.starts.get(at[0])}

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def refresh(self) -> None:
        """Read what was appended since the last time."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole)
            for text in whole.splitlines():
                self._read(path, text)

    def end(self, record: Record) -> Record:
        """Note how an item ended; what was noted first stays."""
        return self.ended.setdefault(record.key, record)

    def tried_here(self, key: str) -> int:
        """Attempts at an item that ended a driver which did the work itself."""
        own = [s.attempt for s in self.starts.get(key, []) if s.role == "driver"]
        return 0 if key in self.ended else max(own, default=0)

    def cause_of_end(self, key: str, attempt: int) -> tuple[str, str]:
        """Tell why an attempt that began came to nothing: a reason, and a detail.

        The process may have noted an error and died of the next item before it could tell; else it
        died of this one, and the detail is the innermost line of Python.
        """
        if (key, attempt) in self._failures:
            return self._failures[key, attempt]
        files = [s.file for s in self.starts.get(key, []) if s.attempt == attempt]
        trace = ""
        if files:
            trace = (self.folder / f"{files[-1]}.trace").read_text(errors="replace")
        places = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
        place = places[0] if places else ""
        if trace.startswith("Timeout"):
            return "hung beyond the time limit", place
        if trace.startswith("Fatal Python error"):
            return "crashed: " + trace.splitlines()[0].split(": ", 1)[1], place
        return "killed its process (memory, lost node or a kill)", place

    def _read(self, path: Path, text: bytes) -> None:
        try:
            line = json.loads(text)
            key = line["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"{path}: line {text[:80]!r} is damaged ({error}); remove that file: what it notes "
                "will be done again"
            ) from error
        attempt = line["attempt"]
        if "start" in line:
            self.starts.setdefault(key, []).append(Start(attempt, line["start"], path.stem))
        elif "released" in line:
            self.starts[key] = [s for s in self.starts.get(key, []) if s.attempt != attempt]
        elif "failed" in line:
            self._failures[key, attempt] = (line["failed"], line["detail"])
        else:
            self.end(record_of(line))


def record_of(line: Mapping[str, Any]) -> Record:
    """Read the line that ends an item."""
    if "skipped" in line:
        reason, detail = line["skipped"], line["detail"]
        return Record(line["key"], False, None, reason, detail, line["attempt"])
    return Record(line["key"], True, line["kept"], attempts=line["attempt"])


def _lock(folder: Path) -> int:
    """Keep a second driver out; the kernel lets go when this process dies."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise JournalError(
            f"{folder} is in use by another process; wait for it or choose another --out"
        ) from error
    return descriptor


def _claim(header: Path, owner: dict[str, Any], resume: bool) -> None:
    """Write whose journal it is, or check that it is ours."""
    if not header.exists():
        write_json(header, owner)
        return
    try:
        before = json.loads(header.read_bytes())
    except ValueError as error:
        raise JournalError(f"{header} is damaged ({error}); choose another --out") from error
    if before != owner:
        changes = "; ".join(sorted(_changes(before, owner)))
        raise JournalError(
            f"{header.parent} is the journal of another run ({changes}); use the settings it was "
            "begun with, or choose another --out"
        )
    if not resume:
        raise JournalError(
            f"{header.parent}: a run was begun here; give --resume to go on with it, or choose "
            "another --out"
        )


def _changes(before: Any, now: Any, name: str = "") -> list[str]:
    """Name each setting that differs: what it was and what it is now."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now))
        parts = (
            _changes(before.get(k), now.get(k), f"{name}.{k}" if name else str(k)) for k in keys
        )
        return [change for part in parts for change in part]
    return [] if before == now else [f"{name}: then {before!r}, now {now!r}"]
