"""The index of a folder of shards: `index.json`, and a table of all episodes beside it.

The table (`episodes.safetensors`) knows where each episode lies and which frames its actions cover, so
that an epoch's order over 200k videos is computed in a second, without opening a shard.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import webdataset
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_table
from safetensors.numpy import save as save_table

from sfv.data.schema import DOMAINS, KINDS, SPLITS, EpisodeMeta, Kind, Split
from sfv.files import regular_file, write_bytes

INDEX_SCHEMA = "sfv.shards/2"
INDEX = "index.json"
TABLE = "episodes.safetensors"
REPAIR = "run write_shards (or encode_latents) again, or copy the shards again"

Ints = NDArray[np.int64]


class ShardError(ValueError):
    """A shard or its index cannot be used; the message names it and what to do."""


@dataclass(frozen=True)
class Shard:
    """One tar.

    Args:
        name: file name.
        num_samples: episodes in it.
        num_bytes: size of the tar.
        sha256: of the tar.
    """

    name: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, eq=False)
class EpisodeTable:
    """One row an episode, in the order of the shards.

    Args:
        shard: which shard it lies in, int32.
        begin: where its first member starts in the tar, bytes, int64.
        end: one past its last member, bytes, int64.
        domain: place in `DOMAINS`, uint8.
        num_actions: int32.
        action_stop: one past the last frame of each action of all episodes in turn, int32.
    """

    shard: NDArray[np.int32]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    domain: NDArray[np.uint8]
    num_actions: NDArray[np.int32]
    action_stop: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def first_action(self) -> Ints:
        """Where each episode's actions begin in `action_stop`."""
        return np.concatenate([[0], np.cumsum(self.num_actions, dtype=np.int64)[:-1]])

    def of_shards(self, chosen: Sequence[int]) -> "EpisodeTable":
        """The rows of some shards, which become shards 0, 1, ..."""
        place = np.full(int(self.shard.max(initial=-1)) + 1, -1, dtype=np.int32)
        place[list(chosen)] = np.arange(len(chosen), dtype=np.int32)
        rows = np.flatnonzero(place[self.shard] >= 0)
        rows = rows[np.argsort(place[self.shard[rows]], kind="stable")]
        return self._rows(rows, place[self.shard[rows]])

    def _rows(self, rows: Ints, shard: NDArray[np.int32]) -> "EpisodeTable":
        counts = self.num_actions[rows]
        start = np.repeat(self.first_action[rows], counts)
        within = np.arange(len(start)) - np.repeat(np.cumsum(counts) - counts, counts)
        return EpisodeTable(
            shard,
            self.begin[rows],
            self.end[rows],
            self.domain[rows],
            counts,
            self.action_stop[start + within],
        )


@dataclass(frozen=True)
class ShardIndex:
    """All shards of one split.

    Args:
        root: the folder or URL where they stand (not stored).
        split: of every episode in them.
        kind: what they hold.
        codec: video codec, or the frame codec's fingerprint.
        shards: in order.
        table: one row an episode.
    """

    root: str
    split: Split
    kind: Kind
    codec: str
    shards: tuple[Shard, ...]
    table: EpisodeTable = dataclasses.field(compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """The folder of shards on this machine's disks."""
        return Path(self.root)

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    def where(self, shard: Shard) -> str:
        """Path or URL of a shard."""
        return f"{self.root.rstrip('/')}/{shard.name}"

    def fingerprint(self) -> str:
        """Short hash of the shards' content; a stream's place in them means nothing in others."""
        digests = [shard.sha256 for shard in self.shards]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]


def table_of(metas: Sequence[EpisodeMeta], spans: Sequence[tuple[int, int]]) -> EpisodeTable:
    """Build the table of one shard.

    Args:
        metas: of its episodes, in order.
        spans: first byte of each episode in the tar, and one past its last.
    """
    places = np.array(spans, dtype=np.int64).reshape(-1, 2)
    stops = [action.stop for meta in metas for action in meta.actions]
    return EpisodeTable(
        shard=np.zeros(len(metas), dtype=np.int32),
        begin=places[:, 0].copy(),
        end=places[:, 1].copy(),
        domain=np.array([DOMAINS.index(meta.domain) for meta in metas], dtype=np.uint8),
        num_actions=np.array([len(meta.actions) for meta in metas], dtype=np.int32),
        action_stop=np.array(stops, dtype=np.int32),
    )


def join_tables(tables: Sequence[EpisodeTable]) -> EpisodeTable:
    """Put the tables of several folders or shards one after the other; shards are numbered anew."""
    counts = [int(table.shard.max(initial=-1)) + 1 for table in tables]
    before = np.cumsum([0, *counts[:-1]])
    columns = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("begin", "end", "domain", "num_actions", "action_stop")
    }
    shard = np.concatenate([table.shard + n for table, n in zip(tables, before, strict=True)])
    return EpisodeTable(shard.astype(np.int32), **columns)


def write_index(index: ShardIndex) -> None:
    """Write the table, then `index.json`, which names the table's hash."""
    columns = {name: np.ascontiguousarray(column) for name, column in vars(index.table).items()}
    table = save_table(columns)
    fields = {
        "schema": INDEX_SCHEMA,
        "split": index.split,
        "kind": index.kind,
        "codec": index.codec,
        "num_samples": index.num_samples,
        "shards": [dataclasses.asdict(shard) for shard in index.shards],
        "table_sha256": hashlib.sha256(table).hexdigest(),
    }
    write_bytes(index.folder / TABLE, table)
    write_bytes(
        index.folder / INDEX, (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()
    )


def find_shards(where: str | Path) -> ShardIndex:
    """Find the shards that a folder, a URL or a brace pattern names, and check that they are whole.

    Args:
        where: a split's folder, its URL (`s3://bucket/train`, `https://...`; what fsspec knows), or a
            pattern such as `data/train/train-{000000..000003}.tar` beside whose shards `index.json`
            stands.

    Raises:
        ShardError: no folder, no index, a missing or truncated shard. Shards behind a URL are
            checked when they are read.
    """
    root, names = str(where), None
    if root.endswith(".tar"):
        chosen = [root] if Path(root).is_file() else webdataset.shardlists.expand_urls(root)
        root = chosen[0].rpartition("/")[0] or "."
        names = [url.rpartition("/")[2] for url in chosen]
    index = _read_index(root)
    if names is not None:
        known = {shard.name: i for i, shard in enumerate(index.shards)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ShardError(
                f"shard {root}/{unknown[0]} is not in {root}/{INDEX}; it lists {sorted(known)}"
            )
        places = [known[name] for name in names]
        index = dataclasses.replace(
            index,
            shards=tuple(index.shards[place] for place in places),
            table=index.table.of_shards(places),
        )
    if not is_remote(root):
        for shard in index.shards:
            _check_size(index.folder / shard.name, shard)
    return index


def is_remote(where: str) -> bool:
    """Whether `where` is a URL rather than a path on this machine's disks."""
    return "://" in where


def read_bytes(where: str) -> bytes:
    """Read a whole file or URL.

    Raises:
        OSError: it cannot be read.
    """
    if not is_remote(where):
        regular_file(Path(where))
    with fsspec.open(where, "rb") as file:
        content: bytes = file.read()
    return content


def _read_index(root: str) -> ShardIndex:
    path = f"{root.rstrip('/')}/{INDEX}"
    if not is_remote(root) and not Path(path).is_file():
        beside = sorted(p.parent.name for p in Path(root).glob(f"*/{INDEX}"))
        hint = f"; did you mean one of its folders {beside}?" if beside else ""
        raise ShardError(
            f"{root}: no {INDEX} there, so no shards{hint} (write_shards makes the folder)"
        )
    try:
        return _parse_index(root, path, read_bytes(path))
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error}); {REPAIR}") from error
    except (KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise ShardError(f"{path}: is damaged ({error!r}); {REPAIR}") from error


def _parse_index(root: str, path: str, content: bytes) -> ShardIndex:
    given = json.loads(content)
    if given["schema"] != INDEX_SCHEMA:
        raise ShardError(
            f"{path}: schema {given['schema']!r} is not known; this version reads "
            f"{INDEX_SCHEMA!r}; {REPAIR}"
        )
    table = read_bytes(f"{root.rstrip('/')}/{TABLE}")
    if hashlib.sha256(table).hexdigest() != given["table_sha256"]:
        raise ShardError(f"{path}: {TABLE} beside it is not the one it names; {REPAIR}")
    shards = tuple(Shard(**shard) for shard in given["shards"])
    for field, allowed in (("split", SPLITS), ("kind", KINDS)):
        if given[field] not in allowed:
            raise ShardError(
                f"{path}: field {field!r}: got {given[field]!r}, allowed is one of {allowed}"
            )
    for shard in shards:
        if "/" in shard.name or os.sep in shard.name or shard.name.startswith("."):
            raise ShardError(f"{path}: shard name {shard.name!r} is not a plain file name")
    rows = EpisodeTable(**load_table(table))
    counts = np.bincount(rows.shard, minlength=len(shards)).tolist()
    if counts != [shard.num_samples for shard in shards]:
        raise ShardError(f"{path}: lists other numbers of episodes than {TABLE}; {REPAIR}")
    return ShardIndex(root, given["split"], given["kind"], given["codec"], shards, rows)


def _check_size(path: Path, shard: Shard) -> None:
    if not path.is_file():
        raise ShardError(f"shard {path} is missing; {REPAIR}")
    size = path.stat().st_size
    if size != shard.num_bytes:
        fault = "truncated" if size < shard.num_bytes else "not the one that was indexed"
        raise ShardError(
            f"shard {path} is {fault}: {size} bytes, {INDEX} says {shard.num_bytes}; {REPAIR}"
        )
