"""Settings of training that cost or save time and memory and leave the numbers as they are."""

import re
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from sfv.training.sharding import blocks_of

_LAYER = re.compile(r"(^|\.)(transformer_in|(resnets|temp_convs|attentions|temp_attentions)\.\d+)$")


def recompute_activations(denoiser: nn.Module) -> None:
    """Keep only the input of each layer of a video U-Net; the backward pass computes the layer again.

    Θ has to be active then as it was in the forward pass. Modules keep their names.

    Raises:
        ValueError: the denoiser has no such layers.
    """
    layers = [module for name, module in denoiser.named_modules() if _LAYER.search(name)]
    if not layers:
        raise ValueError(
            f"activation_checkpointing is on, but {type(denoiser).__name__} has none of the layers of a "
            "video U-Net (resnets, attentions, ...); switch it off"
        )
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_blocks(denoiser: nn.Module, backend: str) -> None:
    """Compile each large block of a video U-Net, so that shards are still gathered block by block.

    Raises:
        ValueError: the denoiser has no such blocks.
    """
    blocks = blocks_of(denoiser)
    if not blocks:
        raise ValueError(
            f"compile_backend is {backend!r}, but {type(denoiser).__name__} has none of the blocks of a "
            "video U-Net; set it to null"
        )
    for block in blocks:
        block.compile(backend=backend)
