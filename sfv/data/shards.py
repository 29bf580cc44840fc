"""Shards: WebDataset tars of whole episodes.

A split's folder holds `SPLIT-000000.tar, ...` and the index (see `index`). A sample has two members,
`KEY.json` (see `schema`) and `KEY.mp4`, `KEY.frames.npy` or `KEY.latents.npy`. Nothing else is read: a
member with another name is an error, and no member is ever unpickled or written to disk.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfv.data.index import (
    DAMAGE,
    INDEX,
    REPAIR,
    Shard,
    ShardError,
    ShardIndex,
    write_index,
)
from sfv.data.schema import ID_PATTERN, Encoding, EpisodeMeta, Split, from_json, to_json
from sfv.data.table import EpisodeTable, join_tables, table_of
from sfv.files import partial_file
from sfv.names import is_hidden

EXTENSIONS: dict[str, str] = {"video": "mp4", "frames": "frames.npy", "latents": "latents.npy"}
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
"""Types of tar members that hold just their bytes: a sparse one of 1 kB can read as 1 GB."""
_MEMBER = re.compile(rf"({ID_PATTERN})\.(json|mp4|frames\.npy|latents\.npy)")


@dataclass(frozen=True)
class Sample:
    """One episode as it is stored: metadata and the bytes of its mp4 or npy file."""

    meta: EpisodeMeta
    payload: bytes


@dataclass(frozen=True)
class WrittenShard:
    """A tar on disk under a temporary name, and what the index has to know of it."""

    temporary: Path
    shard: Shard
    table: EpisodeTable
    encoding: Encoding


def write_shards(
    samples: Iterable[Sample],
    folder: Path,
    split: Split,
    max_bytes: int = 64_000_000,
    overwrite: bool = False,
) -> ShardIndex:
    """Write episodes as tars of equal bytes for equal input, whole or not at all.

    Args:
        samples: in the order of their ids; read once.
        folder: of this split; made when missing.
        split: every episode has to belong to it.
        max_bytes: a new tar begins when one would grow beyond this; a longer episode gets its own.
        overwrite: replace shards that stand in `folder`.

    Raises:
        ShardError: the folder has shards already, no samples, ids out of order, mixed splits,
            kinds or codecs.
        OSError: disk full; names the shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(path for path in folder.glob("*.tar") if not is_hidden(path, folder))
    if (present or (folder / INDEX).exists()) and not overwrite:
        raise ShardError(
            f"{folder} holds {len(present)} shards already; pass overwrite (--overwrite) to replace "
            "them or choose another folder"
        )
    written: list[WrittenShard] = []
    try:
        for group in _groups(samples, split, max_bytes):
            written.append(write_tar(group, folder / f"{split}-{len(written):06d}.tar"))
            _check_alike(written[0].encoding, group)
        if not written:
            raise ShardError(f"no episode to write to {folder}; collect or convert some first")
        return publish(written, folder, split)
    finally:
        for part in written:
            part.temporary.unlink(missing_ok=True)


def publish(written: Sequence[WrittenShard], folder: Path, split: Split) -> ShardIndex:
    """Give tars their final names in place of those that stand there, then write the index.

    Ended at any moment, it can be called again: a tar is at its temporary or at its final place, whole.
    An old index goes first, since what it describes is about to go; the new one comes last, so where an
    index stands all its tars do.

    Args:
        written: in order, at least one; on the disk of `folder`. One that is not at its temporary place
            is at its final one already.
        folder: of this split.
        split: of all episodes.
    """
    encoding = written[0].encoding
    (folder / INDEX).unlink(missing_ok=True)
    for part in written:
        if part.temporary.exists():
            part.temporary.replace(folder / part.shard.name)
    for path in set(folder.glob("*.tar")) - {folder / part.shard.name for part in written}:
        path.unlink()
    index = ShardIndex(
        root=str(folder),
        split=split,
        kind=encoding.kind,
        codec=encoding.codec,
        shards=tuple(part.shard for part in written),
        table=join_tables([part.table for part in written]),
    )
    write_index(index)
    return index


def read_shard(path: Path, shard: Shard) -> Iterator[Sample]:
    """Read a tar's episodes in order.

    Raises:
        ShardError: the tar is damaged or holds a member that is not allowed.
        SchemaError: an episode's JSON breaks the schema; names shard and key.
    """
    count = 0
    try:
        file = path.open("rb")
    except OSError as error:
        raise ShardError(f"shard {path} cannot be read ({error}); {REPAIR}") from error
    with file:
        for _, sample in read_samples(file, str(path), path.stat().st_size):
            yield sample
            count += 1
    if count != shard.num_samples:
        raise ShardError(
            f"{path}: holds {count} episodes, {INDEX} says {shard.num_samples}; {REPAIR}"
        )


def read_samples(file: Any, where: str, num_bytes: int) -> Iterator[tuple[int, Sample]]:
    """Read episodes from a stream of tar bytes: a whole shard, or the bytes of some episodes.

    Args:
        file: something with `read`, read forward only.
        where: named in errors.
        num_bytes: that the stream has; no member is larger.

    Yields:
        where the episode begins in the stream, bytes, and the episode.

    Raises:
        ShardError: damaged, or a member that is not allowed.
        SchemaError: an episode's JSON breaks the schema.
    """
    members: dict[str, bytes] = {}
    key, begin = "", 0
    for offset, name, extension, content in _members(file, where, num_bytes):
        if name != key and members:
            yield begin, _sample(where, key, members)
            members = {}
        if not members:
            key, begin = name, offset
        if extension in members:
            raise ShardError(f"{where}: member {name}.{extension} stands there twice; {REPAIR}")
        members[extension] = content
    if members:
        yield begin, _sample(where, key, members)


def sha256_of(path: Path) -> str:
    """Hash a file, reading it once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _groups(samples: Iterable[Sample], split: str, max_bytes: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    size, last = 0, ""
    for sample in samples:
        if sample.meta.id <= last:
            raise ShardError(
                f"episode {sample.meta.id!r} comes after {last!r}: ids have to be unique and sorted"
            )
        if sample.meta.split != split:
            raise ShardError(
                f"episode {sample.meta.id!r} is of split {sample.meta.split!r}, these shards are "
                f"{split!r}"
            )
        last = sample.meta.id
        if group and size + len(sample.payload) > max_bytes:
            yield group
            group, size = [], 0
        group.append(sample)
        size += len(sample.payload)
    if group:
        yield group


def _check_alike(encoding: Encoding, group: list[Sample]) -> None:
    for sample in group:
        if sample.meta.encoding != encoding:
            raise ShardError(
                f"episode {sample.meta.id!r} is stored as {sample.meta.encoding}, those before it as "
                f"{encoding}; one folder of shards holds one encoding"
            )


def write_tar(samples: Sequence[Sample], path: Path) -> WrittenShard:
    """Write one tar beside `path` under a temporary name; owner, mode and times are TarInfo's fixed ones.

    Raises:
        OSError: disk full; nothing is left.
    """
    spans = []
    with partial_file(path) as (file, temporary):
        tar = tarfile.open(fileobj=file, mode="w")  # noqa: SIM115 (closing writes the end)
        for sample in samples:
            begin = tar.offset
            extension = EXTENSIONS[sample.meta.encoding.kind]
            for name, content in (
                ("json", to_json(sample.meta).encode()),
                (extension, sample.payload),
            ):
                info = tarfile.TarInfo(f"{sample.meta.id}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            spans.append((begin, tar.offset))
        tar.close()
    digest, size = sha256_of(temporary), temporary.stat().st_size
    shard = Shard(path.name, len(samples), size, digest)
    table = table_of([sample.meta for sample in samples], spans)
    return WrittenShard(temporary, shard, table, samples[0].meta.encoding)


def _members(file: Any, where: str, num_bytes: int) -> Iterator[tuple[int, str, str, bytes]]:
    """Offset, key, extension and content of every member; anything but known names is refused."""
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                match = _MEMBER.fullmatch(member.name)
                if match is None or member.type not in _PLAIN or member.sparse is not None:
                    raise ShardError(
                        f"{where}: member {member.name[:200]!r} is not allowed; a shard holds plain "
                        "files KEY.json, KEY.mp4, KEY.frames.npy and KEY.latents.npy only"
                    )
                if not 0 <= member.size <= num_bytes:
                    raise ShardError(
                        f"{where}: member {member.name!r} says that it has {member.size} bytes, there "
                        f"are {num_bytes} in all; {REPAIR}"
                    )
                part = tar.extractfile(member)
                assert part is not None
                yield member.offset, match[1], match[2], part.read()
    except ShardError:
        raise
    except (tarfile.TarError, OSError, *DAMAGE) as error:
        raise ShardError(f"shard {where} cannot be read ({error}); {REPAIR}") from error


def _sample(shard: str, key: str, members: dict[str, bytes]) -> Sample:
    where = f"{shard}: {key}"
    if "json" not in members:
        raise ShardError(f"{where}: has no {key}.json; {REPAIR}")
    meta = from_json(members.pop("json"), where)
    extension = EXTENSIONS[meta.encoding.kind]
    if meta.id != key or list(members) != [extension]:
        raise ShardError(
            f"{where}: needs exactly the members {meta.id}.json and {meta.id}.{extension}, has "
            f"{[f'{key}.{name}' for name in members]}; {REPAIR}"
        )
    return Sample(meta, members[extension])
