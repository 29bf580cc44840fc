"""What can be done with addressed memories without a model: measure, compare, merge."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from sfv.fast.addressed import AddressedState, merge
from sfv.fast.memory_algebra import LayerDifference, check_base, check_weights, merged_parts
from sfv.fast.memory_file import StoredMemory

SHAPE = "shape"
"""Name of the tensor that holds c, h, w; the other tensors of a memory are its state."""


def state_of(memory: StoredMemory) -> AddressedState:
    """W, P and λ of a stored memory.

    Raises:
        ValueError: the tensors do not fit each other.
    """
    return AddressedState.from_state_dict(
        {name: tensor for name, tensor in memory.weights.items() if name != SHAPE}
    )


def difference(first: StoredMemory, second: StoredMemory) -> LayerDifference:
    """Compare what two memories hold, W.

    Raises:
        ValueError: they belong to different models, or differ in the size of keys or latents.
    """
    _check_alike([first, second])
    one, two = (memory.weights["weights"].double() for memory in (first, second))
    norms = float(one.norm()), float(two.norm())
    product = norms[0] * norms[1]
    cosine = float((one * two).sum()) / product if product else math.nan
    return LayerDifference(*norms, float((one - two).norm()), cosine)


def merge_addressed(memories: Sequence[StoredMemory], weights: Sequence[float]) -> StoredMemory:
    """Join memories into one, as if the frames of all were written into the first; exact up to rounding.

    Poses are taken as they are, so all episodes must have begun at one place and heading: a pose is
    relative to the frame that its episode began with. The result stands where the first one stands and
    goes on from its newest frames.

    Args:
        memories: of one base model, with equal keys, ridge and latents.
        weights: how many times the frames of each count; 0 or more.

    Raises:
        ValueError: they do not fit together, or a weight is out of its range.
    """
    _check_alike(memories)
    check_weights(memories, weights)
    first = memories[0]
    state = merge([state_of(memory) for memory in memories], weights)
    origin = f"merged from {merged_parts(memories, weights)}, as walks from one place and heading"
    name = "+".join(memory.header.episode for memory in memories)
    header = replace(first.header, episode=name, num_chunks=0, origin=origin)
    tensors = {**state.state_dict(), SHAPE: first.weights[SHAPE]}
    return StoredMemory(header, tensors, first.extras)


def _check_alike(memories: Sequence[StoredMemory]) -> None:
    check_base(memories)
    first = memories[0]
    for other in memories[1:]:
        sizes = [(m.header.r, tuple(int(n) for n in m.weights[SHAPE])) for m in (first, other)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"memory {first.header.episode!r} has (key size, latents) {sizes[0]}, "
                f"{other.header.episode!r} has {sizes[1]}; give memories of one size"
            )
        if not torch.equal(first.weights["ridge"], other.weights["ridge"]):
            raise ValueError(
                f"memory {first.header.episode!r} has the ridge {first.header.alpha:g}, "
                f"{other.header.episode!r} has {other.header.alpha:g}; give memories of one ridge"
            )
