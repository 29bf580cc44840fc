"""Shards: WebDataset tars of whole episodes, and the index that stands beside them.

A split's folder holds `SPLIT-000000.tar, ...` and `index.json`. A sample has two members, `KEY.json`
(see `schema`) and `KEY.mp4` or `KEY.latents.npy` (float16 `c t h w`). Nothing else is read: a member
with another name is an error, and no member is ever unpickled or written to disk.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import webdataset

from sfv.data.schema import ID_PATTERN, KINDS, SPLITS, EpisodeMeta, Kind, Split, from_json, to_json
from sfv.files import partial_file, write_bytes

INDEX_SCHEMA = "sfv.shards/1"
INDEX = "index.json"
EXTENSIONS: dict[str, str] = {"video": "mp4", "latents": "latents.npy"}
_MEMBER = re.compile(rf"({ID_PATTERN})\.(json|mp4|latents\.npy)")
_REPAIR = "run write_shards (or encode_latents) again, or copy the shards again"


class ShardError(ValueError):
    """A shard or its index cannot be used; the message names it and what to do."""


@dataclass(frozen=True)
class Sample:
    """One episode as it is stored: metadata and the bytes of its mp4 or npy file."""

    meta: EpisodeMeta
    payload: bytes


@dataclass(frozen=True)
class Shard:
    """One tar.

    Args:
        name: file name.
        num_samples: episodes in it.
        num_bytes: size of the tar.
        sha256: of the tar.
        offsets: where each episode's first member starts, bytes; a reader can seek to it.
    """

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class ShardIndex:
    """All shards of one split.

    Args:
        folder: where they stand (not stored).
        split: of every episode in them.
        kind: what they hold.
        codec: video codec, or the frame codec's fingerprint.
        shards: in order.
    """

    folder: Path
    split: Split
    kind: Kind
    codec: str
    shards: tuple[Shard, ...]

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)


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
    present = sorted(folder.glob("*.tar"))
    if (present or (folder / INDEX).exists()) and not overwrite:
        raise ShardError(
            f"{folder} holds {len(present)} shards already; pass overwrite (--overwrite) to replace "
            "them or choose another folder"
        )
    written: list[tuple[Path, Shard]] = []
    first: EpisodeMeta | None = None
    try:
        for group in _groups(samples, split, max_bytes):
            first = first or group[0].meta
            _check_alike(first, group)
            written.append(_write_tar(group, folder / f"{split}-{len(written):06d}.tar"))
        if first is None:
            raise ShardError(f"no episode to write to {folder}; collect or convert some first")
        for path in present:
            path.unlink()
        for temporary, shard in written:
            temporary.replace(folder / shard.name)
    except BaseException:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
        raise
    shards = tuple(shard for _, shard in written)
    index = ShardIndex(folder, split, first.encoding.kind, first.encoding.codec, shards)
    write_bytes(folder / INDEX, _index_json(index).encode())
    return index


def find_shards(where: str | Path) -> ShardIndex:
    """Find the shards that a folder or a brace pattern names, and check that they are whole.

    Args:
        where: a split's folder, or a pattern such as `data/train/train-{000000..000003}.tar`
            whose folder holds `index.json`.

    Raises:
        ShardError: no folder, no index, a missing or truncated shard.
    """
    path = Path(where)
    names = None
    if path.suffix == ".tar":
        chosen = [Path(url) for url in webdataset.shardlists.expand_urls(str(where))]
        path, names = chosen[0].parent, [url.name for url in chosen]
    index = _read_index(path)
    if names is not None:
        known = {shard.name: shard for shard in index.shards}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ShardError(
                f"shard {path / unknown[0]} is not in {path / INDEX}; it lists {sorted(known)}"
            )
        index = dataclasses.replace(index, shards=tuple(known[name] for name in names))
    for shard in index.shards:
        _check_size(path / shard.name, shard)
    return index


def read_shard(path: Path, shard: Shard) -> Iterator[Sample]:
    """Read a tar's episodes in order.

    Raises:
        ShardError: the tar is damaged or holds a member that is not allowed.
        SchemaError: an episode's JSON breaks the schema; names shard and key.
    """
    count = 0
    members: dict[str, bytes] = {}
    key = ""
    for name, extension, content in _members(path):
        if name != key and members:
            yield _sample(path, key, members)
            members, count = {}, count + 1
        key = name
        if extension in members:
            raise ShardError(f"{path}: member {name}.{extension} stands there twice; {_REPAIR}")
        members[extension] = content
    if members:
        yield _sample(path, key, members)
        count += 1
    if count != shard.num_samples:
        raise ShardError(
            f"{path}: holds {count} episodes, {INDEX} says {shard.num_samples}; {_REPAIR}"
        )


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


def _check_alike(first: EpisodeMeta, group: list[Sample]) -> None:
    for sample in group:
        if sample.meta.encoding != first.encoding:
            raise ShardError(
                f"episode {sample.meta.id!r} is stored as {sample.meta.encoding}, {first.id!r} as "
                f"{first.encoding}; one folder of shards holds one encoding"
            )


def _write_tar(group: list[Sample], path: Path) -> tuple[Path, Shard]:
    """Write one tar under a temporary name; owner, mode and times are TarInfo's fixed ones."""
    offsets = []
    with partial_file(path) as (file, temporary):
        tar = tarfile.open(fileobj=file, mode="w")  # noqa: SIM115 (closing writes the end)
        for sample in group:
            offsets.append(tar.offset)
            extension = EXTENSIONS[sample.meta.encoding.kind]
            for name, content in (
                ("json", to_json(sample.meta).encode()),
                (extension, sample.payload),
            ):
                info = tarfile.TarInfo(f"{sample.meta.id}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        tar.close()
    digest, size = sha256_of(temporary), temporary.stat().st_size
    return temporary, Shard(path.name, len(group), size, digest, tuple(offsets))


def _index_json(index: ShardIndex) -> str:
    fields = dataclasses.asdict(index)
    del fields["folder"]
    fields |= {"schema": INDEX_SCHEMA, "num_samples": index.num_samples}
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def _read_index(folder: Path) -> ShardIndex:
    path = folder / INDEX
    if not path.is_file():
        beside = sorted(p.parent.name for p in folder.glob(f"*/{INDEX}"))
        hint = f"; did you mean one of its folders {beside}?" if beside else ""
        raise ShardError(
            f"{folder}: no {INDEX} there, so no shards{hint} (write_shards makes the folder)"
        )
    try:
        given = json.loads(path.read_bytes())
        if given["schema"] != INDEX_SCHEMA:
            raise ShardError(
                f"{path}: schema {given['schema']!r} is not known; this version reads "
                f"{INDEX_SCHEMA!r}; {_REPAIR}"
            )
        shards = tuple(
            Shard(**{**shard, "offsets": tuple(shard["offsets"])}) for shard in given["shards"]
        )
        for field, allowed in (("split", SPLITS), ("kind", KINDS)):
            if given[field] not in allowed:
                raise ShardError(
                    f"{path}: field {field!r}: got {given[field]!r}, allowed is one of {allowed}"
                )
        for shard in shards:
            if os.sep in shard.name or shard.name.startswith("."):
                raise ShardError(f"{path}: shard name {shard.name!r} is not a plain file name")
        return ShardIndex(folder, given["split"], given["kind"], given["codec"], shards)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ShardError(f"{path}: is damaged ({error!r}); {_REPAIR}") from error


def _check_size(path: Path, shard: Shard) -> None:
    if not path.is_file():
        raise ShardError(f"shard {path} is missing; {_REPAIR}")
    size = path.stat().st_size
    if size != shard.num_bytes:
        fault = "truncated" if size < shard.num_bytes else "not the one that was indexed"
        raise ShardError(
            f"shard {path} is {fault}: {size} bytes, {INDEX} says {shard.num_bytes}; {_REPAIR}"
        )


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and content of every member; anything but the known names is refused."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                match = _MEMBER.fullmatch(member.name)
                if match is None or not member.isreg():
                    raise ShardError(
                        f"{path}: member {member.name!r} is not allowed; a shard holds plain files "
                        "KEY.json, KEY.mp4 and KEY.latents.npy only"
                    )
                file = tar.extractfile(member)
                assert file is not None
                yield match[1], match[2], file.read()
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"shard {path} cannot be read ({error}); {_REPAIR}") from error


def _sample(path: Path, key: str, members: dict[str, bytes]) -> Sample:
    where = f"{path}: {key}"
    if "json" not in members:
        raise ShardError(f"{where}: has no {key}.json; {_REPAIR}")
    meta = from_json(members.pop("json"), where)
    extension = EXTENSIONS[meta.encoding.kind]
    if meta.id != key or list(members) != [extension]:
        raise ShardError(
            f"{where}: needs exactly the members {meta.id}.json and {meta.id}.{extension}, has "
            f"{[f'{key}.{name}' for name in members]}; {_REPAIR}"
        )
    return Sample(meta, members[extension])
