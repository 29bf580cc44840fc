"""Memories: stored fast weights Θ of one episode, as safetensors files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfv.models.weight_files import write_tensors

FORMAT = "sfv.memory/1"


@dataclass(frozen=True)
class MemoryHeader:
    """What a memory belongs to.

    Args:
        base: fingerprint of the base model Φ that Θ was learned on.
        episode: name of the episode.
        num_chunks: chunk pairs learned so far.
    """

    base: str
    episode: str
    num_chunks: int


def save_memory(path: Path, state: dict[str, Tensor], header: MemoryHeader) -> None:
    """Write Θ with its header; whole or not at all."""
    metadata = {"format": FORMAT, "header": json.dumps(asdict(header), sort_keys=True)}
    write_tensors(path, state, metadata)


def load_memory(path: Path, base: str) -> tuple[dict[str, Tensor], MemoryHeader]:
    """Read Θ for the base model with fingerprint `base`.

    Raises:
        ValueError: the file is no memory, or it was learned on another base model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable memory file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}; a memory has format {FORMAT!r}"
        )
    header = MemoryHeader(**json.loads(metadata["header"]))
    if header.base != base:
        raise ValueError(
            f"memory {path} was learned on base model {header.base}, but the model given is {base}; "
            "load the model that the memory belongs to"
        )
    return state, header
