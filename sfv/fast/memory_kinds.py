"""What `sfv memory` does differently for each kind of memory: one table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sfv.fast.addressed_algebra import difference as addressed_difference
from sfv.fast.addressed_algebra import merge_addressed
from sfv.fast.memory_algebra import (
    LayerDifference,
    MergeMethod,
    difference,
    drift,
    merge,
    total,
)
from sfv.fast.memory_file import StoredMemory
from sfv.types import MemoryKind

Merge = Callable[
    [Sequence[StoredMemory], Sequence[float], MergeMethod | None, int | None],
    tuple[StoredMemory, str],
]


@dataclass(frozen=True)
class KindOfMemory:
    """What is said of a memory of one kind, and how two of them are compared and merged.

    Args:
        sizes: numbers that stand in a list, by name.
        layers: norm of each layer that it moves; empty where it moves none.
        differences: of two memories, by layer.
        merge: memories, weights, method and rank to the merged memory and what was made, in words.
    """

    sizes: Callable[[StoredMemory], dict[str, Any]]
    layers: Callable[[StoredMemory], dict[str, float]]
    differences: Callable[[StoredMemory, StoredMemory], dict[str, LayerDifference]]
    merge: Merge


def kind_of(memories: Sequence[StoredMemory]) -> KindOfMemory:
    """The row of `KINDS` for memories that are to be held against each other.

    Raises:
        ValueError: they are of different kinds.
    """
    first = memories[0].header
    for other in memories[1:]:
        if other.header.kind != first.kind:
            raise ValueError(
                f"memory {first.episode!r} is of kind {first.kind}, {other.header.episode!r} of kind "
                f"{other.header.kind}; give memories of one kind"
            )
    return KINDS[first.kind]


def _lora_sizes(memory: StoredMemory) -> dict[str, Any]:
    header = memory.header
    norms = drift(memory)
    return {"rank": header.r, "scale": header.scale, "drift": total(list(norms.values()))}


def _addressed_sizes(memory: StoredMemory) -> dict[str, Any]:
    norm = float(memory.weights["weights"].double().norm())
    return {"key_size": memory.header.r, "ridge": memory.header.alpha, "norm": norm}


def _merge_loras(
    memories: Sequence[StoredMemory],
    weights: Sequence[float],
    method: MergeMethod | None,
    rank: int | None,
) -> tuple[StoredMemory, str]:
    merged, lost = merge(memories, weights, method or "svd", rank)
    made = f"rank {merged.header.r}, {merged.header.origin}"
    return merged, f"{made}; lost {100 * lost:.2f} % of the update"


def _merge_addressed(
    memories: Sequence[StoredMemory],
    weights: Sequence[float],
    method: MergeMethod | None,
    rank: int | None,
) -> tuple[StoredMemory, str]:
    if method is not None or rank is not None:
        raise ValueError(
            f"method is {method}, rank is {rank}, but addressed memories have no rank and merge exactly; "
            "leave both out"
        )
    merged = merge_addressed(memories, weights)
    return merged, f"key size {merged.header.r}, {merged.header.origin}"


KINDS: dict[MemoryKind, KindOfMemory] = {
    "temp_lora": KindOfMemory(_lora_sizes, drift, difference, _merge_loras),
    "addressed": KindOfMemory(
        _addressed_sizes,
        lambda _: {},
        lambda first, second: {"W": addressed_difference(first, second)},
        _merge_addressed,
    ),
}
"""One line for each kind of memory."""
