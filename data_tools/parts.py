"""Shards made one by one, by as many workers as there are, and published together.

A command may be killed at any moment: what is whole is kept, and the same command with `--resume` (or
with `--overwrite`, from the beginning) gives the same bytes as one that was not.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.files import settings_hash
from data_tools.mapping import JOURNAL
from data_tools.options import Run
from data_tools.work import Work
from sfv.data.index import DAMAGE, INDEX, Shard, ShardError, ShardIndex, find_shards
from sfv.data.schema import Encoding, Split
from sfv.data.shards import Sample, WrittenShard, publish, sha256_of, write_tar
from sfv.data.table import COLUMNS, EpisodeTable
from sfv.files import locked, write_json
from sfv.names import plain_name

PARTS = ".parts"
"""Folder of tars that wait for the others; it goes when they are published."""

MADE = "made.json"
"""File beside the shards that says what they were made from."""


@dataclass(frozen=True)
class Part:
    """What the file beside a finished tar says: its settings, the tar, notes for the user."""

    settings_hash: str
    written: WrittenShard
    notes: list[str]


def write_part(
    samples: list[Sample], name: str, settings: dict[str, Any], notes: Sequence[str] = ()
) -> str:
    """Write one tar into the folder of parts, then a file that says what is in it.

    Args:
        samples: in order.
        name: of the tar.
        settings: what the function was called with.
        notes: messages for the user, an episode that was left out, say.

    Raises:
        OSError: disk full; nothing is left of this tar.
    """
    path = Path(settings["folder"]) / PARTS / plain_name(name, "shard name", ".tar")
    written = write_tar(samples, path)
    written.temporary.replace(path)
    about = {
        "settings_hash": settings_hash(settings),
        "shard": dataclasses.asdict(written.shard),
        "table": {key: column.tolist() for key, column in vars(written.table).items()},
        "encoding": dataclasses.asdict(written.encoding),
        "notes": list(notes),
    }
    write_json(path.with_suffix(".json"), about)
    return name


def make_shards(
    function: Work, items: Mapping[str, Any], settings: Mapping[str, Any], folder: Path, split: Split,
    run: Run, overwrite: bool = False, title: str = "shards",
) -> tuple[ShardIndex, list[str]]:  # fmt: skip
    """Make every shard of a split, in any order and on any number of workers, then publish them.

    Until all are there, tars stand under `.parts` and what stood in `folder` stays.

    Args:
        function: makes one shard: `function(value, settings)` calls `write_part`.
        items: value by the shard's file name.
        settings: what decides the content.
        folder: of this split.
        split: of all episodes.
        run: how to work; with `resume`, tars that are finished are kept, and a split that is finished is
            given as it is.
        overwrite: replace shards that stand in `folder`; without `resume`, also those of a run that was
            begun there.
        title: of the progress bar.

    Returns:
        the index, and the notes of all shards in order.

    Raises:
        ShardError: shards stand there already, or one cannot be made: the others are kept.
    """
    parts = folder / PARTS
    source = {**settings, "items": settings_hash(dict(items))}
    if (folder / INDEX).exists():
        published = _published(folder, settings_hash(source)) if run.resume else None
        if published is not None:
            shutil.rmtree(parts, ignore_errors=True)  # the command was killed while it removed them
            return published
        if not overwrite:
            raise ShardError(
                f"{folder} holds shards already; pass --overwrite to replace them or choose another "
                "folder"
            )
    if overwrite and not run.resume:
        _discard(parts)
    plain = {**source, "folder": str(folder.resolve())}
    finished = _finished(parts, folder, items, settings_hash(plain), run.resume)
    left = {name: value for name, value in items.items() if name not in finished}
    given = _make(function, left, sorted(items), plain, folder, run, title)
    encodings = {dataclasses.astuple(part.written.encoding) for part in given}
    if len(encodings) > 1:
        raise ShardError(
            f"the episodes are stored in different ways: {sorted(encodings)}; one folder of shards "
            "holds one encoding"
        )
    notes = [note for part in given for note in part.notes]
    digests = [part.written.shard.sha256 for part in given]
    made = {"settings_hash": settings_hash(source), "shards": digests, "notes": notes}
    write_json(
        folder / MADE, made
    )  # first: it counts from the moment when the index names these shards
    index = publish([part.written for part in given], folder, split)
    shutil.rmtree(parts)
    return index, notes


def _make(
    function: Work, left: dict[str, Any], names: list[str], settings: dict[str, Any], folder: Path,
    run: Run, title: str,
) -> list[Part]:  # fmt: skip
    """Make what is left, and give all parts."""
    parts = folder / PARTS
    for _ in range(2):
        if not left:
            break
        results = run.map(function, left, parts, settings, title, "shard")
        if results.skipped:
            shutil.rmtree(parts / JOURNAL)  # the next run tries again what this one gave up
            name, record = next(iter(results.skipped.items()))
            raise ShardError(
                f"{folder / name} cannot be made ({record.reason}: {record.detail}); "
                f"{len(names) - len(results.skipped)} of {len(names)} shards wait in {parts}. Mend "
                "that (data_tools.filter finds episodes that cannot be read) and run again with "
                "--resume"
            )
        left = {name: value for name, value in left.items() if _read_part(parts, name) is None}
        if left:  # the journal notes them as done, but they are gone again
            shutil.rmtree(parts / JOURNAL)
    if left:
        raise ShardError(f"{parts}: {next(iter(left))} cannot be read again; is the disk damaged?")
    return [part for name in names if (part := _read_part(parts, name)) is not None]


def _published(folder: Path, source: str) -> tuple[ShardIndex, list[str]] | None:
    """The shards that stand in `folder` and their notes, if they were made from this very source."""
    try:
        index, made = find_shards(folder), json.loads((folder / MADE).read_bytes())
        same = made["settings_hash"] == source
        same = same and made["shards"] == [shard.sha256 for shard in index.shards]
        return (index, [str(note) for note in made["notes"]]) if same else None
    except (KeyError, TypeError, OSError, *DAMAGE):
        return None


def _discard(parts: Path) -> None:
    """Remove what an earlier run left, unless that run is still going on."""
    journal = parts / JOURNAL
    if journal.is_dir():
        with locked(journal, "is in use by another process; wait for it or choose another --out"):
            shutil.rmtree(parts)
    elif parts.exists():
        shutil.rmtree(parts)


def _finished(
    parts: Path, folder: Path, names: Iterable[str], settings: str, resume: bool
) -> set[str]:
    """Names of the tars that are whole, under `parts` or, where publishing was ended, at their place."""
    finished = set()
    for name in names:
        part = _read_part(parts, name)
        if part is None:
            continue
        if not resume or part.settings_hash != settings:
            raise ShardError(
                f"{parts} holds finished shards of an earlier run; give --resume and the settings of "
                "then to go on with it, or --overwrite alone to begin anew"
            )
        if _is_whole(parts / name, part.written.shard):
            finished.add(name)
            continue
        (parts / name).unlink(missing_ok=True)
        if _is_whole(folder / name, part.written.shard):
            finished.add(name)
        else:
            (parts / name).with_suffix(".json").unlink()
    return finished


def _is_whole(path: Path, shard: Shard) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == shard.num_bytes
        and sha256_of(path) == shard.sha256
    )


def _read_part(parts: Path, name: str) -> Part | None:
    """What stands beside a tar; None where nothing does, or it is damaged: the tar is made again then."""
    try:
        given = json.loads((parts / name).with_suffix(".json").read_bytes())
        shard = Shard(**given["shard"])
        if shard.name != name:
            return None
        columns = {key: np.array(given["table"][key], dtype=kind) for key, kind in COLUMNS.items()}
        encoding = Encoding(**given["encoding"])
        written = WrittenShard(parts / name, shard, EpisodeTable(**columns), encoding)
        return Part(given["settings_hash"], written, [str(note) for note in given["notes"]])
    except (KeyError, TypeError, OSError, *DAMAGE):
        return None
