"""Activation checkpointing: the backward pass computes a layer again instead of keeping what it needs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

_LAYER = re.compile(r"(^|\.)(transformer_in|(resnets|temp_convs|attentions|temp_attentions)\.\d+)$")


def recompute_activations(denoiser: nn.Module) -> None:
    """Keep only the input of each layer of a video U-Net, from now on.

    Θ has to be active in the backward pass as it was in the forward pass. Modules keep their names, and
    no number changes.

    Raises:
        ValueError: the denoiser has no such layers.
    """
    _recompute(denoiser)


@contextmanager
def recomputing(denoiser: nn.Module, active: bool = True) -> Iterator[None]:
    """`recompute_activations`, undone on the way out.

    Args:
        denoiser: a video U-Net.
        active: False changes nothing.

    Raises:
        ValueError: the denoiser has no such layers.
    """
    layers = _recompute(denoiser) if active else []
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _recompute(denoiser: nn.Module) -> list[nn.Module]:
    """Returns the layers that did not do so before."""
    layers = [module for name, module in denoiser.named_modules() if _LAYER.search(name)]
    if not layers:
        raise ValueError(
            f"activation_checkpointing is on, but {type(denoiser).__name__} has none of the layers of a "
            "video U-Net (resnets, attentions, ...); switch it off"
        )
    new = [layer for layer in layers if "forward" not in vars(layer)]
    for layer in new:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return new
