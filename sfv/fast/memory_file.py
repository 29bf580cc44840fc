"""Memories as files: Θ in PEFT's names and shapes, a header, and what going on needs.

One safetensors file, whole or absent, with a checksum. `unet.….lora_A.weight` and `lora_B.weight` are Θ,
named as PEFT names an adapter of the denoiser; `extra.…` are the optimiser's state, the newest frames, the
pairs that a rule replays and the one that the guard watches. Random streams need nothing kept: (seed,
episode, number of chunks) is the position in all of them.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfv.fast.memory_check import (
    HEADER_CHARACTERS,
    check_addressed,
    check_episode,
    check_extras,
    check_weights,
    read_fields,
    require_finite,
)
from sfv.fast.protocol import EpisodeMemory
from sfv.storage.weight_files import hash_tensors, write_tensors
from sfv.texts import printable
from sfv.types import MemoryKind

FORMAT = "sfv.memory/2"
SUFFIX = ".memory.safetensors"
_EXTRA = "extra."
_METADATA = "sfv"


@dataclass(frozen=True)
class MemoryHeader:
    """What a memory belongs to and how it came to be.

    Args:
        base: fingerprint of the base model Φ that Θ was learned on.
        episode: name of the episode.
        num_chunks: chunk pairs learned so far.
        r: rank of Θ.
        alpha: its scale is alpha / r.
        origin: how it was made, if not by a rollout alone: "merged from ...".
        settings: of the rollout that made it: sampler, lora, fast, precision, seed.
        kind: of memory; of an addressed one `r` is the key size D and `alpha` the ridge λ.
    """

    base: str
    episode: str
    num_chunks: int
    r: int
    alpha: float
    origin: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    kind: MemoryKind = "temp_lora"

    @property
    def scale(self) -> float:
        """What B·A is multiplied by."""
        return self.alpha / self.r


@dataclass(frozen=True)
class MemoryOrigin:
    """What the memories of one learner belong to.

    Args:
        fingerprint: of the base model; asked for once, when the first memory is stored.
        r: rank of Θ.
        alpha: its scale is alpha / r.
        settings: of what makes them: sampler, lora, fast, precision, seed.
        kind: of memory, see `MemoryHeader`.
    """

    fingerprint: Callable[[], str]
    r: int
    alpha: float
    settings: dict[str, Any]
    kind: MemoryKind = "temp_lora"

    @cached_property
    def base(self) -> str:
        """Fingerprint of the base model."""
        return self.fingerprint()


@dataclass(frozen=True)
class StoredMemory:
    """The content of a file.

    Args:
        header: what it belongs to.
        weights: Θ, under PEFT's names.
        extras: what going on needs; empty for a memory that no rollout made.
        has_checksum: it was read from a file that has one, which it fits; older versions wrote none.
    """

    header: MemoryHeader
    weights: dict[str, Tensor] = field(repr=False)
    extras: dict[str, Tensor] = field(default_factory=dict, repr=False)
    has_checksum: bool = field(default=False, compare=False)

    @property
    def layers(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(A, B) of every adapted layer."""
        names = [name.removesuffix(".lora_A.weight") for name in self.weights if ".lora_A." in name]
        return {
            name: (self.weights[f"{name}.lora_A.weight"], self.weights[f"{name}.lora_B.weight"])
            for name in names
        }


def require_lora(stored: StoredMemory) -> None:
    """Refuse a memory that is no Θ of the temporal LoRA.

    Raises:
        ValueError: it is of another kind.
    """
    header = stored.header
    if header.kind != "temp_lora":
        raise ValueError(
            f"memory {header.episode!r} is of kind {header.kind}, but a LoRA is expected; give a memory of "
            "kind temp_lora"
        )


def store(
    memory: EpisodeMemory,
    weights: dict[str, Tensor],
    extras: dict[str, Tensor],
    origin: MemoryOrigin,
) -> StoredMemory:
    """Take a picture of a memory that goes on changing.

    Args:
        memory: of an episode.
        weights: a copy of what it has learned.
        extras: a copy of what going on needs beside.
        origin: what it belongs to.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    header = MemoryHeader(
        origin.base,
        memory.episode,
        memory.num_chunks,
        origin.r,
        origin.alpha,
        settings=origin.settings,
        kind=origin.kind,
    )
    stored = StoredMemory(header, weights, extras)
    for tensors in (stored.weights, stored.extras):
        require_finite(tensors, f"memory {memory.episode!r}")
    return stored


def save_memory(path: Path, stored: StoredMemory) -> None:
    """Write a memory; whole or not at all, whatever was there before.

    Raises:
        OSError: the disk is full or the folder cannot be written; names the file.
        ValueError: it is nothing that `load_memory` would read; nothing was written.
    """
    header = asdict(stored.header)
    if stored.header.kind == "temp_lora":
        del header["kind"]  # as files had it before there were other kinds
    extras = {f"{_EXTRA}{name}": tensor for name, tensor in stored.extras.items()}
    tensors = {**stored.weights, **extras}
    # One entry: safetensors writes several in any order, and equal memories shall be equal files.
    hashed = hash_tensors(tensors)
    content = {"format": FORMAT, "header": header, "checksum": _checksum(header, hashed)}
    metadata = json.dumps(content, sort_keys=True)
    _check(path, _read_header(path, {_METADATA: metadata})[0], stored.weights, stored.extras)
    write_tensors(path, tensors, {_METADATA: metadata}, hashed)


def load_memory(path: Path, base: str | None = None) -> StoredMemory:
    """Read a memory.

    Args:
        path: the file.
        base: fingerprint of the model that it is to be used with; None does not ask.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no memory or damaged, holds NaN or infinity, or it was learned on another
            base model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a memory (a file NAME{SUFFIX})")
    try:
        with safe_open(path, framework="pt") as file:
            header, content = _read_header(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable memory file ({error})") from error
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_EXTRA)}
    extras = {n.removeprefix(_EXTRA): t for n, t in tensors.items() if n.startswith(_EXTRA)}
    _check(path, header, weights, extras)
    kept = content.get("checksum")
    if kept is not None and kept != _checksum(content["header"], hash_tensors(tensors)):
        raise ValueError(
            f"{path} is damaged: its checksum is {kept!r:.60}, its content's another; copy it again, or "
            "take an earlier memory"
        )
    if base is not None and header.base != base:
        raise ValueError(
            f"memory {path} was learned on base model {printable(header.base)}, but the model given is "
            f"{base}; load the model that the memory belongs to"
        )
    return StoredMemory(header, weights, extras, kept is not None)


def _check(
    path: Path, header: MemoryHeader, weights: dict[str, Tensor], extras: dict[str, Tensor]
) -> None:
    check_episode(header.episode, f"{path}: header.episode")
    if header.kind == "addressed":
        check_addressed(weights, extras, header.r, str(path))
        return
    check_weights(weights, header.r, str(path))
    check_extras(extras, sum(tensor.numel() for tensor in weights.values()), str(path))


def _checksum(header: dict[str, Any], hashed: str) -> str:
    """Over all that a file says: its header, and the hash of its tensors."""
    content = json.dumps(header, sort_keys=True) + hashed
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read_header(path: Path, metadata: dict[str, str]) -> tuple[MemoryHeader, dict[str, Any]]:
    """The header, and the JSON that it stands in."""
    text = metadata.get(_METADATA, "{}")
    if len(text) > HEADER_CHARACTERS:
        raise ValueError(f"{path}: header has {len(text)} characters; allowed: {HEADER_CHARACTERS}")
    try:
        content = json.loads(text, parse_constant=_no_number)
        form = content.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: header is no JSON object ({error}); allowed: what sfv writes, format {FORMAT!r}"
        ) from error
    if form != FORMAT:
        raise ValueError(
            f"{path} has format {form!r:.60}; a memory has format {FORMAT!r}. An adapter "
            "that PEFT wrote becomes one by `sfv memory import`"
        )
    given, known = content.get("header"), {f.name for f in fields(MemoryHeader)}
    if isinstance(given, dict):  # a later version may say more
        given = {name: value for name, value in given.items() if name in known}
    return read_fields(MemoryHeader, given, f"{path}: header"), content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
