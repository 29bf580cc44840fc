"""What can be done with memories of the temporal LoRA without a model: measure, compare, merge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sfv.fast.lora_math import compress, delta_inner, delta_norm, join_pairs
from sfv.fast.memory_check import require_finite
from sfv.fast.memory_file import MemoryHeader, StoredMemory

MergeMethod = Literal["svd", "cat"]


@dataclass(frozen=True)
class LayerDifference:
    """Two memories in one layer: the norms of their updates, of what differs, and the cosine.

    Args:
        first: ‖ΔW₁‖; ‖W₁‖ of an addressed memory, and likewise below.
        second: ‖ΔW₂‖.
        between: ‖ΔW₁ - ΔW₂‖.
        cosine: ⟨ΔW₁, ΔW₂⟩ / (‖ΔW₁‖ ‖ΔW₂‖); NaN where one is zero.
    """

    first: float
    second: float
    between: float
    cosine: float


def drift(memory: StoredMemory) -> dict[str, float]:
    """‖ΔW‖ of every layer."""
    scale = memory.header.scale
    return {name: delta_norm(a, b, scale) for name, (a, b) in memory.layers.items()}


def total(norms: Sequence[float]) -> float:
    """Norm over all layers together."""
    return math.sqrt(sum(norm**2 for norm in norms))


def difference(first: StoredMemory, second: StoredMemory) -> dict[str, LayerDifference]:
    """Compare two memories layer by layer; their ranks may differ.

    Raises:
        ValueError: they belong to different models or layers.
    """
    check_alike([first, second])
    scales = (first.header.scale, second.header.scale)
    found = {}
    for name, mine in first.layers.items():
        theirs = second.layers[name]
        norms = delta_norm(*mine, scales[0]), delta_norm(*theirs, scales[1])
        inner = delta_inner(mine, theirs, scales)
        product = norms[0] * norms[1]
        joined = join_pairs([mine, theirs], [scales[0], -scales[1]])
        cosine = inner / product if product else math.nan
        found[name] = LayerDifference(*norms, delta_norm(*joined, 1.0), cosine)
    return found


def merge(
    memories: Sequence[StoredMemory],
    weights: Sequence[float],
    method: MergeMethod = "svd",
    rank: int | None = None,
) -> tuple[StoredMemory, float]:
    """Join memories into one whose update is the weighted sum of theirs.

    Args:
        memories: of one base model and the same layers; their ranks may differ.
        weights: what each one's update is multiplied by.
        method: `cat` is exact, and its rank is the sum of theirs. `svd` is the nearest of a given rank.
        rank: of the result, for `svd`; None takes the largest of theirs.

    Returns:
        the memory, without an optimiser's state or frames to go on from, and ‖lost‖ / ‖ΔW‖ over all layers.

    Raises:
        ValueError: they do not fit together, or a number is out of its range.
    """
    check_alike(memories)
    check_weights(memories, weights)
    ranks = [memory.header.r for memory in memories]
    if method == "cat" and rank is not None:
        raise ValueError(f"the method cat has rank {sum(ranks)}; leave rank {rank} out or use svd")
    rank = sum(ranks) if method == "cat" else max(ranks) if rank is None else rank
    if not 1 <= rank <= sum(ranks):
        raise ValueError(f"the rank of the merged memory is {rank}; allowed: 1 to {sum(ranks)}")
    scales = [w * m.header.scale for w, m in zip(weights, memories, strict=True)]
    tensors: dict[str, Tensor] = {}
    whole, lost = 0.0, 0.0
    for name in memories[0].layers:
        a, b = join_pairs([memory.layers[name] for memory in memories], scales)
        require_finite({name: a}, "the weighted sum")
        size = delta_norm(a, b, 1.0)
        if method == "svd":
            (a, b), share = compress(a, b, rank)
            lost += (share * size) ** 2
        whole += size**2
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a, b
    header = _merged_header(memories, weights, rank)
    return StoredMemory(header, tensors), math.sqrt(lost / whole) if whole else 0.0


def check_alike(memories: Sequence[StoredMemory]) -> None:
    """Refuse memories that cannot be held against each other.

    Raises:
        ValueError: base models or layers differ.
    """
    first = memories[0]
    check_base(memories)
    for other in memories[1:]:
        if other.layers.keys() != first.layers.keys():
            raise ValueError(
                f"memory {first.header.episode!r} has {len(first.layers)} adapted layers, "
                f"{other.header.episode!r} has {len(other.layers)} (other targets?); give memories of the "
                "same layers"
            )
        for name, (a, b) in first.layers.items():
            x, y = other.layers[name]
            if (a.shape[1:], len(b)) != (x.shape[1:], len(y)):
                raise ValueError(
                    f"layer {name!r} has other sizes in memory {first.header.episode!r} than in "
                    f"{other.header.episode!r}; give memories of the same layers"
                )


def check_base(memories: Sequence[StoredMemory]) -> None:
    """Refuse memories of different models.

    Raises:
        ValueError: base models differ.
    """
    first = memories[0].header
    for other in memories[1:]:
        if other.header.base != first.base:
            raise ValueError(
                f"memory {first.episode!r} was learned on base model {first.base}, "
                f"{other.header.episode!r} on {other.header.base}; give memories of one model"
            )


def check_weights(memories: Sequence[StoredMemory], weights: Sequence[float]) -> None:
    """Refuse weights of a merge that are not finite, or not one for each memory.

    Raises:
        ValueError: they are.
    """
    if not all(map(math.isfinite, weights)):
        raise ValueError(
            f"the weights of the memories are {list(weights)}; allowed: finite numbers"
        )
    if len(weights) != len(memories):
        raise ValueError(f"{len(memories)} memories need as many weights, got {list(weights)}")


def merged_parts(memories: Sequence[StoredMemory], weights: Sequence[float]) -> str:
    """What a memory was merged from, in words."""
    headers = [memory.header for memory in memories]
    return ", ".join(
        f"{w:g} x {h.episode} ({h.num_chunks} chunks)"
        for w, h in zip(weights, headers, strict=True)
    )


def _merged_header(
    memories: Sequence[StoredMemory], weights: Sequence[float], rank: int
) -> MemoryHeader:
    headers = [memory.header for memory in memories]
    settings = dict(headers[0].settings)
    if isinstance(settings.get("lora"), dict):
        settings["lora"] = {**settings["lora"], "r": rank, "alpha": float(rank)}
    return MemoryHeader(
        headers[0].base,
        "+".join(header.episode for header in headers),
        0,
        rank,
        float(rank),
        f"merged from {merged_parts(memories, weights)}",
        settings,
    )
