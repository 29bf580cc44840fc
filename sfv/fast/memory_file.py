"""Memories as files: Θ in PEFT's names and shapes, a header, and what going on needs.

One safetensors file, whole or absent. `unet.….lora_A.weight` and `lora_B.weight` are Θ, named as PEFT names
an adapter of the denoiser; `extra.…` are the optimiser's state, the newest frames, the pairs that a rule
replays and the one that the guard watches. Random streams need nothing kept: (seed, episode, number of
chunks) is the position in all of them.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfv.fast.memory import Memory
from sfv.files import part_of_a_name
from sfv.models.weight_files import write_tensors
from sfv.types import FastWeights

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
    """

    base: str
    episode: str
    num_chunks: int
    r: int
    alpha: float
    origin: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What B·A is multiplied by."""
        return self.alpha / self.r


@dataclass(frozen=True)
class StoredMemory:
    """The content of a file.

    Args:
        header: what it belongs to.
        weights: Θ, under PEFT's names.
        extras: what going on needs; empty for a memory that no rollout made.
    """

    header: MemoryHeader
    weights: dict[str, Tensor] = field(repr=False)
    extras: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def layers(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(A, B) of every adapted layer."""
        names = [name.removesuffix(".lora_A.weight") for name in self.weights if ".lora_A." in name]
        return {
            name: (self.weights[f"{name}.lora_A.weight"], self.weights[f"{name}.lora_B.weight"])
            for name in names
        }


def store(
    memory: Memory, weights: FastWeights, base: str, alpha: float, r: int, settings: dict[str, Any]
) -> StoredMemory:
    """Take a picture of a memory that goes on changing."""
    header = MemoryHeader(base, memory.episode, memory.num_chunks, r, alpha, "", settings)
    return StoredMemory(header, weights.state(memory.theta), memory.extras())


def save_memory(path: Path, stored: StoredMemory) -> None:
    """Write a memory; whole or not at all, whatever was there before.

    Raises:
        OSError: the disk is full or the folder cannot be written; names the file.
    """
    # One entry: safetensors writes several in any order, and equal memories shall be equal files.
    content = {"format": FORMAT, "header": asdict(stored.header)}
    metadata = {_METADATA: json.dumps(content, sort_keys=True)}
    extras = {f"{_EXTRA}{name}": tensor for name, tensor in stored.extras.items()}
    write_tensors(path, {**stored.weights, **extras}, metadata)


def load_memory(path: Path, base: str | None = None) -> StoredMemory:
    """Read a memory.

    Args:
        path: the file.
        base: fingerprint of the model that it is to be used with; None does not ask.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no memory or damaged, or it was learned on another base model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a memory (a file NAME{SUFFIX})")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable memory file ({error})") from error
    if base is not None and header.base != base:
        raise ValueError(
            f"memory {path} was learned on base model {header.base}, but the model given is {base}; "
            "load the model that the memory belongs to"
        )
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_EXTRA)}
    _check_pairs(path, weights, header.r)
    extras = {n.removeprefix(_EXTRA): t for n, t in tensors.items() if n.startswith(_EXTRA)}
    return StoredMemory(header, weights, extras)


def _check_pairs(path: Path, weights: dict[str, Tensor], r: int) -> None:
    """Every A has its B, and both are of the header's rank."""
    good = set()
    for name, a in weights.items():
        b = weights.get(name.replace(".lora_A.", ".lora_B.")) if ".lora_A." in name else None
        if b is not None and min(a.ndim, b.ndim) >= 2 and a.shape[0] == b.shape[1] == r:
            good |= {name, name.replace(".lora_A.", ".lora_B.")}
    if not weights or good != weights.keys():
        raise ValueError(
            f"{path} is damaged: its tensors are no pairs of LoRA weights of rank {r}; write it again"
        )


def _header(path: Path, metadata: dict[str, str]) -> MemoryHeader:
    try:
        content = json.loads(metadata.get(_METADATA, "{}"))
        form = content.get("format")
    except (ValueError, AttributeError):
        form = None
    if form != FORMAT:
        raise ValueError(
            f"{path} has format {form!r}; a memory has format {FORMAT!r}. An adapter "
            "that PEFT wrote becomes one by `sfv memory import`"
        )
    try:
        known = {f.name for f in fields(MemoryHeader)}
        given = {name: value for name, value in content["header"].items() if name in known}
        header = MemoryHeader(**given)
        part_of_a_name(header.episode, "episode")
        if header.r < 1 or header.num_chunks < 0 or not math.isfinite(header.alpha):
            raise TypeError(f"r={header.r}, alpha={header.alpha}, num_chunks={header.num_chunks}")
        return header
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged: its header cannot be read ({type(error).__name__}: {error})"
        ) from error
