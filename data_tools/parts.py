"""Shards made one by one, by as many workers as there are, and published together."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.files import settings_hash
from data_tools.mapping import JOURNAL
from data_tools.options import Run
from data_tools.work import Work
from sfv.data.index import INDEX, EpisodeTable, Shard, ShardError, ShardIndex
from sfv.data.schema import Encoding, Split
from sfv.data.shards import Sample, WrittenShard, publish, write_tar
from sfv.files import read_json, write_json

PARTS = ".parts"
"""Folder of tars that wait for the others; it goes when they are published."""


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
    path = Path(settings["folder"]) / PARTS / name
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
        run: how to work; with `resume`, tars that are finished are kept.
        overwrite: replace shards that stand in `folder`.
        title: of the progress bar.

    Returns:
        the index, and the notes of all shards in order.

    Raises:
        ShardError: shards stand there already, or one cannot be made: the others are kept.
    """
    if (folder / INDEX).exists() and not overwrite:
        raise ShardError(
            f"{folder} holds shards already; pass --overwrite to replace them or choose another "
            "folder"
        )
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    plain = {**settings, "folder": str(folder.resolve())}
    left = {name: value for name, value in items.items() if not _finished(parts, name, plain, run)}
    if left:
        results = run.map(function, left, parts, plain, title, "shard")
        if results.skipped:
            shutil.rmtree(parts / JOURNAL)  # the next run tries again what this one gave up
            name, record = next(iter(results.skipped.items()))
            raise ShardError(
                f"{folder / name} cannot be made ({record.reason}: {record.detail}); "
                f"{len(items) - len(results.skipped)} of {len(items)} shards wait in {parts}. Mend "
                "that (data_tools.filter finds episodes that cannot be read) and run again with "
                "--resume"
            )
    given = [read_json((parts / name).with_suffix(".json")) for name in sorted(items)]
    encodings = {tuple(part["encoding"].values()) for part in given}
    if len(encodings) > 1:
        raise ShardError(
            f"the episodes are stored in different ways: {sorted(encodings)}; one folder of shards "
            "holds one encoding"
        )
    index = publish([_written(part, parts) for part in given], folder, split)
    shutil.rmtree(parts)
    return index, [note for part in given for note in part["notes"]]


def _finished(parts: Path, name: str, settings: dict[str, Any], run: Run) -> bool:
    path = (parts / name).with_suffix(".json")
    if not path.exists():
        return False
    if not run.resume or read_json(path)["settings_hash"] != settings_hash(settings):
        raise ShardError(
            f"{parts} holds finished shards of an earlier run; give --resume and the settings of then "
            "to go on with it, or remove that folder to begin anew"
        )
    return True


def _written(part: dict[str, Any], folder: Path) -> WrittenShard:
    shard = Shard(**part["shard"])
    types = EpisodeTable.__dataclass_fields__
    table = EpisodeTable(
        **{name: np.array(part["table"][name], dtype=_DTYPES[name]) for name in types}
    )
    return WrittenShard(folder / shard.name, shard, table, Encoding(**part["encoding"]))


_DTYPES = {
    "shard": np.int32,
    "begin": np.int64,
    "end": np.int64,
    "domain": np.uint8,
    "num_actions": np.int32,
    "action_stop": np.int32,
}
