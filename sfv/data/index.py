"""The index of a folder of shards: `index.json`, and a table of all episodes beside it.

The table (`episodes.safetensors`) knows where each episode lies and which frames its actions cover, so
that an epoch's order over 200k videos is computed in a second, without opening a shard.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import fsspec
import numpy as np
import webdataset
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_table
from safetensors.numpy import save as save_table

from sfv.data.schema import KINDS, SPLITS, Kind, SchemaError, Split
from sfv.data.table import EpisodeTable, fault_in, fault_in_columns
from sfv.files import regular_file, write_bytes
from sfv.names import plain_name

INDEX_SCHEMA = "sfv.shards/2"
INDEX = "index.json"
TABLE = "episodes.safetensors"
REPAIR = "run write_shards (or encode_latents) again, or copy the shards again"

DAMAGE = (ValueError, EOFError, OverflowError, MemoryError, RecursionError, TokenError, BadZipFile)
"""What libraries raise on bytes that are not what they claim to be. An error that only wrong code raises
(TypeError, AttributeError, ...) is not among them, and an interruption is not."""


class ShardError(ValueError):
    """A shard or its index cannot be used; the message names it and what to do."""


@contextmanager
def one_episode(where: str) -> Iterator[None]:
    """Read or decode one episode: whatever its bytes make a library raise becomes a `ShardError`.

    Args:
        where: shard and key, named in the error.

    Raises:
        ShardError: the bytes are damaged.
        SchemaError: the metadata break the schema.
    """
    try:
        yield
    except (ShardError, SchemaError):
        raise
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise ShardError(f"{where}: damaged ({reason}); {REPAIR}") from error


@dataclass(frozen=True)
class Shard:
    """One tar.

    Args:
        name: file name; stands in paths, URLs and commands, so it is a plain one.
        num_samples: episodes in it.
        num_bytes: size of the tar.
        sha256: of the tar.

    Raises:
        ValueError: a name that is not plain, or a number that is none.
    """

    name: str
    num_samples: int
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        plain_name(self.name, "shard name", ".tar")
        for field in ("num_samples", "num_bytes"):
            value = getattr(self, field)
            if type(value) is not int or not 0 <= value < 2**62:
                raise ValueError(
                    f"shard {self.name}: {field} is {value!r}, not a whole number >= 0"
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
    except ShardError:
        raise
    except (KeyError, TypeError, SafetensorError, *DAMAGE) as error:
        raise ShardError(f"{path}: is damaged ({error}); {REPAIR}") from error


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
    if not isinstance(given["codec"], str):
        raise ShardError(f"{path}: field 'codec': got {given['codec']!r}, allowed is a text")
    if len({shard.name for shard in shards}) < len(shards):
        raise ShardError(f"{path}: lists a shard twice; {REPAIR}")
    rows = _parse_table(load_table(table), shards, path)
    return ShardIndex(root, given["split"], given["kind"], given["codec"], shards, rows)


def _parse_table(
    columns: dict[str, NDArray[Any]], shards: tuple[Shard, ...], path: str
) -> EpisodeTable:
    fault = fault_in_columns(columns)
    if fault is None:
        table = EpisodeTable(**columns)
        counts, sizes = ([getattr(s, f) for s in shards] for f in ("num_samples", "num_bytes"))
        fault = fault_in(table, counts, sizes)
    if fault is not None:
        raise ShardError(f"{path}: {TABLE} beside it {fault}; {REPAIR}")
    return table


def _check_size(path: Path, shard: Shard) -> None:
    if not path.is_file():
        raise ShardError(f"shard {path} is missing; {REPAIR}")
    size = path.stat().st_size
    if size != shard.num_bytes:
        fault = "truncated" if size < shard.num_bytes else "not the one that was indexed"
        raise ShardError(
            f"shard {path} is {fault}: {size} bytes, {INDEX} says {shard.num_bytes}; {REPAIR}"
        )
