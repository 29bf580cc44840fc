"""Activation checkpointing: the backward pass computes a layer again instead of keeping what it needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from sfv.backbones.base import Backbone


def recompute_activations(denoiser: Backbone) -> None:
    """Keep only the input of each of a backbone's `recomputed_layers`, from now on.

    Θ has to be active in the backward pass as it was in the forward pass. Modules keep their names, and
    no number changes.

    Raises:
        ValueError: the backbone names none.
    """
    _recompute(denoiser)


@contextmanager
def recomputing(denoiser: Backbone, active: bool = True) -> Iterator[None]:
    """`recompute_activations`, undone on the way out.

    Args:
        denoiser: a backbone.
        active: False changes nothing.

    Raises:
        ValueError: the backbone names none.
    """
    layers = _recompute(denoiser) if active else []
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _recompute(denoiser: Backbone) -> list[nn.Module]:
    """Returns the layers that did not do so before."""
    layers = denoiser.recomputed_layers()
    if not layers:
        raise ValueError(
            f"activation_checkpointing is on, but {type(denoiser).__name__} names no layers to recompute; "
            "switch it off, or define recomputed_layers"
        )
    new = [layer for layer in layers if "forward" not in vars(layer)]
    for layer in new:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return new
